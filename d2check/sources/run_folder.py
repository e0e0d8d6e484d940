"""The folder that `d2check run` writes: raw values of every iteration, facts, and an ending."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from d2check.config.load import load_config
from d2check.errors import InputError
from d2check.model import Config, Ending, EndingKind, Event, Phase, Run, Scalar, Series
from d2check.probe import wire
from d2check.sources._forecast import memory_facts, why_not_tried
from d2check.sources._histogram import class_facts

# Groups of numbers inside an "iter" record, and how their names read as series.
_GROUPS: Mapping[str, Mapping[str, str]] = {
    "scalars": {},
    "memory": {},
    "batch": {
        "images": "batch_images",
        "instances": "batch_instances",
        "most_instances": "batch_most_instances",
        "max_height": "batch_max_height",
        "max_width": "batch_max_width",
    },
}
FIRST_FILES = (wire.PLAN, wire.RECORDS)
_LOSS = re.compile(r"(^|[_/])loss|loss($|[_/])", re.IGNORECASE)
_NOT_SERIES = {"t", "i", "clock", "rank"}
ENDED_EARLY = "ended-early"
_EXPECTED = "a folder written by `d2check run`"


@dataclass
class _Records:
    """What one rank wrote."""

    world_size: int = 1
    facts: dict[str, Scalar] = field(default_factory=dict)
    iterations: list[int] = field(default_factory=list)
    clocks: list[float] = field(default_factory=list)
    samples: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)
    phases: list[tuple[str, int]] = field(default_factory=list)
    trials: list[Mapping[str, Any]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    end: Mapping[str, Any] | None = None
    begun: bool = False
    malformed_lines: int = 0


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
        raise InputError(str(path), "no records.jsonl in it", _EXPECTED, "Check the path")
    ranks = {0: _records(path / wire.RECORDS)}
    for other in sorted(path.glob("records.rank*.jsonl")):
        number = other.name.removeprefix("records.rank").removesuffix(".jsonl")
        if number.isdigit():
            ranks[int(number)] = _records(other)
    last = _last_judged(ranks[0])
    config, reason = _config(path, begun=ranks[0].begun)
    run = replace(
        _run(path, ranks, config, reason),
        ending=_ending(path, ranks[0], last),
        phases=_phases(ranks[0], last, _json_object(path / wire.PLAN)),
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
        self._records = _Records()
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
            _take(self._records, record, wire.RECORDS)
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
    path: Path, ranks: Mapping[int, _Records], config: Config | None, no_config: str | None
) -> Run:
    """The run without its ending, its phases and what other files tell."""
    main = ranks[0]
    series = _series(main)
    for rank, records in ranks.items():
        if rank:
            own = {name: one for name, one in _series(records).items() if name not in series}
            timed = {n: o for n, o in _series(records).items() if n.endswith(("_s", "_mib"))}
            series |= {f"rank{rank}/{name}": one for name, one in (own | timed).items()}
    last = _last_judged(main)
    if last is not None and last != main.iterations[-1]:
        cut = {name: one.between(0, last) for name, one in series.items()}
        series = {name: one for name, one in cut.items() if len(one)}
    facts: dict[str, Scalar] = {}
    if main.begun:
        facts = {"world_size": main.world_size, **main.facts}
    absent = {"config": no_config} if no_config else {}
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


def _last_judged(records: _Records) -> int | None:
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


# ------------------------------------------------------------------------------- records.jsonl


def _records(path: Path) -> _Records:
    records = _Records()
    try:
        stream = path.open("rb")
    except FileNotFoundError:  # the training ended before its first record
        return records
    except OSError as error:
        raise InputError(
            str(path), f"it cannot be read ({error.strerror})", _EXPECTED, "Check its rights"
        ) from error
    with stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                record = wire.decode(line.decode("utf-8"))
                _take(records, record, f"{path.name}:{number}")
            except (ValueError, TypeError, KeyError, RecursionError):
                records.malformed_lines += 1
    return records


def _take(records: _Records, record: Mapping[str, Any], where: str) -> None:
    """Add one record. Raises ValueError, TypeError or KeyError when it is not what it should be."""
    kind = record["t"]
    if kind == "iter":
        _take_iteration(records, record)
    elif kind == "begin":
        records.begun = True
        records.world_size = int(record.get("world_size") or 1)
        records.facts.update(_scalars(record.get("facts")))
    elif kind == "facts":
        records.facts.update(_scalars(record.get("facts")))
    elif kind == "phase":
        records.phases.append((str(record["name"]), int(record["first_iteration"])))
    elif kind == "trial":
        records.trials.append(record)
    elif kind == "note":
        at = record.get("i")
        at = at if isinstance(at, int) else None
        records.events.append(Event(str(record["kind"]), str(record["message"]), at, where))
        if record["kind"] == "dataset":
            records.facts.update(_of_data_set(record))
    elif kind == "end":
        records.end = {**record, "read_from": where}


def _of_data_set(note: Mapping[str, Any]) -> dict[str, Scalar]:
    counts = note.get("instances")
    counted = counts if isinstance(counts, Mapping) else {}
    facts = class_facts({str(k): n for k, n in counted.items() if isinstance(n, int)})
    return {**facts, **_scalars({"object_size_px": note.get("object_size_px")})}


def _take_iteration(records: _Records, record: Mapping[str, Any]) -> None:
    at = record["i"]
    if not isinstance(at, int) or isinstance(at, bool) or at < 0:
        raise ValueError("an iteration without its number")
    if records.iterations and at <= records.iterations[-1]:
        raise ValueError("iterations of one recording only rise")
    numbers: dict[str, float] = {}
    for key, value in record.items():
        if key in _NOT_SERIES or value is None:
            continue
        if isinstance(value, Mapping):
            names = _GROUPS.get(key, {})
            for name, inner in value.items():
                if inner is not None:
                    numbers[names.get(name, name)] = _number(inner)
        elif not isinstance(value, (list, bool)):
            numbers[key] = _number(value)
    clock = _number(record["clock"]) if record.get("clock") is not None else math.nan
    records.iterations.append(at)
    records.clocks.append(clock)
    for name, number in numbers.items():
        where, values = records.samples.setdefault(name, ([], []))
        where.append(at)
        values.append(number)


def _number(value: Any) -> float:
    try:
        return wire.number(value)
    except OverflowError as error:
        raise ValueError("a number beyond all bounds") from error


def _scalars(facts: Any) -> dict[str, Scalar]:
    if not isinstance(facts, Mapping):
        return {}
    plain = {k: v for k, v in facts.items() if isinstance(v, (bool, int, float, str))}
    return {str(key): value for key, value in plain.items()}


# ------------------------------------------------------------------------------- to a Run


def _series(records: _Records) -> dict[str, Series]:
    series = {
        name: Series(name, np.array(where, np.int64), np.array(values), _every(where))
        for name, (where, values) in records.samples.items()
    }
    at = np.array(records.iterations, np.int64)
    clock = np.array(records.clocks, np.float64)
    total, hooks = series.get("total_s"), series.get("hooks_s")
    if len(at) and np.isfinite(clock).all():
        begin = clock[0] - (total.values[0] if total is not None else 0.0)
        series["clock"] = Series("clock", at, clock)
        series["wall_s"] = Series("wall_s", at, clock - begin)
    if "data_time" not in series and "data_s" in series:
        one = series["data_s"]
        series["data_time"] = Series("data_time", one.iterations, one.values, one.every)
    if "time" not in series and total is not None and hooks is not None:
        # IterationTimer stops before the other hooks' after_step (engine/hooks.py).
        if np.array_equal(total.iterations, hooks.iterations):
            values = total.values - hooks.values
            series["time"] = Series("time", total.iterations, values, total.every)
    return series


def _every(iterations: Sequence[int]) -> int:
    return int(np.median(np.diff(iterations))) if len(iterations) > 1 else 1


def _phases(
    records: _Records, last: int | None, plan: Mapping[str, Any] | None
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


def _ending(path: Path, records: _Records, last: int | None) -> Ending:
    told = _json_object(path / wire.ENDING)
    end = records.end
    if told is not None and told.get("kind") in {kind.value for kind in EndingKind}:
        stage = told.get("stage") or (end or {}).get("stage")
        return _worded_ending(EndingKind(told["kind"]), {**told, "stage": stage}, wire.ENDING, last)
    if end is not None:
        return _worded_ending(_kind_of_record(end), end, str(end["read_from"]), last)
    return Ending(
        EndingKind.UNKNOWN,
        last,
        message="the folder tells no ending: d2check itself was ended, or the run still goes on",
        read_from=path.name,
    )


def _worded_ending(
    kind: EndingKind, told: Mapping[str, Any], read_from: str, last: int | None
) -> Ending:
    at = told.get("iteration", told.get("i"))
    signal = told.get("signal")
    error = told.get("error") or (str(signal) if signal else None)
    lines = told.get("traceback")
    return Ending(
        kind,
        at if isinstance(at, int) else last,
        error=str(error) if error else None,
        message=str(told["message"]) if told.get("message") else None,
        traceback=tuple(map(_frame, lines)) if isinstance(lines, list) else (),
        read_from=read_from,
        stage=str(told["stage"]) if told.get("stage") else None,
    )


def _frame(frame: Any) -> str:
    """One line of a traceback, whether it was kept as text or as [file, line, function, source]."""
    if isinstance(frame, list) and len(frame) == 4:
        file, line, function, source = frame
        return f"{file}:{line} in {function}: {source}"
    return str(frame)


def _kind_of_record(end: Mapping[str, Any]) -> EndingKind:
    kind = end.get("kind")
    if kind != "crashed":
        return EndingKind(kind) if kind in ("stopped", "finished") else EndingKind.UNKNOWN
    error, message = str(end.get("error")), str(end.get("message"))
    if "OutOfMemory" in error or "out of memory" in message:
        return EndingKind.OUT_OF_MEMORY
    if error == "FloatingPointError" or "contain Inf/NaN" in message:
        return EndingKind.NON_FINITE
    return EndingKind.INTERRUPTED if error == "KeyboardInterrupt" else EndingKind.CRASHED


def _folder_events(path: Path, ranks: Mapping[int, _Records]) -> tuple[Event, ...]:
    found = []
    failed = (_json_object(path / wire.ENDING) or {}).get("recording_failed")
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


def _json_object(path: Path) -> Mapping[str, Any] | None:
    """The object in a small JSON file; None when the file is not there, cut, or no object."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
