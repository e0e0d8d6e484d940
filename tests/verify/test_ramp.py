"""A ramp that fails is run again, slower and with another seed, before it may FAIL."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from d2check import sources
from d2check.harness.phases import QUICK_RAMP, PlannedPhase
from d2check.harness.plan import Plan
from d2check.model import Ending, EndingKind, Verdict
from d2check.probe import wire
from d2check.rules.judge import judge_rule
from d2check.verify import ramp as verify

AS_CONFIGURED = 30


@pytest.fixture
def plan(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    phases = (PlannedPhase("as-configured", AS_CONFIGURED), QUICK_RAMP)
    entry = {"kind": "config", "seed": 7}
    return Plan(folder, (sys.executable,), entry, Path(), iterations=120, phases=phases)


def write_run(plan: Plan, last_loss: float) -> None:
    """A run whose loss goes from 2 to `last_loss` at the peak of the rate."""
    ramp = plan.phases[-1]
    records = [
        {"t": "begin", "rank": 0, "world_size": 1, "facts": {"lr_peak": 0.2}},
        {"t": "phase", "name": "as-configured", "first_iteration": 0},
    ]
    for i in range(plan.iterations):
        scalars = {"total_loss": 2.0, "lr": 0.001}
        record = {"t": "iter", "i": i, "clock": float(i), "scalars": scalars}
        if i == AS_CONFIGURED:
            records.append({"t": "phase", "name": "ramp", "first_iteration": i})
        if i >= AS_CONFIGURED:
            record["lr_used"] = 0.2 * min((i - AS_CONFIGURED + 1) / ramp.climb, 1)
        if i >= AS_CONFIGURED + ramp.climb:
            scalars["total_loss"] = last_loss
        records.append(record)
    records.append({"t": "end", "kind": "stopped", "i": plan.iterations - 1, "clock": 0.0})
    (plan.folder / wire.RECORDS).write_text("".join(map(wire.encode, records)))
    (plan.folder / wire.PLAN).write_text(json.dumps(plan.to_plain()))


def verdict(rules, plan):
    (run,) = sources.read(plan.folder)
    return judge_rule(rules[0], run).finding.verdict


@pytest.mark.parametrize(
    ("second_loss", "confirmed", "final"),
    [(9.0, True, Verdict.FAIL), (1.0, False, Verdict.WARN)],
)
def test_the_second_ramp_decides(rules, plan, monkeypatch, second_loss, confirmed, final):
    def launch(second, on_record, on_line):
        write_run(second, second_loss)
        return Ending()

    write_run(plan, 9.0)
    assert verdict(rules, plan) is Verdict.WARN
    monkeypatch.setattr(verify, "launch", launch)
    assert verify.confirm_ramp(plan, rules) is confirmed
    assert verdict(rules, plan) is final


def test_a_second_ramp_that_shows_nothing_changes_nothing(rules, plan, monkeypatch):
    def launch(second, on_record, on_line):
        (second.folder / wire.RECORDS).write_text(
            wire.encode({"t": "begin", "rank": 0, "world_size": 1, "facts": {}})
        )
        return Ending()

    write_run(plan, 9.0)
    monkeypatch.setattr(verify, "launch", launch)
    assert verify.confirm_ramp(plan, rules) is None
    assert verdict(rules, plan) is Verdict.WARN


def test_a_second_run_that_is_nan_before_its_ramp_confirms(rules, plan, monkeypatch):
    def launch(second, on_record, on_line):
        write_run(second, 1.0)
        path = second.folder / wire.RECORDS
        lines = path.read_text().splitlines(keepends=True)[:20]
        words = "Loss became infinite or NaN at iteration=17!"
        end = {"t": "end", "kind": "crashed", "clock": 0.0, "error": "FloatingPointError"}
        path.write_text("".join(lines) + wire.encode({**end, "message": words, "stage": "train"}))
        (read,) = sources.read(second.folder)
        assert read.ending.kind is EndingKind.NON_FINITE
        return Ending()

    write_run(plan, 9.0)
    monkeypatch.setattr(verify, "launch", launch)
    assert verify.confirm_ramp(plan, rules) is True
    assert verdict(rules, plan) is Verdict.FAIL


@pytest.mark.parametrize(("first", "second"), [(30, 30), (300, 300), (2000, 300), (None, 300)])
def test_the_second_run_trains_as_long_as_the_first_before_its_ramp(plan, first, second):
    plan = replace(plan, phases=(PlannedPhase("as-configured", first), QUICK_RAMP))
    assert verify.slower(plan).phases[0] == PlannedPhase("as-configured", second)


def test_the_second_ramp_is_slower_with_another_seed_in_a_folder_of_its_own(plan):
    second = verify.slower(plan)
    assert second.folder.parent == plan.folder
    assert second.entry["seed"] != plan.entry["seed"]
    assert second.phases[-1].climb > 2 * plan.phases[-1].climb
    assert second.iterations == sum(phase.iterations for phase in second.phases)


def test_the_second_run_is_no_output_of_its_own_for_an_audit(rules, plan, monkeypatch):
    def launch(second, on_record, on_line):
        write_run(second, 9.0)
        return Ending()

    write_run(plan, 9.0)
    monkeypatch.setattr(verify, "launch", launch)
    verify.confirm_ramp(plan, rules)
    assert list(sources.discover([plan.folder.parent])) == [plan.folder]


def test_only_a_planned_ramp_that_failed_wants_confirmation(rules, plan):
    from d2check.fleet import judge_run

    write_run(plan, 9.0)
    judged = [judge_run(rules, run) for run in sources.read(plan.folder)]
    assert verify.wants_confirmation(plan, judged)
    assert not verify.wants_confirmation(replace(plan, confirm=False), judged)
    write_run(plan, 1.0)
    judged = [judge_run(rules, run) for run in sources.read(plan.folder)]
    assert not verify.wants_confirmation(plan, judged)
