"""A log's `time`, the mean since the process began, turned into means of what lies between rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from d2check.model import Series

if TYPE_CHECKING:
    from d2check.sources.log_txt import LogSegment

_HALF_DIGIT_S = 5e-5  # the console prints four decimals
_TOLERANCE = 0.02  # what that rounding may do to the mean of an interval
_UNTIMED = 2  # IterationTimer leaves out the iterations before its third

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def with_intervals(log: LogSegment) -> Mapping[str, Series]:
    """The log's series, `time` and `data_time` as means over intervals of their own.

    A mean since the start of 50,000 iterations moves by 2 % when iterations become twice as slow
    for a thousand; the time between two rows is t2 n2 - t1 n1. Both are rounded, by more than that
    time once n is large, so rows are joined until rounding moves no mean by more than 2 %. Where
    the log does not tell when its process began, the series stay as they are.
    """
    time, waits = log.series.get("time"), log.series.get("data_time")
    if time is None or time.statistic != "mean" or time.window <= 2 * max(time.every, 1):
        return log.series
    begins = _begins(log, time)
    spans = None if begins is None else _intervals(time, begins)
    if spans is None:
        return log.series
    first, last, seconds = spans
    every = max(int(np.median(last - first)), 1)
    changed = {"time": replace(time, iterations=last, values=seconds, every=every, window=every)}
    if waits is not None:
        means = _means(waits, first, last)
        known = np.isfinite(means)
        changed["data_time"] = replace(
            waits, iterations=last[known], values=means[known], every=every, window=every
        )
    return {**log.series, **changed}


def _begins(log: LogSegment, time: Series) -> Ints | None:
    """int64[processes]: the iteration with which each process of the training began."""
    begin = log.start_iteration
    if begin is None:
        begin = 0 if time.iterations[0] <= 2 * time.every else None
    if begin is None:
        return None
    later = {e.iteration for e in log.events if e.kind == "resume" and e.iteration is not None}
    return np.array(sorted({begin, *(at for at in later if at > begin)}), np.int64)


def _intervals(time: Series, begins: Sequence[int] | Ints) -> tuple[Ints, Ints, Floats] | None:
    """(before, at, seconds) of each interval, or None where the means are none since a begin."""
    first: list[int] = []
    last: list[int] = []
    seconds: list[float] = []
    edges = np.append(np.searchsorted(time.iterations, begins), len(time))
    for begin, start, stop in zip(begins, edges[:-1], edges[1:], strict=True):
        at, mean = time.iterations[start:stop], time.values[start:stop]
        counts = (at - begin + 1 - _UNTIMED).astype(np.float64)
        usable = np.isfinite(mean) & (mean > 0) & (counts > 0)
        at, mean, counts = at[usable], mean[usable], counts[usable]
        before, done, spent = int(begin) - 1, 0.0, 0.0
        row = 0
        while row < len(at):
            own = (mean[row] * counts[row] - spent) / (counts[row] - done)
            if own <= 0:
                return None
            first.append(before)
            last.append(int(at[row]))
            seconds.append(float(own))
            before, done, spent = int(at[row]), counts[row], mean[row] * counts[row]
            rounding = 2 * _HALF_DIGIT_S * done / (_TOLERANCE * mean[row])
            row = max(row + 1, int(np.searchsorted(counts, done + rounding)))
    if len(last) < 2:
        return None
    return np.array(first, np.int64), np.array(last, np.int64), np.array(seconds)


def _means(waits: Series, first: Ints, last: Ints) -> Floats:
    """float64[n]: mean of the rows within each interval, NaN where there is none."""
    finite = np.isfinite(waits.values)
    at, values = waits.iterations[finite], waits.values[finite]
    sums = np.concatenate([[0.0], np.cumsum(values)])
    low = np.searchsorted(at, first, side="right")
    high = np.searchsorted(at, last, side="right")
    rows = high - low
    means = np.full(len(first), np.nan)
    np.divide(sums[high] - sums[low], rows, out=means, where=rows > 0)
    return means
