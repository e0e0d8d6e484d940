"""What event files add to rows: a wall clock, and trainings whose rows are gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from d2check.model import Event, Series
from d2check.sources._every import every_of
from d2check.sources.folder.agreeing import same_numbers
from d2check.sources.folder.refill import Told, refilled
from d2check.sources.folder.stretches import joined
from d2check.sources.metrics_json import MetricsSegment, period_of, segment_of_series

if TYPE_CHECKING:
    from d2check.sources.tfevents import EventsSegment

_SAME_SHARE = 0.8
_TRAINING = "total_loss"


def with_clocks(
    metrics: Sequence[MetricsSegment], events: Sequence[EventsSegment]
) -> tuple[MetricsSegment, ...]:
    """The trainings with `wall_s` where an event file shows the same losses, and its lost rows.

    wall_s: seconds since the first row was written; the time between two processes of one
    training is left out. A training that only an event file shows is put where its clock says.
    """
    owned: list[list[EventsSegment]] = [[] for _ in metrics]
    shared: set[int] = set()  # event files that hold rows of several trainings
    alone: list[EventsSegment] = []
    for one in events:
        rows = [_common_rows(row.series, one.series) for row in metrics]
        free = [n for n, count in enumerate(rows) if count and not _taken(owned[n], one)]
        if free:
            owned[max(free, key=lambda n: (rows[n], -n))].append(one)
            shared |= {id(one)} if sum(map(bool, rows)) > 1 else set()
        elif one.rows and not any(rows) and not any(_is_copy(one, other) for other in alone):
            alone.append(one)
    found = [
        (_begin(mine), _clocked(_refilled(segment, mine, shared), mine))
        for segment, mine in zip(metrics, owned, strict=True)
    ]
    for chain in _chains(alone):
        begin = float(chain[0].clock.values[0])
        at = next((n for n, (b, _) in enumerate(found) if b is not None and b > begin), len(found))
        found.insert(at, (begin, _clocked(_rows_of(chain), chain)))
    return tuple(segment for _, segment in found)


def _common_rows(one: Mapping[str, Series], other: Mapping[str, Series]) -> int:
    name = next((n for n in ("total_loss", *one) if "loss" in n and n in one and n in other), None)
    if name is None:
        return 0
    mine, theirs = one[name], other[name]
    _, here, there = np.intersect1d(
        mine.iterations, theirs.iterations, assume_unique=True, return_indices=True
    )
    same = same_numbers(mine.values[here], theirs.values[there], printed=False)
    return len(here) if len(here) and same.mean() >= _SAME_SHARE else 0


def _taken(owned: Sequence[EventsSegment], one: EventsSegment) -> bool:
    """Whether another process has shown these iterations of the training already."""
    return any(_common_rows(other.series, one.series) for other in owned)


def _is_copy(one: EventsSegment, other: EventsSegment) -> bool:
    """Whether both are one process's events: a file and what was packed of it."""
    return float(one.clock.values[0]) == float(other.clock.values[0]) and bool(
        _common_rows(one.series, other.series)
    )


def _begin(owned: Sequence[EventsSegment]) -> float | None:
    return min((float(one.clock.values[0]) for one in owned), default=None)


def _refilled(
    segment: MetricsSegment, owned: Sequence[EventsSegment], shared: set[int]
) -> MetricsSegment:
    for one in owned:
        alone = id(one) not in shared
        told = Told(one.series, one.period, one.read_from, False, before=alone, after=alone)
        segment = refilled(segment, told)
    return segment


def _chains(alone: Sequence[EventsSegment]) -> list[list[EventsSegment]]:
    """The files of each training: a resume begins one of its own, with the row that was due."""
    chains: list[list[EventsSegment]] = []
    for one in sorted(alone, key=lambda e: float(e.clock.values[0])):
        fits = [chain for chain in chains if _goes_on(one, chain[-1])]
        if len(fits) == 1:
            fits[0].append(one)
        else:
            chains.append([one])
    return chains


def _goes_on(one: EventsSegment, before: EventsSegment) -> bool:
    mine, theirs = one.series.get(_TRAINING), before.series.get(_TRAINING)
    if mine is None or theirs is None or mine.iterations[0] <= one.period:
        return False
    gap = int(mine.iterations[0] - theirs.iterations[-1])
    later = float(one.clock.values[0]) > float(before.clock.values[-1])
    return later and 0 < gap <= one.period and _losses(one) == _losses(before)


def _losses(one: EventsSegment) -> set[str]:
    return {name for name in one.series if "loss" in name and "val" not in name}


def _rows_of(chain: Sequence[EventsSegment]) -> MetricsSegment:
    series = joined([one.series for one in chain]) if len(chain) > 1 else chain[0].series
    loss = series.get(_TRAINING)
    training = loss.iterations if loss is not None else np.empty(0, np.int64)
    segment = segment_of_series(
        series,
        training,
        rows=sum(one.rows for one in chain),
        period=period_of(training),
        read_from=chain[0].read_from,
    )
    events = []
    for before, one in pairwise(chain):
        text = f"{one.read_from} goes on where {before.read_from} ends"
        at = int(one.series[_TRAINING].iterations[0])
        events.append(Event("resume", text, at, one.read_from))
    return replace(
        segment,
        events=(*segment.events, *events),
        malformed_lines=sum(one.malformed_records for one in chain),
    )


def _clocked(segment: MetricsSegment, owned: Sequence[EventsSegment]) -> MetricsSegment:
    if not owned:
        return segment
    iterations = np.empty(0, np.int64)
    wall = np.empty(0, np.float64)
    for one in sorted(owned, key=lambda e: int(e.clock.iterations[0])):
        at, moments = one.clock.iterations, one.clock.values - one.clock.values[0]
        new = at > (iterations[-1] if len(iterations) else -1)
        if not new.any():
            continue
        at, moments = at[new], moments[new] - moments[new][0]
        if len(wall):
            usual = np.diff(wall) / np.diff(iterations) if len(wall) > 1 else np.zeros(1)
            moments = moments + wall[-1] + float(np.median(usual)) * (at[0] - iterations[-1])
        iterations, wall = np.concatenate([iterations, at]), np.concatenate([wall, moments])
    every = every_of(iterations, segment.period)
    series = Series("wall_s", iterations, wall, max(every, 1))
    told = tuple(event for one in owned for event in one.events)
    return replace(
        segment,
        series={**segment.series, "wall_s": series},
        events=(*segment.events, *told),
    )
