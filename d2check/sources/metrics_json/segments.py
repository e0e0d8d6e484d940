"""Which rows belong to one training: several starts, and several processes, write into one file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d2check.sources.metrics_json.rows import Table

# Two processes that write side by side switch back and forth all the time; one run that is
# resumed after an attempt at something else comes back once or twice.
_SWITCHES_OF_TWO_WRITERS = 3


@dataclass(frozen=True, eq=False)
class Segments:
    """Which row belongs where.

    labels: int64[rows], the segment of each row, numbered by first appearance.

    training: bool[rows], rows that hold a step of the training (not only an evaluation or the
    rest of a crash). period: iterations between training rows. interleaved: two processes wrote
    at the same time.
    """

    labels: NDArray[np.int64]
    training: NDArray[np.bool_]
    period: int
    interleaved: bool

    def __len__(self) -> int:
        return int(self.labels.max(initial=-1)) + 1


def split(table: Table) -> Segments:
    """The segments of a file.

    A new one begins where a training row's iteration is not above the one before it. Rows without
    a loss may carry any iteration: evaluations are written late, a crash writes its rest first.
    They stay with the training rows before them unless their iteration lies before the last two
    of those, or is the very one of the last; then another start has written them: a process writes
    no iteration twice. A start that broke within its first period is one of its own as well.
    """
    training = _training_rows(table)
    steps = table.iteration[training]
    period = period_of(steps)
    chains, interleaved = _chains(steps, period)
    labels = np.full(len(table), -1, np.int64)
    if not interleaved:
        _split_off_broken_starts(table.iteration, training, chains, period)
    labels[training] = chains
    _place_others(table.iteration, training, labels)
    return Segments(_numbered_by_appearance(labels), training, period, interleaved)


def period_of(iterations: NDArray[np.int64]) -> int:
    """The usual distance between training rows, even where two writers alternate.

    Detectron2's own 20 for a file too short to show another.
    """
    if len(iterations) < 2 or (len(iterations) < 4 and (iterations % 20 == 19).any()):
        return 20
    found: Counter[int] = Counter()
    for lag in (1, 2, 3):
        steps = iterations[lag:] - iterations[:-lag]
        distinct, counts = np.unique(steps[steps > 0], return_counts=True)
        for step, count in zip(distinct.tolist(), counts.tolist(), strict=True):
            found[step] += count
    if not found:
        return 20
    most = max(found.values())
    # Lag 2 sees twice the period nearly as often as lag 1 sees the period.
    return min(step for step, count in found.items() if count >= 0.8 * most)


def _training_rows(table: Table) -> NDArray[np.bool_]:
    """Rows with a total loss; where the file has none, with any loss, a rate, or at all."""
    names = [["total_loss"], [key for key in table.columns if "loss" in key], ["lr"]]
    for keys in names:
        rows = np.zeros(len(table), np.bool_)
        for key in keys:
            if key in table.columns:
                rows[table.columns[key].rows] = True
        if rows.any():
            return rows
    return np.ones(len(table), np.bool_)


def _chains(steps: NDArray[np.int64], period: int) -> tuple[NDArray[np.int64], bool]:
    """A label for each training row, so that iterations rise strictly within a label.

    Works on stretches that rise by at most one period. A stretch continues the chain before it if
    it may; else the chain that ended exactly one period earlier; else it begins a new one.
    """
    if not len(steps):
        return np.empty(0, np.int64), False
    jumps = np.diff(steps)
    if (jumps > 0).all():
        return np.zeros(len(steps), np.int64), False
    starts = np.concatenate([[0], np.flatnonzero((jumps <= 0) | (jumps > period)) + 1])
    ends = np.concatenate([starts[1:], [len(steps)]])
    labels = np.empty(len(steps), np.int64)
    ended_at: dict[int, list[int]] = {}  # last iteration -> chains that stand there, latest last
    last_of: list[int] = []
    current = -1
    switches = 0
    firsts = steps[starts].tolist()
    for index, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        first, last = firsts[index], int(steps[end - 1])
        waiting = ended_at.get(first - period, [])
        goes_on = current >= 0 and last_of[current] < first
        if goes_on and not waiting and index + 1 < len(firsts):
            # Rows are missing, unless the one that is due comes next: then another writes too.
            goes_on = firsts[index + 1] != last_of[current] + period
        if goes_on and (current in waiting or not waiting):
            chosen = current
        elif waiting:
            chosen = waiting[-1]
            switches += 1
        else:
            chosen = len(last_of)
            last_of.append(-1)
        if last_of[chosen] in ended_at and chosen in ended_at[last_of[chosen]]:
            ended_at[last_of[chosen]].remove(chosen)
        last_of[chosen] = last
        ended_at.setdefault(last, []).append(chosen)
        labels[start:end] = chosen
        current = chosen
    return labels, switches >= _SWITCHES_OF_TWO_WRITERS


def _split_off_broken_starts(
    iterations: NDArray[np.int64],
    training: NDArray[np.bool_],
    chains: NDArray[np.int64],
    period: int,
) -> None:
    """Give rows of starts that broke before their first period was over their own chains, in place.

    An exception or Ctrl-C has the iteration before it written, off the beat: 17, then 19 by the
    next start.
    """
    where = np.flatnonzero(training)
    steps = iterations[where]
    new = int(chains.max(initial=-1)) + 1
    by_chain = np.argsort(chains, kind="stable")
    begins = np.searchsorted(chains[by_chain], np.arange(new + 1))
    for begin, end in zip(begins[:-1].tolist(), begins[1:].tolist(), strict=True):
        # As many as could be: each rises, and is below the first row on the beat.
        early = by_chain[begin : min(end, begin + period)]
        beat = np.flatnonzero(steps[early] == period - 1)
        for row in early[: beat[0]].tolist() if len(beat) else ():
            if steps[row] or _broke_in_iteration_one(iterations, where, row):
                chains[row] = new
                new += 1


def _broke_in_iteration_one(
    iterations: NDArray[np.int64], where: NDArray[np.int64], row: int
) -> bool:
    """Whether a training row of iteration 0 is the last of its process.

    Some loops write iteration 0 and go on. The rest of the broken iteration 1 beside it, or
    iteration 0 once more after it, is of another kind of end.
    """
    begin = where[row - 1] + 1 if row else 0
    before = set(iterations[begin : where[row]].tolist())
    after = set(iterations[where[row] + 1 : where[row + 1]].tolist())
    return 1 in before | after or 0 in after


def _place_others(
    iterations: NDArray[np.int64], training: NDArray[np.bool_], labels: NDArray[np.int64]
) -> None:
    """Give rows that are no training rows their label, in place."""
    where = np.flatnonzero(training)
    others = np.flatnonzero(~training)
    if not len(others):
        return
    before = np.searchsorted(where, others) - 1  # index of the training row before, or -1
    steps, chains = iterations[where], labels[where]
    one_back = np.maximum(before - 1, 0)
    same = (before >= 1) & (chains[one_back] == chains[np.maximum(before, 0)])
    second_last = np.where(same, steps[one_back], -1)
    last = np.where(before >= 0, steps[np.maximum(before, 0)] if len(steps) else -1, -1)
    stays = (before >= 0) & (iterations[others] > second_last) & (iterations[others] != last)
    labels[others[stays]] = chains[before[stays]]
    if not len(where):
        labels[others] = 0
        return
    taken: set[tuple[int, int]] = set()  # of the same iteration several times, the last has it
    for row in reversed(others[~stays].tolist()):
        after, iteration = int(np.searchsorted(where, row)), int(iterations[row])
        # The rest of a broken iteration k comes before the losses of k - 1.
        if after == len(where) or iteration > steps[after] + 1 or (after, iteration) in taken:
            continue
        taken.add((after, iteration))
        labels[row] = chains[after]


def _numbered_by_appearance(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    placed = labels >= 0
    distinct, first = np.unique(labels[placed], return_index=True)
    number = np.empty(len(distinct), np.int64)
    number[np.argsort(first)] = np.arange(len(distinct))
    numbered: NDArray[np.int64] = labels.copy()
    numbered[placed] = number[np.searchsorted(distinct, labels[placed])]
    return numbered
