"""Trains at a lower rate, to see whether it is the rate that keeps a training from learning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from d2check import sources
from d2check.harness.amend import amend
from d2check.harness.launch import launch
from d2check.harness.phases import LOADER, RAMP, WORST_BATCH
from d2check.harness.plan import Plan
from d2check.model import Finding, RunReport, Scalar, Verdict
from d2check.rules.judge import judge
from d2check.rules.model import Rule
from d2check.training import finish

LOWER = "lower-rate"  # the folder of that training, inside the first one's
SHARE = 0.1  # of the rate as configured
ABOVE_USUAL = 1.5  # times; below it a lower rate would hardly learn sooner


def wants_lower_rate(plan: Plan, judged: Sequence[RunReport]) -> bool:
    """Whether a ramp left open if the classifier learns too late or the rate keeps it from it."""
    if not plan.confirm or not any(phase.name == RAMP for phase in plan.phases):
        return False
    return any(_share(one) is not None and any(map(_is_open, one.findings)) for one in judged)


def _is_open(finding: Finding) -> bool:
    return (
        finding.phase == RAMP
        and finding.verdict is Verdict.SKIP
        and finding.ignored is None
        and finding.extras.get("recognised") is not None
        and finding.extras["holds"] == "no"
    )


def _share(judged: RunReport) -> float | None:
    """Of the rate that is tried: a tenth, or the usual one; None where it is not above that."""
    for finding in judged.findings:
        times = finding.extras.get("times_usual")
        if finding.phase == RAMP and isinstance(times, float):
            return max(SHARE, 1 / times) if times > ABOVE_USUAL else None
    return None


def try_lower_rate(
    plan: Plan,
    rules: Sequence[Rule],
    judged: Sequence[RunReport],
    *,
    on_training: Callable[[str, Plan], None] = lambda words, plan: None,
    on_record: Callable[[dict[str, Any]], None] = lambda record: None,
    on_line: Callable[[str], None] = lambda line: None,
) -> None:
    """Train the same once more, with all rates times one number below 1, in a process of its own.

    The seed and all else is the same. What it has learned is added to the first run's folder as the
    facts `control_lr`, `control_learned` and `control_recognised`; nothing where its ramp could not
    be judged. Raises Interrupted where the user ended it.
    """
    share = next(share for one in judged if (share := _share(one)) is not None)
    lower = at_share(plan, share)
    on_training("the same at a lower rate, to see whether it learns then", lower)
    lower.folder.mkdir()
    finish(launch(lower, on_record, on_line))
    on_ramp = [rule for rule in rules if rule.phase == RAMP]
    for run in sources.read(lower.folder):
        for finding in judge(on_ramp, run):
            if finding.extras.get("recognised") is None:
                continue
            facts: dict[str, Scalar] = {
                "control_lr": finding.extras["lr_peak"],
                "control_learned": finding.extras["learned"],
                "control_recognised": finding.extras["recognised"],
            }
            amend(plan.folder, facts)


def at_share(plan: Plan, share: float) -> Plan:
    """The plan of the same training with other rates; it measures neither loading nor memory."""
    phases = tuple(
        replace(phase, rate_share=share)
        for phase in plan.phases
        if phase.name not in (LOADER, WORST_BATCH)
    )
    return replace(plan, folder=plan.folder / LOWER, phases=phases)
