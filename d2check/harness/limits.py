"""When a silent training counts as hung. Clocks come in from outside; nothing here sleeps."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from d2check.probe import wire


@dataclass(frozen=True)
class Limits:
    """Seconds. The defaults are generous: ending a healthy run is worse than waiting.

    start_up_s: without record or output, before the first iteration has ended and after a phase
    began. Data sets of millions of images, downloads of weights and kernels that are compiled take
    minutes. start_up_most_s: the same however much is printed: a retry loop prints for ever.
    floor_s, medians, longest: between iterations the largest of floor_s, `medians` times the
    median iteration and `longest` times the longest one, so that a slow hook that came before may
    come again. leave_s: between the probe's last record and the end of the process.
    rank_grace_s: after one rank of several was lost, for its launcher to end the others.
    budget_grace_s: past the budget, before the child is ended from outside. poll_s: how often the
    records are looked at.
    """

    start_up_s: float = 600.0
    start_up_most_s: float = 3600.0
    floor_s: float = 60.0
    medians: float = 20.0
    longest: float = 5.0
    leave_s: float = 60.0
    rank_grace_s: float = 10.0
    budget_grace_s: float = 30.0
    poll_s: float = 0.05


class Watch:
    """Follows the signs of life of one training. `now` is any monotonic clock, in seconds."""

    def __init__(self, limits: Limits, now: float) -> None:
        """Start when the child starts."""
        self._limits = limits
        self._start = self._sign = self._record = now
        self._settled = False  # an iteration has ended in the present phase
        self._ended = False
        self._blind = False
        self._times_s: deque[float] = deque(maxlen=500)
        self._longest_s = 0.0
        self.last_iteration: int | None = None
        self.training_since: float | None = None

    def saw_output(self, now: float) -> None:
        """The child printed something."""
        self._sign = now

    def saw_record(self, record: Mapping[str, Any], now: float) -> None:
        """The probe wrote a record."""
        gap_s, self._record, self._sign = now - self._record, now, now
        kind = record.get("t")
        if kind == "begin":
            self.training_since = now
        if kind in ("begin", "phase"):
            self._settled, self._start = False, now
        elif kind == "iter":
            total_s = _seconds(record.get("total_s"))
            # Records may come in bunches: their own time is truer than the time of arrival.
            self._times_s.append(gap_s if total_s is None else total_s)
            self._longest_s = max(self._longest_s, self._times_s[-1], gap_s * self._settled)
            self._settled = True
            if isinstance(record.get("i"), int):
                self.last_iteration = record["i"]
        elif kind == "end":
            self._ended = True

    def lose_sight(self) -> None:
        """No record comes any more, as the disk is full: only output is a sign of life now."""
        self._blind = True

    def hang_limit_s(self) -> float:
        """Seconds without a record after which a training that iterates counts as hung."""
        limits = self._limits
        if not self._times_s:
            return limits.floor_s
        median_s = statistics.median(self._times_s)
        return max(limits.floor_s, limits.medians * median_s, limits.longest * self._longest_s)

    def overdue(self, now: float) -> str | None:
        """Why the child counts as hung, in words; None while it does not."""
        limits = self._limits
        if self._ended:
            waited_s = now - self._record
            if waited_s > limits.leave_s:
                return f"the training ended, but its process did not leave for {waited_s:.0f} s"
            return None
        if self._blind:
            return self._overdue_unseen(now)
        if self._settled:
            waited_s = now - self._record
            if waited_s <= limits.floor_s or waited_s <= self.hang_limit_s():
                return None
            limit_s = self.hang_limit_s()
            usual_s = statistics.median(self._times_s)
            return (
                f"no iteration ended for {waited_s:.0f} s, "
                f"while one usually took {usual_s:.2g} s (limit {limit_s:.0f} s)"
            )
        return self._overdue_at_start(now)

    def _overdue_unseen(self, now: float) -> str | None:
        silent_s = now - self._sign
        if silent_s <= max(self._limits.start_up_most_s, self.hang_limit_s()):
            return None
        return f"its records could not be written, and it printed nothing for {silent_s:.0f} s"

    def _overdue_at_start(self, now: float) -> str | None:
        what = "the next phase" if self._times_s else "training"
        silent_s, waited_s = now - self._sign, now - self._start
        if silent_s > self._limits.start_up_s:
            return f"{what} did not start: no record and no output for {silent_s:.0f} s"
        if waited_s > self._limits.start_up_most_s:
            return f"{what} did not start within {waited_s:.0f} s"
        return None

    def over_budget(self, budget_s: float | None, now: float) -> bool:
        """Whether the training goes on although its budget and the grace are spent."""
        if budget_s is None or self.training_since is None or self._ended:
            return False
        grace_s = max(self._limits.budget_grace_s, 2 * self._longest_s)
        return now - self.training_since > budget_s + grace_s


def _seconds(value: Any) -> float | None:
    if value is None:
        return None
    try:
        seconds = wire.number(value)
    except (KeyError, TypeError, ValueError):
        return None
    return seconds if 0 <= seconds < float("inf") else None
