"""Where nothing was learned, the same training at a lower rate tells whether it can be."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from d2check import sources
from d2check.fleet import judge_run
from d2check.harness.phases import QUICK_RAMP, PlannedPhase
from d2check.harness.plan import Plan
from d2check.model import Ending, EndingKind, Verdict
from d2check.probe import wire
from d2check.training import Interrupted
from d2check.verify import lower

HEAD = "fast_rcnn/fg_cls_accuracy"
AS_CONFIGURED = 60


@pytest.fixture
def plan(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    phases = (
        PlannedPhase("loader", 0),
        PlannedPhase("as-configured", AS_CONFIGURED),
        PlannedPhase("worst-batch", 0),
        QUICK_RAMP,
    )
    entry = {"kind": "config", "seed": 7}
    return Plan(folder, (sys.executable,), entry, Path(), iterations=180, phases=phases)


def write_run(plan: Plan, recognised: float, *, lr_peak: float = 0.2, images: int = 1) -> None:
    """A run with a sound loss whose classifier ends by recognising that share."""
    share = plan.phases[-1].rate_share
    facts = {"lr_peak": lr_peak * share, "images_per_batch": images}
    records = [
        {"t": "begin", "rank": 0, "world_size": 1, "facts": facts},
        {"t": "phase", "name": "as-configured", "first_iteration": 0},
    ]
    losses = np.linspace(2.0, 1.5, plan.iterations)
    for i in range(plan.iterations):
        known = recognised * min(i / AS_CONFIGURED, 1)
        scalars = {"total_loss": float(losses[i]), "loss_rpn_cls": 0.69, "lr": 0.001, HEAD: known}
        record = {"t": "iter", "i": i, "clock": float(i), "scalars": scalars}
        if i == AS_CONFIGURED:
            records.append({"t": "phase", "name": "ramp", "first_iteration": i})
        if i >= AS_CONFIGURED:
            climbed = min((i - AS_CONFIGURED + 1) / QUICK_RAMP.climb, 1)
            record["lr_used"] = lr_peak * share * climbed
        records.append(record)
    records.append({"t": "end", "kind": "stopped", "i": plan.iterations - 1, "clock": 0.0})
    (plan.folder / wire.RECORDS).write_text("".join(map(wire.encode, records)))
    (plan.folder / wire.PLAN).write_text(json.dumps(plan.to_plain()))


def judged(rules, plan):
    return [judge_run(rules, run) for run in sources.read(plan.folder)]


def finding(rules, plan):
    ((one,),) = (each.findings for each in judged(rules, plan))
    return one


def trains(monkeypatch, recognised):
    """Trainings that are launched end so."""
    plans = []

    def launch(plan, on_record, on_line):
        plans.append(plan)
        write_run(plan, recognised)
        return Ending()

    monkeypatch.setattr(lower, "launch", launch)
    return plans


def test_what_learns_at_a_tenth_of_the_rate_only_is_warned_of(rules, plan, monkeypatch):
    plans = trains(monkeypatch, 0.8)
    write_run(plan, 0.0)
    assert finding(rules, plan).verdict is Verdict.SKIP
    lower.try_lower_rate(plan, rules, judged(rules, plan))
    after = finding(rules, plan)
    assert after.verdict is Verdict.WARN
    assert "0% of the objects are recognised; at 0.02" in after.message
    (tried,) = plans
    assert tried.entry == plan.entry  # the same seed: the rate alone is another
    assert [(p.name, p.rate_share) for p in tried.phases] == [("as-configured", 0.1), ("ramp", 0.1)]


def test_what_learns_at_neither_rate_stays_open(rules, plan, monkeypatch):
    trains(monkeypatch, 0.0)
    write_run(plan, 0.0)
    lower.try_lower_rate(plan, rules, judged(rules, plan))
    assert finding(rules, plan).verdict is Verdict.SKIP


def test_a_lower_training_that_breaks_changes_nothing(rules, plan, monkeypatch):
    def launch(plan, on_record, on_line):
        begin = {"t": "begin", "rank": 0, "world_size": 1, "facts": {}}
        (plan.folder / wire.RECORDS).write_text(wire.encode(begin))
        return Ending()

    monkeypatch.setattr(lower, "launch", launch)
    write_run(plan, 0.0)
    before = (plan.folder / wire.RECORDS).read_text()
    lower.try_lower_rate(plan, rules, judged(rules, plan))
    assert (plan.folder / wire.RECORDS).read_text() == before


@pytest.mark.parametrize(
    ("recognised", "lr_peak", "images", "wanted"),
    [
        (0.0, 0.2, 1, True),
        (0.8, 0.2, 1, False),  # it learns
        (0.4, 0.2, 1, True),
        (0.4, 0.05, 16, False),  # enough, that near the usual rate
        (0.0, 0.02, 16, False),  # the linear rule: a lower rate would learn later yet
        (0.0, 0.05, 16, True),
    ],
)
def test_it_is_tried_where_little_is_learned_at_a_high_rate(
    rules, plan, recognised, lr_peak, images, wanted
):
    write_run(plan, recognised, lr_peak=lr_peak, images=images)
    assert lower.wants_lower_rate(plan, judged(rules, plan)) is wanted
    assert not lower.wants_lower_rate(replace(plan, confirm=False), judged(rules, plan))


def test_the_lower_rate_is_no_lower_than_the_linear_rule(rules, plan, monkeypatch):
    plans = trains(monkeypatch, 0.8)
    write_run(plan, 0.0, lr_peak=0.05, images=16)
    lower.try_lower_rate(plan, rules, judged(rules, plan))
    assert plans[0].phases[-1].rate_share == pytest.approx(0.4)


def test_ctrl_c_in_the_training_at_a_lower_rate_ends_the_check(rules, plan, monkeypatch):
    def launch(lower_plan, on_record, on_line):
        write_run(lower_plan, 0.8)
        return Ending(kind=EndingKind.INTERRUPTED)

    monkeypatch.setattr(lower, "launch", launch)
    write_run(plan, 0.0)
    with pytest.raises(Interrupted):
        lower.try_lower_rate(plan, rules, judged(rules, plan))
    assert finding(rules, plan).verdict is Verdict.SKIP
