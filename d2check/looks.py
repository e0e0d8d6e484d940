"""Judging a training while it goes on, to end it where going on can change nothing.

Only failures of the loss end a training. A loss that falls so far is no healthy one, so nothing
that passes is ever called certain.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from d2check import sources
from d2check.model import Finding, Run, Verdict
from d2check.rules.judge import judge_rule
from d2check.rules.model import Rule

# Looks in a row for which a failure must hold. Each look by itself may be wrong, and a run has
# dozens. A loss that is no number is no matter of chance.
CERTAIN_AFTER: Mapping[str, int] = {
    "loss/non-finite": 1,
    "loss/diverges": 3,
    "loss/not-decreasing": 6,
    "loss/head-stuck": 4,
}
# How far a failure must lie beyond its rule's own threshold. Healthy losses may rise for a hundred
# iterations before they fall. With looks alone 5 of 1,500 simulated healthy runs were ended, none
# of them this far out; benchmarks/verdicts/README.md has the figures of seeds that nothing was
# chosen by.
_PLAINLY: Mapping[str, Callable[[float], bool]] = {
    "loss/diverges": lambda times_its_best: times_its_best > 1.7,
    "loss/not-decreasing": lambda fall: fall < 0.12,
    "loss/head-stuck": lambda from_chance: from_chance < 0.08,
}
FIRST = 40  # iterations before the first look
EVERY = 10  # iterations between two looks, at least; later a fortieth of those done
MOST_SHARE = 0.01  # of the time may go into looks
_RAMP = "ramp"  # its rates are not the config's; nothing of it is judged before its end


@dataclass(frozen=True)
class Certain:
    """A failure that no further iteration can take back."""

    rule: str
    looks: int
    iterations: int  # done until then
    last: int  # number of the last of them

    def words(self) -> str:
        """`loss/diverges was certain (held for 3 looks)`."""
        held = f" (held for {self.looks} looks)" if self.looks > 1 else ""
        return f"{self.rule} was certain{held}"


def deciding(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """Those whose failure may end a training."""
    return tuple(
        rule
        for rule in rules
        if rule.id in CERTAIN_AFTER and rule.status == "stable" and rule.ignored is None
    )


def failing(rules: Sequence[Rule], run: Run) -> list[str]:
    """Ids of the rules that fail plainly."""
    return [rule.id for rule in rules if _fails_plainly(judge_rule(rule, run).finding)]


def _fails_plainly(finding: Finding) -> bool:
    far_out = _PLAINLY.get(finding.rule)
    if finding.verdict is not Verdict.FAIL or far_out is None:
        return finding.verdict is Verdict.FAIL
    return finding.value is not None and far_out(finding.value)


def next_look(iterations: int) -> int:
    """After how many iterations to look again, having looked after so many."""
    return iterations + max(EVERY, iterations // 40)


class Held:
    """Counts for how many looks in a row each rule has failed."""

    def __init__(self, certain_after: Mapping[str, int] = CERTAIN_AFTER) -> None:
        """Before the first look."""
        self._certain_after = certain_after
        self._held: dict[str, int] = {}

    def look(self, failed: Sequence[str], iterations: int, last: int) -> Certain | None:
        """One more look: the first failure that is certain by now."""
        self._held = {rule: self._held.get(rule, 0) + 1 for rule in failed}
        for rule, looks in self._certain_after.items():
            if self._held.get(rule, 0) >= looks:
                return Certain(rule, self._held[rule], iterations, last)
        return None


class Looks:
    """Follows one training by its records, and says when a failure of its loss is certain."""

    def __init__(
        self,
        rules: Sequence[Rule],
        growing: sources.GrowingRun,
        *,
        clock_s: Callable[[], float] = time.monotonic,
        cost_s: Callable[[], float] = time.thread_time,
    ) -> None:
        """clock_s: of the wall; cost_s: processor time of this thread. Both in seconds."""
        self._rules = deciding(rules)
        self._growing = growing
        self._clock_s, self._cost_s = clock_s, cost_s
        self._held = Held()
        self._next = FIRST
        self._not_before_s = float("-inf")
        self.certain: Certain | None = None

    def enough(self, record: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """As `launch` asks it: what to tell the probe once no further iteration is needed."""
        certain = self.take(record)
        if certain is None:
            return None
        return {"i": certain.last, "done": certain.iterations, "why": certain.words()}

    def take(self, record: Mapping[str, Any]) -> Certain | None:
        """Add one record. The failure that is certain by it; None once one was told."""
        if self.certain is not None or not self._rules:
            return None
        self._growing.take(_scalars_of(record))
        done = self._growing.iterations
        if record.get("t") != "iter" or self._growing.phase == _RAMP:
            return None
        now_s = self._clock_s()
        due = done >= self._next or is_no_number(record)
        if not due or now_s < self._not_before_s:
            return None
        began_s = self._cost_s()
        failed = failing(self._rules, sources.so_far(self._growing))
        self._not_before_s = now_s + (self._cost_s() - began_s) / MOST_SHARE
        self._next = next_look(done)
        self.certain = self._held.look(failed, done, int(record["i"]))
        return self.certain


def _scalars_of(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The losses and the rate of an iteration, without what no look asks for."""
    if record.get("t") != "iter":
        return record
    return {key: record[key] for key in ("t", "i", "scalars") if key in record}


def is_no_number(record: Mapping[str, Any]) -> bool:
    """Whether the loss is one of the words that records have for NaN and the infinities."""
    scalars = record.get("scalars")
    return isinstance(scalars, Mapping) and isinstance(scalars.get("total_loss"), str)
