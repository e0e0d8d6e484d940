"""Rows that one file has lost, from another file that holds the same training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from d2check.model import Event, Series
from d2check.sources._every import every_of
from d2check.sources.folder.agreeing import same_numbers
from d2check.sources.metrics_json import MetricsSegment, broken_iteration, starts_of

_END = 2**62
_SAME_SHARE = 0.8
_OFTEN = 0.5  # of the rows: results of evaluations come rarely, off the rows' beat
_NAMED = 4  # series that are told by name
# Logs before v0.3 print a rate with six decimals: below this they are off by more than 1 in 200.
_LEAST_PRINTED_RATE = 1e-4
_OF_STARTS = ("resume", "rows-missing")

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Told:
    """What another file tells of the same training, in its counting of iterations.

    period: iterations between its rows. printed: rounded, with fewer digits than it had.
    before, after: whether its rows before the first one and after the last one are of this training
    and no other's.
    """

    series: Mapping[str, Series]
    period: int
    read_from: str
    printed: bool
    before: bool = True
    after: bool = True


def refilled(rows: MetricsSegment, other: Told) -> MetricsSegment:
    """The training with the rows that it lost and the other file has.

    Lost is what stood in lines that could not be read, what is missing between two rows further
    apart than the others, and what the other file tells beyond the first and the last row. Rows
    that this file was never given, because it is written less often, are not lost. A series is
    filled only by one that shows the same numbers where both have some: a mean is no median. An
    event tells what was filled, and what was not.
    """
    guide = _guide(rows.series)
    theirs = other.series.get(guide or "")
    if guide is None or theirs is None or any(e.kind == "two-writers" for e in rows.events):
        return rows
    training = rows.series[guide].iterations
    spans = _Spans.of(rows, training, theirs, other)
    if not len(spans.low):
        return rows
    filled: dict[str, Series] = {}
    left = []
    for name, mine in rows.series.items():
        wanted = _wanted(mine, other.series.get(name), spans, other, training)
        if wanted is not None:
            filled[name] = wanted
        elif len(mine) > _OFTEN * len(training):
            left.append(name)
    if not other.printed:  # what a log alone has is taken from it in any case
        filled |= dict(_only_there(rows, other, spans))
    if not filled:
        return rows
    found = np.unique(np.concatenate([one.iterations for one in filled.values()]))
    series = {name: _merged(rows.series.get(name), one) for name, one in filled.items()}
    told = _told(rows, other, found, left if guide in filled else [])
    return _with_series(rows, {**rows.series, **series}, guide, len(found), told)


@dataclass(frozen=True, eq=False)
class _Spans:
    """Where rows were lost: between low and high, these excluded. beat: period and remainder."""

    low: Ints
    high: Ints
    beat: tuple[int, int] | None

    @staticmethod
    def of(rows: MetricsSegment, at: Ints, theirs: Series, other: Told) -> _Spans:
        spans = list(rows.lost)
        apart = np.flatnonzero(np.diff(at) > rows.period)
        spans += zip(at[apart].tolist(), at[apart + 1].tolist(), strict=True)
        first, last = int(at[0]), int(at[-1])
        if first >= rows.period:
            spans.append((-1, first))
        if int(theirs.iterations[-1]) - last > rows.period:
            spans.append((last, _END))
        if not other.before:
            spans = [(low, high) for low, high in spans if low >= first]
        if not other.after:
            spans = [(low, high) for low, high in spans if high <= last]
        beat = None
        if other.period != rows.period:
            remainders, counts = np.unique(at % rows.period, return_counts=True)
            beat = rows.period, int(remainders[counts.argmax()])
        ends = np.array(sorted(set(spans)), np.int64).reshape(-1, 2)
        return _Spans(ends[:, 0], ends[:, 1], beat)

    def hold(self, series: Series) -> Bools:
        """bool[n]: which of the samples lie where rows were lost."""
        at = series.iterations
        span = np.searchsorted(self.low, at) - 1  # the last that begins before
        inside: Bools = (span >= 0) & (at < self.high[np.maximum(span, 0)])
        if self.beat is not None and series.every < self.beat[0]:
            inside &= at % self.beat[0] == self.beat[1]
        return inside


def _guide(series: Mapping[str, Series]) -> str | None:
    return next(
        (name for name in ("total_loss", *series) if "loss" in name and name in series), None
    )


def _wanted(
    mine: Series, theirs: Series | None, spans: _Spans, other: Told, training: Ints
) -> Series | None:
    """The samples that a series lost, or None where the other one is not known to be the same.

    training: iterations of the rows. Event files before v0.3 repeat the last value of a key that
    was not put again: a series that has values in rows where this one has none is another.
    """
    if theirs is None or not len(theirs) or not len(mine):
        return None
    if other.printed and (mine.statistic, mine.window) != (theirs.statistic, theirs.window):
        return None
    common, here, there = np.intersect1d(
        mine.iterations, theirs.iterations, assume_unique=True, return_indices=True
    )
    if len(common):
        same = same_numbers(mine.values[here], theirs.values[there], printed=other.printed)
        if same.mean() < _SAME_SHARE:
            return None
    elif mine.statistic != theirs.statistic:
        return None
    held = spans.hold(theirs)
    if len(common) < _SAME_SHARE * np.isin(theirs.iterations[~held], training).sum():
        return None
    keep = held & ~np.isin(theirs.iterations, mine.iterations)
    if other.printed and mine.name == "lr":
        keep &= theirs.values >= _LEAST_PRINTED_RATE
    if not keep.any():
        return None
    return replace(theirs, iterations=theirs.iterations[keep], values=theirs.values[keep])


def _merged(mine: Series | None, lost: Series) -> Series:
    if mine is None:
        return lost
    iterations = np.concatenate([mine.iterations, lost.iterations])
    values = np.concatenate([mine.values, lost.values])
    order = np.argsort(iterations, kind="stable")
    iterations = iterations[order]
    every = max(every_of(iterations, mine.every), 1)
    return replace(mine, iterations=iterations, values=values[order], every=every)


def _only_there(rows: MetricsSegment, other: Told, spans: _Spans) -> Iterator[tuple[str, Series]]:
    """Series all of whose rows were lost: the only evaluation, perhaps."""
    for name, series in other.series.items():
        if name not in rows.series and len(series) and spans.hold(series).all():
            yield name, series


def _with_series(
    rows: MetricsSegment, series: Mapping[str, Series], guide: str, count: int, told: Event
) -> MetricsSegment:
    training = series[guide].iterations
    last = max(int(one.iterations[-1]) for one in series.values() if len(one))
    longer = rows.last_training is None or training[-1] > rows.last_training
    starts = starts_of(
        training,
        rows.period,
        series.get("lr"),
        lost=rows.malformed_lines,
        read_from=rows.read_from,
    )
    others = tuple(event for event in rows.events if event.kind not in _OF_STARTS)
    return replace(
        rows,
        series=series,
        rows=rows.rows + count,
        last_training=int(training[-1]),
        last_row=max(last, rows.last_row or 0),
        broken=broken_iteration(series, training) if longer else rows.broken,
        events=(*starts, *others, told),
    )


def _told(rows: MetricsSegment, other: Told, found: Ints, left: list[str]) -> Event:
    count = "1 row" if len(found) == 1 else f"{len(found):,} rows"
    first, last = int(found[0]), int(found[-1])
    where = f"iteration {first:,}" if first == last else f"iterations {first:,} to {last:,}"
    unread = all(any(low < at < high for low, high in rows.lost) for at in found.tolist())
    are, were = ("is", "was") if len(found) == 1 else ("are", "were")
    lost = "could not be read" if unread else f"{are} missing"
    text = f"{count} ({where}) {lost} in {rows.read_from} and {were} taken from {other.read_from}"
    if left:
        names = ", ".join(left[:_NAMED]) + (" ..." if len(left) > _NAMED else "")
        text += f", but for {names}, which it tells otherwise or not at all"
    return Event("filled", text, read_from=other.read_from)
