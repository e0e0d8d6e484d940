"""Trainings with and without the proposed changes: how they are planned, told and found again."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from d2check import pipeline, sources
from d2check.errors import UsageError
from d2check.fleet import RuleChoice, judge_run
from d2check.harness.phases import PlannedPhase
from d2check.harness.plan import Plan
from d2check.model import Ending, EndingKind, Override, Verdict
from d2check.probe import wire
from d2check.rules.load import load_rules
from d2check.verify import known_proofs, proof, prove

ITERATIONS = 120
CONFIG = """
MODEL: {META_ARCHITECTURE: GeneralizedRCNN}
SOLVER: {BASE_LR: 0.5, IMS_PER_BATCH: 4, MAX_ITER: 1000, WARMUP_ITERS: 10}
"""


@pytest.fixture(scope="module")
def rules():
    wanted = ("loss/diverges", "schedule/lr-unscaled")
    return [rule for rule in load_rules() if rule.id in wanted]


@pytest.fixture
def plan(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    entry = {"kind": "config", "config": "x.yaml", "overrides": ["A.B", "1"], "seed": 7}
    phases = (PlannedPhase("as-configured", ITERATIONS),)
    return Plan(folder, (sys.executable,), entry, Path(), ITERATIONS, phases=phases)


def write_run(plan: Plan) -> None:
    """A training that learns at a low rate and diverges at a high one."""
    overrides = list(plan.entry["overrides"])
    rate = 0.005 if "SOLVER.BASE_LR" in overrides else 0.5
    facts = {"images_per_batch": 4, "meta_architecture": "GeneralizedRCNN", "seed": 7}
    records = [
        {"t": "begin", "rank": 0, "world_size": 1, "facts": facts},
        {"t": "phase", "name": "as-configured", "first_iteration": 0},
    ]
    for i in range(ITERATIONS):
        loss = 2.0 * 0.99**i if rate < 0.1 or i < 30 else 1.5 * 1.2 ** (i - 30)
        scalars = {"total_loss": loss, "lr": rate}
        records.append({"t": "iter", "i": i, "clock": float(i), "scalars": scalars})
    records.append({"t": "end", "kind": "stopped", "i": ITERATIONS - 1, "clock": 0.0})
    (plan.folder / wire.RECORDS).write_text("".join(map(wire.encode, records)))
    (plan.folder / wire.PLAN).write_text(json.dumps(plan.to_plain()))
    (plan.folder / wire.CONFIG).write_text(CONFIG.replace("0.5", str(rate)))


@pytest.fixture
def trainings(monkeypatch):
    """The plans that were launched, each written as its rate asks for."""
    launched = []

    def train(plan, rules, on_record, on_line):
        launched.append(plan)
        write_run(plan)
        return Ending()

    monkeypatch.setattr(proof, "train", train)
    return launched


def first_of(plan, rules):
    write_run(plan)
    (run,) = sources.read(plan.folder)
    return judge_run(rules, run)


def proofs(judged):
    return {f.rule: fix.proof.outcome for f in judged.findings for fix in f.fixes if fix.proof}


def test_the_change_is_tried_and_so_is_the_same_without_it(plan, rules, trainings):
    first = first_of(plan, rules)
    assert {f.rule: f.verdict for f in first.findings}["loss/diverges"] is Verdict.FAIL
    told = []
    verified = prove(plan, rules, first, on_training=lambda words, plan: told.append(words))
    assert proofs(verified.judged) == {"schedule/lr-unscaled": "proven"}
    assert told == [
        "trained again with SOLVER.BASE_LR 0.005",
        "trained again without SOLVER.BASE_LR 0.005",
    ]
    changed, control = trainings
    assert changed.entry["overrides"] == ["A.B", "1", "SOLVER.BASE_LR", "0.005"]
    assert control.entry["overrides"] == ["A.B", "1"]
    assert changed.entry["seed"] == control.entry["seed"] != plan.entry["seed"]
    assert {changed.folder.parent, control.folder.parent} == {plan.folder}
    assert "SOLVER.BASE_LR 0.005" in verified.notes[0]


def test_a_folder_tells_its_proofs_again_and_is_one_run(plan, rules, trainings):
    verified = prove(plan, rules, first_of(plan, rules))
    (run,) = sources.read(plan.folder)
    again = known_proofs(judge_run(rules, run), rules)
    assert again.findings == verified.judged.findings
    report = pipeline.audit([plan.folder.parent], RuleChoice(expression="diverges or unscaled"))
    assert len(report.runs) == 1
    assert proofs(report.runs[0])["schedule/lr-unscaled"] == "proven"


def test_a_change_that_did_not_help_is_not_tried_without(plan, rules, monkeypatch):
    launched = []

    def train(again, rules, on_record, on_line):
        launched.append(again)
        write_run(replace(again, entry={**again.entry, "overrides": []}))
        return Ending()

    monkeypatch.setattr(proof, "train", train)
    verified = prove(plan, rules, first_of(plan, rules))
    assert proofs(verified.judged) == {"schedule/lr-unscaled": "refuted"}
    assert len(launched) == 1


def test_where_nothing_is_proposed_nothing_is_trained(plan, trainings):
    verified = prove(plan, (), first_of(plan, ()))
    assert trainings == []
    assert "nothing was tried" in verified.notes[0]


def test_an_interrupt_leaves_the_first_verdicts(plan, rules, monkeypatch):
    def train(again, rules, on_record, on_line):
        return Ending(EndingKind.INTERRUPTED)

    monkeypatch.setattr(proof, "train", train)
    first = first_of(plan, rules)
    verified = prove(plan, rules, first)
    assert verified.interrupted
    assert verified.judged is first


def test_what_was_interrupted_proves_nothing_in_a_later_audit(plan, rules, trainings):
    first = first_of(plan, rules)
    prove(plan, rules, first)
    records = plan.folder / "with-fix" / wire.RECORDS
    *rows, _end = records.read_text().splitlines(keepends=True)
    end = {"t": "end", "kind": "interrupted", "i": 20, "clock": 0.0}
    records.write_text("".join(rows[:22]) + wire.encode(end))
    assert proofs(known_proofs(first, rules)) == {}


def test_a_change_with_which_no_training_begins_is_told(plan, rules, monkeypatch):
    def train(again, rules, on_record, on_line):
        raise UsageError("unknown key SOLVER.BASE_LR")

    monkeypatch.setattr(proof, "train", train)
    first = first_of(plan, rules)
    verified = prove(plan, rules, first)
    assert verified.judged is first
    assert "could not be judged: unknown key SOLVER.BASE_LR" in verified.notes[0]


@pytest.mark.parametrize(
    ("config", "proposed", "expected"),
    [
        ("x.yaml", (600, 900), ["A", "(600, 900)"]),
        ("x.yaml", 1.0, ["A", "1.0"]),
        ("x.py", 0.01, ["A=0.01"]),
        ("x.py", (600, 900), ["A=[600, 900]"]),
    ],
)
def test_changes_are_written_as_the_kind_of_config_reads_them(
    plan, rules, config, proposed, expected
):
    plan = replace(plan, entry={"kind": "config", "config": config, "overrides": []})
    first = first_of(plan, rules)
    again = proof.amended(plan, "with-fix", [Override("A", None, proposed)], first)
    assert again.entry["overrides"] == expected
