"""The folder that `d2check run` writes: raw values of every iteration, facts, and an ending."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from d2check.config.load import load_config
from d2check.errors import InputError
from d2check.model import Config, Ending, EndingKind, Event, Phase, Run, Scalar, Series
from d2check.probe import wire
from d2check.sources._forecast import memory_facts, why_not_tried
from d2check.sources.run_folder.endings import ending_of, json_object
from d2check.sources.run_folder.records import EXPECTED, Records, read_records, series_of, take

FIRST_FILES = (wire.PLAN, wire.RECORDS)
# Run folders inside a run folder: trained with the proposed changes, and again without them.
WITH_FIX, CONTROL = "with-fix", "control"
ENDED_EARLY = "ended-early"
_OF_EACH_RANK = re.compile(r"(_s|_mib)$|^given_image_\d+$")
_LOSS = re.compile(r"(^|[_/])loss|loss($|[_/])", re.IGNORECASE)


def is_run_folder(path: Path) -> bool:
    """Whether the folder holds what `d2check run` writes first."""
    return any((path / name).is_file() for name in FIRST_FILES)


def read_run_folder(path: Path) -> tuple[Run, ...]:
    """The one run of a run folder, however far it came.

    Series hold raw values. Beside the storage's scalars there are `total_s`, `data_s` and the
    other phases in seconds, memory in MiB, the batch's size, `clock` (seconds since 1970) and
    `wall_s` (seconds since the first iteration began); those of rank 1 are `rank1/total_s` ...
    `time` and `data_time` keep Detectron2's meaning. A line that is cut or garbled is counted.
    Raises InputError for a folder in which nothing can be read.
    """
    if not is_run_folder(path):
        raise InputError(str(path), "no records.jsonl in it", EXPECTED, "Check the path")
    ranks = {0: read_records(path / wire.RECORDS)}
    for other in sorted(path.glob("records.rank*.jsonl")):
        number = other.name.removeprefix("records.rank").removesuffix(".jsonl")
        if number.isdigit():
            ranks[int(number)] = read_records(other)
    last = _last_judged(ranks[0])
    config, reason = _config(path, begun=ranks[0].begun)
    run = replace(
        _run(path, ranks, config, reason),
        ending=ending_of(path, ranks[0], last),
        phases=_phases(ranks[0], last, json_object(path / wire.PLAN)),
    )
    told = memory_facts(path, run.series, run.facts, ranks[0].trials, run.phases)
    return (
        replace(
            run,
            facts={**run.facts, **told},
            absent={**why_not_tried(run.events), **run.absent},
            events=(*run.events, *_folder_events(path, ranks)),
        ),
    )


class GrowingRun:
    """The run of a folder that is being written, from the records of rank 0 as they come."""

    def __init__(self, folder: Path) -> None:
        """Nothing is read yet."""
        self._folder = folder
        self._records = Records()
        self._config: Config | None = None

    @property
    def iterations(self) -> int:
        """How many were recorded so far."""
        return len(self._records.iterations)

    @property
    def phase(self) -> str | None:
        """The phase that the latest record is of, where phases are marked."""
        return self._records.phases[-1][0] if self._records.phases else None

    def take(self, record: Mapping[str, Any]) -> None:
        """Add one record; one that is not what it should be is left out."""
        try:
            take(self._records, record, wire.RECORDS)
        except (ValueError, TypeError, KeyError):
            return

    def run(self) -> Run:
        """All that was recorded until now, as of a training that still runs."""
        if self._config is None and self._records.begun:  # the probe writes it before it begins
            self._config = _config(self._folder, begun=True)[0]
        last = _last_judged(self._records)
        return replace(
            _run(self._folder, {0: self._records}, self._config, None),
            ending=Ending(EndingKind.RUNNING, last),
            phases=_phases(self._records, last, None),
        )


def _run(
    path: Path, ranks: Mapping[int, Records], config: Config | None, no_config: str | None
) -> Run:
    """The run without its ending, its phases and what other files tell."""
    main = ranks[0]
    series = series_of(main)
    for rank, records in ranks.items():
        if rank:
            own = {name: one for name, one in series_of(records).items() if name not in series}
            both = {n: o for n, o in series_of(records).items() if _OF_EACH_RANK.search(n)}
            series |= {f"rank{rank}/{name}": one for name, one in (own | both).items()}
    last = _last_judged(main)
    if last is not None and last != main.iterations[-1]:
        cut = {name: one.between(0, last) for name, one in series.items()}
        series = {name: one for name, one in cut.items() if len(one)}
    facts: dict[str, Scalar] = {}
    if main.begun:
        facts = {"world_size": main.world_size, **main.facts}
    absent = {**main.absent, **({"config": no_config} if no_config else {})}
    if any(event.kind == "own-loop" for event in main.events):
        series.pop("hooks_s", None)
        absent["hooks_s"] = "the script has a loop of its own, whose hooks are not told apart"
    made_for = facts.get("configured_for")
    if isinstance(made_for, int) and made_for > main.world_size:
        facts, absent = _as_configured(facts, absent, series, made_for, main.world_size)
    return Run(
        source=str(path),
        series=series,
        facts=facts,
        config=config,
        events=tuple(main.events),
        rows=len(main.iterations),
        malformed_lines=sum(records.malformed_lines for records in ranks.values()),
        absent=absent,
    )


def _last_judged(records: Records) -> int | None:
    """The last iteration of a run; of one that ended early, that by which its verdict was certain.

    Some more are made until all ranks have ended, and a verdict that ended the run must stand.
    """
    if not records.iterations:
        return None
    early = (e.iteration for e in records.events if e.kind == ENDED_EARLY)
    return min([records.iterations[-1], *(at for at in early if at is not None)])


def _as_configured(
    facts: dict[str, Scalar],
    absent: dict[str, str],
    series: dict[str, Series],
    made_for: int,
    processes: int,
) -> tuple[dict[str, Scalar], dict[str, str]]:
    """Facts of the training that the config is for, of which some GPUs' share was run here.

    What a GPU does and needs is the same there. The losses are not: they are those of another
    batch, so they leave the series. Batch and epochs are then the config's.
    """
    ran = {"processes": processes, "images_per_step": facts.get("images_per_batch")}
    rest = {name: value for name, value in facts.items() if name != "images_per_batch"}
    reason = (
        f"only the share of {processes} of {made_for} GPUs was trained, and the losses of the "
        "whole batch go another way"
    )
    lost = [name for name in series if _LOSS.search(name)]
    for name in lost:
        del series[name]
    return {**rest, **ran, "world_size": made_for}, {
        **absent,
        **dict.fromkeys([*lost, "total_loss", "losses"], reason),
    }


def _phases(
    records: Records, last: int | None, plan: Mapping[str, Any] | None
) -> tuple[Phase, ...]:
    if last is None:
        return ()
    marked = records.phases
    if not marked and plan and isinstance(plan.get("phases"), list) and len(plan["phases"]) == 1:
        first = plan["phases"][0]
        if isinstance(first, Mapping) and isinstance(first.get("name"), str):
            marked = [(first["name"], records.iterations[0])]
    if not marked:
        return ()
    ends = [begin - 1 for _, begin in marked[1:]] + [last]
    return tuple(
        Phase(name, begin, end)
        for (name, begin), end in zip(marked, ends, strict=True)
        if end >= begin
    )


def _folder_events(path: Path, ranks: Mapping[int, Records]) -> tuple[Event, ...]:
    found = []
    failed = (json_object(path / wire.ENDING) or {}).get("recording_failed")
    if failed:
        found.append(Event("recording-failed", str(failed), read_from=wire.ENDING))
    counts = {rank: len(records.iterations) for rank, records in ranks.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"rank {rank}: {count}" for rank, count in sorted(counts.items()))
        found.append(Event("ranks-differ", f"iterations recorded by {told}", read_from=path.name))
    return tuple(found)


def _config(path: Path, *, begun: bool) -> tuple[Config | None, str | None]:
    try:
        return load_config(path / wire.CONFIG, within=path), None
    except InputError as error:
        if not (path / wire.CONFIG).exists():
            if begun:
                return None, "the training script showed no config"
            return None, "the training ended before its config was known"
        return None, f"its config cannot be read: {error.found}"
