"""Trainings that go on in a log of their own after a resume, put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from d2check.model import EndingKind, Event
from d2check.sources.folder.captures import comparable, losses_of
from d2check.sources.folder.stretches import joined

if TYPE_CHECKING:
    from d2check.sources.log_txt import LogSegment

_CLOCKS_DIFFER_S = 60.0
_NO_NEWS = (EndingKind.UNKNOWN, EndingKind.FINISHED)


def with_resumes(logs: Sequence[LogSegment]) -> list[LogSegment | None]:
    """The logs, each that starts where another one ends joined to it; None in that one's place.

    It begins later, with the next row, of the same losses; and no other log fits as well. A log
    that starts somewhere else in the middle is told to be apart.
    """
    found: list[LogSegment | None] = list(logs)
    for number, log in enumerate(logs):
        before = [k for k, one in enumerate(found) if one is not None and _may_go_on(log, one)]
        ends = [one for k in before if (one := found[k]) is not None]
        near = [k for k, one in zip(before, ends, strict=True) if _is_next(log, one)]
        if len(near) == 1:
            found[number] = _joined(ends[before.index(near[0])], log)
            found[near[0]] = None
        elif before:
            found[number] = _apart(log, ends, many=bool(near))
    return found


def _may_go_on(log: LogSegment, before: LogSegment) -> bool:
    """Whether a log starts in the middle, behind the rows of the other one."""
    mine, theirs = losses_of(log), losses_of(before)
    if mine is None or theirs is None or not log.start_iteration:
        return False
    return (
        set(log.files).isdisjoint(before.files)
        and mine.name == theirs.name
        and _loss_names(log) == _loss_names(before)
        and int(mine.iterations[0]) > int(theirs.iterations[-1])
        and _same_output(log, before)
        and not _is_earlier(log, before)
    )


def _is_next(log: LogSegment, before: LogSegment) -> bool:
    """Whether no row lies between them, and the start is not behind the end by a row either."""
    mine, theirs = losses_of(log), losses_of(before)
    if mine is None or theirs is None:
        return False
    last, period = int(theirs.iterations[-1]), max(log.period, before.period)
    return int(mine.iterations[0]) - last <= period and (log.start_iteration or 0) <= last + period


def _loss_names(log: LogSegment) -> set[str]:
    return {name for name in log.series if "loss" in name and "val" not in name}


def _same_output(log: LogSegment, before: LogSegment) -> bool:
    """Whether their configs, where both printed one, write into the same folder."""
    if log.config is None or before.config is None:
        return True
    keys = ("OUTPUT_DIR", "MODEL.META_ARCHITECTURE", "train.output_dir")
    return all(log.config.get(key) == before.config.get(key) for key in keys)


def _is_earlier(log: LogSegment, before: LogSegment) -> bool:
    begins = log.starts_s[0] if log.starts_s else float("nan")
    return comparable(begins, before.ends_s) and begins < before.ends_s - _CLOCKS_DIFFER_S


def _joined(before: LogSegment, log: LogSegment) -> LogSegment:
    end = before.ending(None)
    words = ": ".join(filter(None, (end.error, end.message)))
    ended = (Event(end.kind.value, words, end.iteration, end.read_from),)
    text = f"{', '.join(log.files)} goes on where {', '.join(before.files)} ends"
    return replace(
        log,
        series=joined([before.series, log.series]),
        rows=before.rows + log.rows,
        period=before.period,
        start_iteration=before.start_iteration,
        planned_iterations=log.planned_iterations or before.planned_iterations,
        facts={**before.facts, **log.facts},
        config=log.config or before.config,
        class_instances=log.class_instances or before.class_instances,
        events=(
            *before.events,
            *(ended if end.kind not in _NO_NEWS else ()),
            *log.events,
            Event("fused", text, log.start_iteration, log.read_from),
        ),
        malformed_lines=before.malformed_lines + log.malformed_lines,
        first_line=before.first_line,
        read_from=before.read_from,
        starts_s=(*before.starts_s, *log.starts_s),
        wall_begin_s=before.wall_begin_s,
        files=(*before.files, *log.files),
    )


def _apart(log: LogSegment, before: Sequence[LogSegment], *, many: bool) -> LogSegment:
    if many:
        names = ", ".join(name for one in before for name in one.files)
        text = f"{log.read_from} may go on from any of {names}, so it is judged apart"
    else:
        nearest = max(before, key=lambda one: one.last_training or 0)
        text = (
            f"{log.read_from} starts at iteration {log.start_iteration:,}, {nearest.read_from} "
            f"ends at {nearest.last_training:,}: rows are missing between, so it is judged apart"
        )
    return replace(log, events=(*log.events, Event("apart", text, read_from=log.read_from)))
