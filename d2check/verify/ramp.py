"""A ramp whose verdict one seed cannot settle is trained again, slower and with another seed."""

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
from d2check.model import EndingKind, Run, Scalar, Verdict
from d2check.rules.judge import judge
from d2check.rules.model import Rule
from d2check.training import finish

CONFIRM = "confirm"  # the second run's folder, inside the first one's
_WORST_FIRST = (Verdict.FAIL, Verdict.WARN, Verdict.PASS, Verdict.SKIP)


def wants_confirmation(plan: Plan, rules: Sequence[Rule]) -> bool:
    """Whether a ramp was recorded of which a second one that does the same changes a verdict.

    So it is of one that has failed, and of one that held far above the usual rate.
    """
    on_ramp = _on_ramp(rules)
    if not on_ramp or not plan.confirm or not any(p.name == RAMP for p in plan.phases):
        return False
    return any(
        _verdict(on_ramp, run) is not _if_confirmed(on_ramp, run)
        for run in _read(plan)
        if "ramp_confirmed" not in run.facts
    )


def confirm_ramp(
    plan: Plan,
    rules: Sequence[Rule],
    *,
    on_training: Callable[[str, Plan], None] = lambda words, plan: None,
    on_record: Callable[[dict[str, Any]], None] = lambda record: None,
    on_line: Callable[[str], None] = lambda line: None,
) -> bool | None:
    """Whether a slower ramp with another seed does the same, in a process of its own.

    How fast the rate climbs and the seed change what happens at the edge of stability: one ramp
    that fails is a warning, and one that holds proves little. The answer is added to the first
    run's folder as the fact `ramp_confirmed`, with what was recognised if the second alone failed
    (`second_learned`, `second_recognised`); None where the second ramp could not be judged. NaN
    before it was reached, at a rate below the peak, is a failure too. A user's own command keeps
    its own seed. Raises Interrupted where the user ended the second training.
    """
    on_ramp = _on_ramp(rules)
    first = next((said for run in _read(plan) if (said := _if_confirmed(on_ramp, run))), None)
    second = slower(plan)
    on_training("the ramp once more, slower and with another seed", second)
    second.folder.mkdir()
    finish(launch(second, on_record, on_line))
    for run in _read(second):
        broke = run.ending.kind is EndingKind.NON_FINITE
        said = Verdict.FAIL if broke else _if_confirmed(on_ramp, run)
        if said in (None, Verdict.SKIP):
            continue
        confirmed = said is first
        facts: dict[str, Scalar] = {"ramp_confirmed": confirmed}
        if first is Verdict.PASS and not confirmed:
            facts |= _recognised(on_ramp, run)
        amend(plan.folder, facts)
        return confirmed
    return None


def _on_ramp(rules: Sequence[Rule]) -> list[Rule]:
    return [rule for rule in rules if rule.phase == RAMP and rule.ignored is None]


def _read(plan: Plan) -> list[Run]:
    return list(sources.read(plan.folder))


def _if_confirmed(on_ramp: Sequence[Rule], run: Run) -> Verdict | None:
    """What would be said of it if another ramp had done the same."""
    return _verdict(on_ramp, replace(run, facts={**run.facts, "ramp_confirmed": True}))


def _verdict(on_ramp: Sequence[Rule], run: Run) -> Verdict | None:
    """The worst of the rules' verdicts, SKIP where none could be given."""
    verdicts = [finding.verdict for finding in judge(on_ramp, run)]
    return next((v for v in _WORST_FIRST if v in verdicts), None)


def _recognised(on_ramp: Sequence[Rule], run: Run) -> dict[str, Scalar]:
    """How much of the foreground its classifier recognised at the end, and had learned before."""
    for finding in judge(on_ramp, run):
        learned, recognised = finding.extras.get("learned"), finding.extras.get("recognised")
        if learned is not None and recognised is not None:
            return {"second_learned": learned, "second_recognised": recognised}
    return {}


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
