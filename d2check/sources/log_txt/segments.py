"""From starts to trainings: numbers to series, evidence to facts, events and an ending."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from d2check.config.load import config_from_text
from d2check.config.schedule import for_world_size, planned_iterations
from d2check.errors import InputError
from d2check.model import Config, Ending, EndingKind, Event, Scalar, Series
from d2check.sources._every import every_of
from d2check.sources.log_txt.endings import LastSeen, last_seen
from d2check.sources.log_txt.start import Evaluation, Start
from d2check.sources.log_txt.tracebacks import KILLED_WORKER

WINDOW = 20  # CommonMetricPrinter: median(20) and avg(20) since v0.1
_SAYS_NOTHING = (EndingKind.UNKNOWN, EndingKind.TRUNCATED)
_RAW = frozenset({"lr", "eta_s", "max_mem", "last_time", "last_data_time"})

_SIZE = r"([\d.]+) ?([KMGT]i?B|bytes)"
_TRIED = re.compile(r"[Tt]ried to allocate " + _SIZE)
_CAPACITY = re.compile(_SIZE + r" total ?capacity|total capacity of " + _SIZE)
_RESERVED = re.compile(_SIZE + r" reserved in total")
_ALLOCATED = re.compile(_SIZE + r" already allocated|" + _SIZE + r" is allocated by PyTorch")
_FREE = re.compile(_SIZE + r" free|of which " + _SIZE + r" is free")
_MIB = {"bytes": 2**-20, "K": 2**-10, "M": 1.0, "G": 1024.0, "T": 1024.0**2}
_LAST_KEY = "VERSION"  # keys are printed in their order; VIS_PERIOD alone stands behind it
_BAD_LOSS = re.compile(r"'([^']+)': (?:tensor\()?(-?inf|nan)")


@dataclass(frozen=True, eq=False)
class LogSegment:
    """One training of a log, resumes that go on with its counter included.

    series: losses and other metrics as medians of 20 iterations, `data_time` as their mean, `time`
    as the mean since the process started (window: the longest such stretch), `last_time`,
    `last_data_time` and `lr` raw, `max_mem` MiB so far, `eta_s` seconds, `wall_s` seconds since
    the loop began, to the second; results of evaluations under metrics.json's names.
    planned_iterations: told by its config, by auto-scaling or by the row; planned_about: from the
    last eta. config: the dump inside the log, of this very start. began: a loop started.
    class_instances: class -> boxes in the training set (long names shortened by Detectron2).
    starts_s, ends_s: stamps of the first line of each of its processes and of the last line of all,
    in seconds since an arbitrary moment (of a year that is not known where the stamps name none);
    wall_begin_s: the stamp that `wall_s` counts from. NaN where there are no stamps. other_ends:
    what other captures of the same console tell of its end. files: names of all of them.
    """

    series: Mapping[str, Series]
    rows: int
    period: int
    start_iteration: int | None
    planned_iterations: int | None
    planned_about: int | None
    last_training: int | None
    began: bool
    facts: Mapping[str, Scalar]
    config: Config | None
    class_instances: Mapping[str, int]
    events: tuple[Event, ...]
    malformed_lines: int
    first_line: int
    last_line: int
    read_from: str
    last_seen: LastSeen = field(repr=False)
    starts_s: tuple[float, ...] = ()
    ends_s: float = math.nan
    wall_begin_s: float = math.nan
    other_ends: tuple[LastSeen, ...] = field(default=(), repr=False)
    files: tuple[str, ...] = ()

    def ending(self, planned_iterations: int | None) -> Ending:
        """How it ended, when this many iterations were planned (None: as the log itself tells)."""
        planned = planned_iterations or self.planned_iterations
        told = [one.ending(planned) for one in (self.last_seen, *self.other_ends)]
        return next((one for one in told if one.kind not in _SAYS_NOTHING), told[0])

    @property
    def torn_out(self) -> bool:
        """Whether neither its start nor its end is there: rows copied out of a log."""
        return all(one.torn_out for one in (self.last_seen, *self.other_ends))


def segments_of(starts: Sequence[Start]) -> tuple[LogSegment, ...]:
    """The trainings among the starts, in file order.

    A start that never trained (an evaluation, a crash of the set-up that the file does not show)
    leaves an event with the training before it, or the first.
    """
    groups: list[list[Start]] = []
    idle: list[tuple[int, Start]] = []
    for start in starts:
        if groups and _continues(start, groups[-1][-1]):
            groups[-1].append(start)
        elif (
            start.has_begun
            or start.stale_iteration is not None
            or start.crashes
            or start.killed is not None
        ):
            groups.append([start])
        elif not start.evaluation_only and (start.headings or start.ranks):
            idle.append((max(len(groups) - 1, 0), start))
    found = [_segment(group) for group in groups]
    for number, segment in enumerate(found):
        mine = [start for at, start in idle if at == number]
        if mine:
            text = f"{len(mine)} start{'s' if len(mine) > 1 else ''} that never came to train"
            event = Event("failed-start", text, read_from=f"{mine[0].name}:{mine[0].line}")
            found[number] = replace(segment, events=(*segment.events, event))
    return tuple(found)


def setup_of(starts: Sequence[Start]) -> LogSegment | None:
    """What is told of a training that the lines do not show: its data, its weights, its config.

    None when they tell nothing of the kind. Of several starts the last one.
    """
    for start in reversed(starts):
        told = start.facts.keys() - {"world_size", "seed", "command", "gpus_asked"}
        if not start.evaluation_only and (
            told
            or start.events
            or start.evaluations
            or start.config_text
            or start.skipped
            or start.missing
        ):
            return _segment([start])
    return None


def _continues(start: Start, before: Start) -> bool:
    if not start.start_iteration or before.last_iteration is None:
        return False
    first = min((rows.iterations[0] for rows in start.layouts.values()), default=None)
    return first is not None and first > before.last_iteration


def _segment(group: Sequence[Start]) -> LogSegment:
    last = group[-1]
    series, wall_begin_s = _series(group)
    training = series.get("total_loss")
    if training is None:
        training = next((s for n, s in series.items() if "loss" in n), None)
    facts: dict[str, Scalar] = {}
    for start in group:
        facts |= start.facts
    config = _config(group)
    world_size = facts.get("world_size")
    planned = last.planned
    if planned is None and config is not None:
        known = world_size if isinstance(world_size, int) else None
        planned = planned_iterations(for_world_size(config, known))
    eta, seconds = _final(series, "eta_s", last), _final(series, "time", last)
    seen = last_seen(last, eta, seconds)
    facts |= _memory_facts(seen)
    return LogSegment(
        series=series,
        rows=sum(start.rows for start in group),
        period=training.every if training is not None else WINDOW,
        start_iteration=group[0].start_iteration,
        planned_iterations=planned,
        planned_about=_planned_about(last.last_iteration, eta, seconds),
        last_training=int(training.iterations[-1]) if training is not None else None,
        began=seen.began,
        facts=facts,
        config=config,
        class_instances=dict(last.class_instances),
        events=tuple(_events(group, seen, planned)),
        malformed_lines=sum(start.malformed for start in group),
        first_line=group[0].line,
        last_line=max(last.last_line, last.line),
        read_from=last.name,
        last_seen=seen,
        starts_s=tuple(start.first_s for start in group),
        ends_s=last.last_s,
        wall_begin_s=wall_begin_s,
        files=(last.name,),
    )


# ---------------------------------------------------------------------------------------- series


def _series(group: Sequence[Start]) -> tuple[dict[str, Series], float]:
    """All series of one training, and the stamp that `wall_s` counts from."""
    pieces: dict[str, list[tuple[NDArray[np.int64], NDArray[np.float64]]]] = {}
    clocks: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []
    longest = 1
    for start in group:
        for rows in start.layouts.values():
            # Views of the gathered numbers: a log of gigabytes has no room for copies.
            at = np.frombuffer(rows.iterations, np.int64)
            for column, name in zip(rows.columns, rows.names, strict=True):
                pieces.setdefault(name, []).append((at, np.frombuffer(column, np.float64)))
            clocks.append((at, np.frombuffer(rows.clocks, np.float64)))
        if start.last_iteration is not None:
            longest = max(longest, start.last_iteration + 1 - (start.start_iteration or 0))
    means = set().union(*(start.mean_names for start in group))
    series = {name: _one(name, parts, longest, means) for name, parts in pieces.items()}
    wall, begin = _wall(group, clocks) if clocks else (None, math.nan)
    if wall is not None:
        series["wall_s"] = wall
    series |= _results(group)
    return series, begin


def _one(
    name: str,
    parts: Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]],
    longest: int,
    means: set[str],
) -> Series:
    iterations, values = _ordered(parts)
    every = every_of(iterations, WINDOW)
    if name in _RAW:
        return Series(name, iterations, values, every)
    if name == "time" or name in means:
        return Series(name, iterations, values, every, longest, "mean")
    if name == "data_time":
        return Series(name, iterations, values, every, WINDOW, "mean")
    return Series(name, iterations, values, every, WINDOW, "median")


def _ordered(
    parts: Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Pieces as one, in rising order, of an iteration that was printed twice the last."""
    if len(parts) == 1:
        iterations, values = parts[0]
    else:
        iterations = np.concatenate([at for at, _ in parts])
        values = np.concatenate([v for _, v in parts])
    if (np.diff(iterations) > 0).all():
        return iterations, values
    order = np.argsort(iterations, kind="stable")
    iterations, values = iterations[order], values[order]
    keep = np.append(iterations[1:] != iterations[:-1], True)
    return iterations[keep], values[keep]


