"""What the rows of one segment tell of its length, its starts and its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d2check.model import Ending, EndingKind, Event, Series

# What an iteration puts before its losses are known (engine/train_loop.py, write_metrics) or what
# the console printer adds when the writers are flushed after an exception.
_OF_AN_ITERATION = ("data_time", "rank_data_time", "eta_seconds")
_RELATIVE_ROUNDING = 2e-8  # of a ratio of numbers that an event file holds, float32
# Of one of float64: among thousands of rows of any ratio hardly one is a whole number so nearly.
_EXACT = 1e-12


@dataclass(frozen=True)
class BrokenIteration:
    """The iteration that an exception or Ctrl-C ended.

    loss_missing: its losses were computed but never stored, which Detectron2's own trainers do
    only when they are NaN or infinite.
    """

    iteration: int
    loss_missing: bool


def planned_from_eta(series: Mapping[str, Series]) -> int | None:
    """SOLVER.MAX_ITER as the first row of the last process gives it away, or the last row; or None.

    eta_seconds is the median of up to 1,000 iteration times x the iterations left, `time` the
    median of up to 20. While a process has timed no more than 20 iterations the two medians are
    the same number, so that their ratio is a whole number, exactly. At the last iteration
    eta_seconds is zero. Before v0.3 one iteration more was counted; a length that ends in 1 is
    taken for such a file. A resume may go on to another length, so the last such row counts; where
    rows lie beyond its length, a later process has said nothing of its own.
    """
    eta, time = series.get("eta_seconds"), series.get("time")
    if eta is None or not len(eta):
        return None
    last = int(eta.iterations[-1])
    if eta.values[-1] == 0.0:
        return last + 1
    if time is None or not len(time):
        return None
    common, in_eta, in_time = np.intersect1d(eta.iterations, time.iterations, return_indices=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        left = eta.values[in_eta] / time.values[in_time]
    tolerance = np.where(common == time.iterations[0], _RELATIVE_ROUNDING, _EXACT)
    exact = np.abs(left - np.rint(left)) <= tolerance * left
    whole = np.flatnonzero(exact & (left >= 1) & (left < 2**40))
    if not len(whole):
        return None
    planned = int(common[whole[-1]]) + 1 + round(float(left[whole[-1]]))
    planned -= planned % 10 == 1
    return planned if planned >= last else None


def broken_iteration(
    series: Mapping[str, Series], training: NDArray[np.int64]
) -> BrokenIteration | None:
    """The iteration after the last training row, if something of it was written and no loss.

    training: iterations of the training rows. Both a row k after the row k-1 and before it occur:
    the order is that in which the keys were first put.
    """
    after = int(training.max()) + 1 if len(training) else 0
    begun = {
        name
        for name, one in series.items()
        if len(one) and one.iterations[-1] == after and "/" not in name
    }
    if begun.isdisjoint(_OF_AN_ITERATION):
        return None
    return BrokenIteration(after, "data_time" in begun)


def ending_of(
    *,
    planned: int | None,
    last_training: int | None,
    last_row: int | None,
    broken: BrokenIteration | None,
    read_from: str,
) -> Ending:
    """How the segment ended, as far as rows alone can tell.

    A loss that was never stored is a crash. Other broken iterations are not: Ctrl-C leaves the
    same traces as an exception.
    """
    last = max((i for i in (last_training, last_row) if i is not None), default=None)
    if planned is not None and last is not None and last >= planned - 1:
        return Ending(EndingKind.FINISHED, planned - 1, read_from=read_from)
    if broken is not None and broken.loss_missing:
        return Ending(
            EndingKind.CRASHED,
            broken.iteration,
            message=f"the losses of iteration {broken.iteration} were computed and never stored; "
            "Detectron2 does that when one of them is NaN or infinite",
            read_from=read_from,
        )
    if broken is not None:
        return Ending(
            EndingKind.TRUNCATED,
            broken.iteration,
            message=f"an exception or Ctrl-C ended iteration {broken.iteration}; "
            "the rows do not tell which",
            read_from=read_from,
        )
    if planned is not None and last is not None:
        return Ending(
            EndingKind.TRUNCATED,
            last,
            message=f"the rows stop at iteration {last} of {planned}",
            read_from=read_from,
        )
    return Ending(EndingKind.UNKNOWN, last, read_from=read_from)


def starts_of(
    training: NDArray[np.int64], period: int, lr: Series | None, *, lost: int, read_from: str
) -> tuple[Event, ...]:
    """Resumed starts that the counter or the rate give away, and rows that are missing.

    training: iterations of the training rows, rising. lost: malformed lines among them. A process
    writes every `period` iterations and once more when it ends, so that a row off the beat in
    mid-run is the end of a process; some loops write iteration 0 as well.
    """
    if not len(training):
        return ()
    found: dict[int, tuple[str, str]] = {}
    first = int(training[0])
    if first >= 2 * period:
        kind = "rows-missing" if lost else "resume"
        found[first] = (kind, f"the rows begin at iteration {first}, not at the start")
    off_beat = np.flatnonzero(
        (training[:-1] % period != _beat(training, period)) & (training[:-1] > 0)
    )
    gaps = np.flatnonzero(np.diff(training) > period)
    for index in sorted({*off_beat.tolist(), *gaps.tolist()}):
        before, after = int(training[index]), int(training[index + 1])
        if index in off_beat:
            text = f"a process ended at iteration {before}, another wrote iteration {after}"
            found[after] = ("resume", text)
        else:
            text = f"rows are missing between iterations {before} and {after}"
            found[after] = ("rows-missing", text)
    if lr is not None and len(lr) > 2:
        for index in _climbs_again(lr.values).tolist():
            at = int(lr.iterations[index])
            text = f"the rate falls and climbs again at iteration {at}, as after a new start"
            found.setdefault(at, ("resume", text))
    return tuple(Event(kind, text, at, read_from) for at, (kind, text) in sorted(found.items()))


def _beat(training: NDArray[np.int64], period: int) -> int:
    """The remainder that rows leave by the period; Detectron2's own where there is a tie."""
    remainders, counts = np.unique(training % period, return_counts=True)
    common = remainders[counts == counts.max()].tolist()
    return period - 1 if period - 1 in common else int(common[0])


def _climbs_again(lr: NDArray[np.float64]) -> NDArray[np.int64]:
    """Where the rate drops by more than a tenth and rises in the next two rows."""
    drops = lr[1:-1] < 0.9 * lr[:-2]
    rises = lr[2:] > 1.0001 * lr[1:-1]
    return np.flatnonzero(drops & rises) + 1
