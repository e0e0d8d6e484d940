"""A ramp that fails is trained again, slower and with another seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from d2check import sources
from d2check.harness.amend import amend
from d2check.harness.launch import launch
from d2check.harness.phases import (
    AS_CONFIGURED,
    DEFAULT_ITERATIONS,
    RAMP,
    SLOW_RAMP,
    PlannedPhase,
    total_iterations,
)
from d2check.harness.plan import Plan
from d2check.model import EndingKind, Finding, RunReport, Verdict
from d2check.rules.judge import judge
from d2check.rules.model import Rule

CONFIRM = "confirm"  # the second run's folder, inside the first one's
_BAD = (Verdict.WARN, Verdict.FAIL)


def wants_confirmation(plan: Plan, judged: Sequence[RunReport]) -> bool:
    """Whether a ramp has failed that no second one has yet confirmed or cleared."""
    ramps = any(phase.name == RAMP for phase in plan.phases)
    return ramps and plan.confirm and any(_bad_ramps(one.findings) for one in judged)


def confirm_ramp(
    plan: Plan,
    rules: Sequence[Rule],
    *,
    on_training: Callable[[str, Plan], None] = lambda words, plan: None,
    on_record: Callable[[dict[str, Any]], None] = lambda record: None,
    on_line: Callable[[str], None] = lambda line: None,
) -> bool | None:
    """Whether a slower ramp with another seed fails as well, in a process of its own.

    How fast the rate climbs and the seed change what happens at the edge of stability: one ramp
    that fails is a warning. The answer is added to the first run's folder as the fact
    `ramp_confirmed`; None where the second ramp could not be judged. NaN before it was reached, at
    a rate below the peak, says the same. A user's own command keeps its own seed.
    """
    second = slower(plan)
    on_training("the ramp once more, slower and with another seed", second)
    second.folder.mkdir()
    launch(second, on_record, on_line)
    on_ramp = [rule for rule in rules if rule.phase == RAMP]
    # What would fail if it were confirmed; a mere warning of the second ramp confirms nothing.
    runs = [
        replace(run, facts={**run.facts, "ramp_confirmed": True})
        for run in sources.read(second.folder)
    ]
    findings = [finding for run in runs for finding in judge(on_ramp, run)]
    if any(finding.verdict is Verdict.FAIL for finding in findings) or any(
        run.ending.kind is EndingKind.NON_FINITE for run in runs
    ):
        confirmed = True
    elif any(finding.verdict in (Verdict.PASS, Verdict.WARN) for finding in findings):
        confirmed = False
    else:
        return None
    amend(plan.folder, {"ramp_confirmed": confirmed})
    return confirmed


def slower(plan: Plan) -> Plan:
    """The plan of the second ramp: as long as configured, the slow climb, the next seed.

    As long, because what a classifier forgets it must first have learned, and because a climb from
    fresh weights fails where one from trained ones does not.
    """
    first = (p.iterations for p in plan.phases if p.name == AS_CONFIGURED)
    before = min(next(first, None) or DEFAULT_ITERATIONS, DEFAULT_ITERATIONS)
    phases = (PlannedPhase(AS_CONFIGURED, before), SLOW_RAMP)
    entry = dict(plan.entry)
    if entry.get("kind") == "config":
        entry["seed"] = (entry.get("seed") or 0) + 1001
    return replace(
        plan,
        folder=plan.folder / CONFIRM,
        phases=phases,
        iterations=total_iterations(phases),
        entry=entry,
    )


def _bad_ramps(findings: Sequence[Finding]) -> list[Finding]:
    return [f for f in findings if f.phase == RAMP and f.verdict in _BAD and f.ignored is None]