def _wall(
    group: Sequence[Start], clocks: Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]]
) -> tuple[Series | None, float]:
    iterations, moments = _ordered(clocks)
    known = np.isfinite(moments)
    if not known.any():
        return None, math.nan
    if not known.all():
        iterations, moments = iterations[known], moments[known]
    began = group[0].began_s
    begin = began if math.isfinite(began) and began <= moments[0] else float(moments[0])
    every = every_of(iterations, WINDOW)
    moments -= begin  # in place: nobody else reads the stamps
    return Series("wall_s", iterations, moments, max(every, 1)), begin


def _results(group: Sequence[Start]) -> dict[str, Series]:
    placed: list[tuple[int, Evaluation]] = []
    for start in group:
        placed += start.placed
        last = start.planned or (start.last_iteration or 0) + 1
        placed += [(last, one) for one in start.waiting]
    several = len({one.dataset for _, one in placed}) > 1
    columns: dict[str, dict[int, float]] = {}
    for iteration, one in placed:
        head = f"{one.dataset}/{one.task}" if several and one.dataset else one.task
        for name, value in one.results:
            columns.setdefault(f"{head}/{name}", {})[iteration] = value
    found = {}
    for name, values in columns.items():
        at = np.array(sorted(values), np.int64)
        every = every_of(at)
        numbers = np.array([values[int(i)] for i in at], np.float64)
        found[name] = Series(name, at, numbers, every)
    return found


