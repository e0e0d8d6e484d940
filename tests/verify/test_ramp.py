"""A ramp is run again, slower and with another seed, before it may FAIL, or PASS far up."""

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
from d2check.training import Interrupted
from d2check.verify import ramp as verify

AS_CONFIGURED = 30


@pytest.fixture
def plan(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    phases = (PlannedPhase("as-configured", AS_CONFIGURED), QUICK_RAMP)
    entry = {"kind": "config", "seed": 7}
    return Plan(folder, (sys.executable,), entry, Path(), iterations=120, phases=phases)


HEAD = "fast_rcnn/fg_cls_accuracy"
LEARNED = 0.9  # of the objects, ahead of the ramp


def write_run(
    plan: Plan,
    last_loss: float,
    facts: dict[str, object] | None = None,
    recognised: float | None = None,
) -> None:
    """A run whose loss goes from 2 to `last_loss` at the peak of the rate.

    recognised: share of the objects, at that peak; None for a model that has no such figure.
    """
    ramp = plan.phases[-1]
    records = [
        {"t": "begin", "rank": 0, "world_size": 1, "facts": {"lr_peak": 0.2, **(facts or {})}},
        {"t": "phase", "name": "as-configured", "first_iteration": 0},
    ]
    for i in range(plan.iterations):
        scalars = {"total_loss": 2.0, "lr": 0.001}
        record = {"t": "iter", "i": i, "clock": float(i), "scalars": scalars}
        if i == AS_CONFIGURED:
            records.append({"t": "phase", "name": "ramp", "first_iteration": i})
        if i >= AS_CONFIGURED:
            record["lr_used"] = 0.2 * min((i - AS_CONFIGURED + 1) / ramp.climb, 1)
        if recognised is not None:
            scalars[HEAD] = LEARNED * min(i / AS_CONFIGURED, 1)
        if i >= AS_CONFIGURED + ramp.climb:
            scalars["total_loss"] = last_loss
            if recognised is not None:
                scalars[HEAD] = recognised
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
    write_run(plan, 9.0)
    assert verify.wants_confirmation(plan, rules)
    assert not verify.wants_confirmation(replace(plan, confirm=False), rules)
    assert not verify.wants_confirmation(replace(plan, phases=plan.phases[:1]), rules)
    assert not verify.wants_confirmation(plan, [replace(rules[0], ignored="known")])
    write_run(plan, 1.0)
    assert not verify.wants_confirmation(plan, rules)


def test_a_rise_that_a_second_ramp_could_not_make_a_failure_is_not_tried_again(rules, plan):
    write_run(plan, 2.9)
    assert verdict(rules, plan) is Verdict.WARN
    assert not verify.wants_confirmation(plan, rules)


FAR = {"images_per_batch": 1}  # the linear rule: 0.00125, a hundred and sixtieth of the peak


@pytest.mark.parametrize(
    ("second_loss", "confirmed", "final"),
    [(1.0, True, Verdict.PASS), (9.0, False, Verdict.WARN)],
)
def test_one_ramp_that_holds_far_above_the_usual_rate_is_tried_again(
    rules, plan, monkeypatch, second_loss, confirmed, final
):
    def launch(second, on_record, on_line):
        write_run(second, second_loss, FAR)
        return Ending()

    write_run(plan, 1.0, FAR)
    assert verdict(rules, plan) is Verdict.SKIP
    assert verify.wants_confirmation(plan, rules)
    monkeypatch.setattr(verify, "launch", launch)
    assert verify.confirm_ramp(plan, rules) is confirmed
    assert verdict(rules, plan) is final
    assert not verify.wants_confirmation(plan, rules)


def test_what_a_second_ramp_forgot_alone_is_told(rules, plan, monkeypatch):
    def launch(second, on_record, on_line):
        write_run(second, 1.0, FAR, recognised=0.0)
        return Ending()

    write_run(plan, 1.0, FAR, recognised=0.9)
    monkeypatch.setattr(verify, "launch", launch)
    assert verify.confirm_ramp(plan, rules) is False
    (run,) = sources.read(plan.folder)
    finding = judge_rule(rules[0], run).finding
    assert finding.verdict is Verdict.WARN
    assert "90% of the objects are recognised, but 0% in a second, slower ramp" in finding.message
    assert "which had learned to recognise 90%" in finding.message


def test_ctrl_c_in_the_second_ramp_ends_the_check(rules, plan, monkeypatch):
    def launch(second, on_record, on_line):
        write_run(second, 9.0)
        return Ending(kind=EndingKind.INTERRUPTED)

    write_run(plan, 9.0)
    before = (plan.folder / wire.RECORDS).read_text()
    monkeypatch.setattr(verify, "launch", launch)
    with pytest.raises(Interrupted):
        verify.confirm_ramp(plan, rules)
    assert (plan.folder / wire.RECORDS).read_text() == before