def _final(series: Mapping[str, Series], name: str, start: Start) -> float:
    """The value of a series in the last row of a start; NaN when it has none there."""
    one = series.get(name)
    if one is None or start.last_iteration is None or one.iterations[-1] != start.last_iteration:
        return math.nan
    return float(one.values[-1])


def _planned_about(last: int | None, eta_s: float, iteration_s: float) -> int | None:
    if last is None or not iteration_s > 0 or not math.isfinite(eta_s):
        return None
    return last + 1 + round(eta_s / iteration_s)


# -------------------------------------------------------------------------------- facts and events


def _config(group: Sequence[Start]) -> Config | None:
    for start in reversed(group):
        if start.config_text:
            try:
                text = "\n".join(start.config_text)
                config = config_from_text(text, f"{start.name}:{start.line}")
            except InputError:
                continue  # a dump that a capture has cut or wrapped
            if not config.complete and _LAST_KEY not in config.values:
                continue  # Detectron2 prints every key: what is missing was cut, not left out
            return replace(config, matches_run=True)
    return None


def _events(group: Sequence[Start], seen: LastSeen, planned: int | None) -> Iterator[Event]:
    for number, start in enumerate(group):
        if number or start.start_iteration:
            at = start.start_iteration
            line = start.began_line or start.line
            yield Event("resume", f"resumed at iteration {at}", at, f"{start.name}:{line}")
        yield from start.events
        for kind, count in start.event_counts.items():
            kept = sum(event.kind == kind for event in start.events)
            if count > kept:
                yield Event(kind, f"{count - kept} more of the same", read_from=start.name)
        where = f"{start.name}:{start.weights_line or start.line}"
        if start.skipped:
            yield Event("skipped-weights", ", ".join(start.skipped), read_from=where)
        if start.missing:
            yield Event("missing-weights", ", ".join(start.missing), read_from=where)
        yield from _crash_events(start)
        if start is not group[-1]:
            end = last_seen(start, math.nan, math.nan).ending(None)
            if end.kind not in (EndingKind.UNKNOWN, EndingKind.FINISHED):
                text = end.message or end.error or ""
                yield Event(end.kind.value, text, end.iteration, end.read_from)
    if seen.crash is not None and seen.finished(planned):
        text = f"{seen.crash.error}: {seen.crash.message or ''}"
        yield Event("crashed-afterwards", text, read_from=f"{seen.name}:{seen.crash.line}")


def _crash_events(start: Start) -> Iterator[Event]:
    told: set[tuple[str, str | None]] = set()
    for crash in start.crashes:
        if (crash.error, crash.message) in told:
            continue
        told.add((crash.error, crash.message))
        message, where = crash.message or "", f"{start.name}:{crash.line}"
        at = start.stale_iteration if start.stale_iteration is not None else start.last_iteration
        if crash.survived:
            yield Event("exception-survived", f"{crash.error}: {message}", None, where)
            continue
        if crash.kind == EndingKind.OUT_OF_MEMORY:
            yield Event("oom", message, at, where)
        bad = _BAD_LOSS.findall(message)
        if bad:
            text = ", ".join(f"{name} is {value}" for name, value in bad)
            yield Event("non-finite-losses", text, at, where)
        worker = KILLED_WORKER.search(message)
        if worker:
            yield Event("worker-killed", worker[0], at, where)


def _memory_facts(seen: LastSeen) -> dict[str, Scalar]:
    """What the numbers in an out-of-memory message tell, MiB."""
    message = (seen.crash.message or "").replace("\n", " ") if seen.crash else ""
    patterns = {
        "gpu_total_mib": _CAPACITY, "oom_tried_mib": _TRIED, "oom_reserved_mib": _RESERVED,
        "oom_allocated_mib": _ALLOCATED, "oom_free_mib": _FREE,
    }  # fmt: skip
    found: dict[str, Scalar] = {}
    for name, pattern in patterns.items():
        match = pattern.search(message)
        if match:
            number, unit = [group for group in match.groups() if group][:2]
            found[name] = round(float(number) * _MIB[unit if unit == "bytes" else unit[0]], 2)
    return found
