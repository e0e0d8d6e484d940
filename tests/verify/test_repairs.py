"""Which proposed changes a rerun tries, and what its outcome says of each."""

from __future__ import annotations

import pytest

from d2check.model import Finding, Fix, Override, Run, RunReport, Verdict
from d2check.rules.load import load_rules
from d2check.verify.repairs import changes, mended, repairs, wants_control, with_proofs

RATE = Fix("the linear rule", "safe", (Override("SOLVER.BASE_LR", 0.5, 0.005),))
LOWER = Fix("a tenth", "try", (Override("SOLVER.BASE_LR", 0.5, 0.05),))
WORKERS = Fix("loading takes 4 s", "safe", (Override("DATALOADER.NUM_WORKERS", 0, 4),))
LOOK = Fix("nothing else helps", action="Look at one batch")


@pytest.fixture(scope="module")
def rules():
    return load_rules()


def found(rule, verdict, *fixes, **fields):
    words = {"message": f"{rule} says so", **fields}
    return Finding(rule, rule, Verdict(verdict), "high", "stable", fixes=fixes, **words)


def run_of(*findings):
    return RunReport(Run("out/run-1"), findings)


DIVERGED = run_of(
    found("schedule/lr-unscaled", "WARN", RATE),
    found("loss/diverges", "FAIL", LOWER, explained_by="schedule/lr-unscaled"),
    found("time/data-bound", "PASS"),
)


def outcome(first, changed, control, rules, rule="schedule/lr-unscaled"):
    judged = with_proofs(first, changed, control, rules)
    (finding,) = [f for f in judged.findings if f.rule == rule]
    return finding.fixes[0].proof


def test_a_root_cause_gives_the_change_and_its_symptoms_are_to_be_cured():
    (repair,) = repairs(DIVERGED)
    assert repair.of == "schedule/lr-unscaled"
    assert repair.cures == ("loss/diverges",)
    assert changes([repair]) == RATE.overrides


def test_a_symptom_gives_the_change_where_its_cause_knows_none():
    judged = run_of(
        found("labels/no-foreground", "FAIL", LOOK),
        found("loss/diverges", "FAIL", LOOK, LOWER, explained_by="labels/no-foreground"),
    )
    (repair,) = repairs(judged)
    assert (repair.of, repair.fix) == ("loss/diverges", LOWER)
    assert repair.cures == ("labels/no-foreground", "loss/diverges")


@pytest.mark.parametrize(
    "finding",
    [
        found("schedule/too-few-epochs", "WARN", RATE),
        found("loss/plateau", "FAIL", LOOK),
        found("loss/plateau", "FAIL", RATE, ignored="known"),
        found("loss/plateau", "PASS"),
    ],
)
def test_what_fails_nothing_or_knows_no_change_is_not_tried(finding):
    assert repairs(run_of(finding)) == ()


def test_two_failures_are_tried_together_and_the_graver_one_sets_a_key():
    judged = run_of(
        found("loss/diverges", "FAIL", RATE),
        found("time/data-bound", "FAIL", WORKERS),
        found("loss/spikes", "FAIL", LOWER),
    )
    tried = repairs(judged)
    assert changes(tried) == (*RATE.overrides, *WORKERS.overrides)
    assert [repair.at_odds for repair in tried] == [None, None, "SOLVER.BASE_LR"]


def test_what_passes_with_the_change_and_fails_again_without_it_is_proven(rules):
    mended_run = run_of(found("loss/diverges", "PASS", message="it never rises"))
    proof = outcome(DIVERGED, mended_run, DIVERGED, rules)
    assert proof.outcome == "proven"
    assert proof.after == "with the change loss/diverges passes (it never rises)"
    assert "loss/diverges fails" in proof.control


def test_what_passes_without_the_change_as_well_is_not_proven(rules):
    healthy = run_of(found("loss/diverges", "PASS"))
    proof = outcome(DIVERGED, healthy, healthy, rules)
    assert proof.outcome == "undecided"
    assert "without it, trained once more, loss/diverges passes" in proof.control


def test_nothing_seen_in_a_training_is_proven_without_a_control(rules):
    healthy = run_of(found("loss/diverges", "PASS"))
    assert outcome(DIVERGED, healthy, None, rules).outcome == "undecided"


def test_a_change_with_which_it_fails_again_is_refuted(rules):
    proof = outcome(DIVERGED, DIVERGED, None, rules)
    assert proof.outcome == "refuted"
    assert proof.after.startswith("with the change loss/diverges fails")


def test_a_change_that_breaks_what_passed_is_refuted(rules):
    broken = run_of(found("loss/diverges", "PASS"), found("time/data-bound", "FAIL"))
    proof = outcome(DIVERGED, broken, DIVERGED, rules)
    assert proof.outcome == "refuted"
    assert "but time/data-bound fails, which passed before" in proof.after


def test_of_two_changes_neither_is_blamed_for_what_both_broke(rules):
    first = run_of(
        found("loss/diverges", "FAIL", RATE),
        found("time/data-bound", "FAIL", WORKERS),
        found("memory/growth", "PASS"),
    )
    changed = run_of(
        found("loss/diverges", "PASS"),
        found("time/data-bound", "PASS"),
        found("memory/growth", "FAIL"),
    )
    for rule in ("loss/diverges", "time/data-bound"):
        assert outcome(first, changed, first, rules, rule).outcome == "undecided"


def test_what_could_not_be_judged_before_is_no_damage_of_the_change(rules):
    first = run_of(found("loss/diverges", "FAIL", RATE), found("time/data-bound", "SKIP"))
    changed = run_of(found("loss/diverges", "PASS"), found("time/data-bound", "FAIL"))
    assert outcome(first, changed, first, rules, "loss/diverges").outcome == "proven"


def test_a_rule_that_cannot_be_judged_with_the_change_leaves_it_open(rules):
    changed = run_of(found("loss/diverges", "SKIP", reason="only 5 rows"))
    proof = outcome(DIVERGED, changed, None, rules)
    assert proof.outcome == "undecided"
    assert proof.after == "with the change loss/diverges cannot be judged (only 5 rows)"


def test_only_what_a_training_showed_wants_a_control(rules):
    config_only = run_of(found("schedule/step-inside-warmup", "FAIL", RATE))
    healthy = run_of(found("schedule/step-inside-warmup", "PASS"))
    assert not wants_control(mended(config_only, healthy), rules)
    assert outcome(config_only, healthy, None, rules, "schedule/step-inside-warmup").outcome == (
        "proven"
    )
    assert wants_control(mended(DIVERGED, run_of(found("loss/diverges", "PASS"))), rules)
    assert mended(DIVERGED, DIVERGED) == ()


def test_what_was_not_tried_says_why(rules):
    first = run_of(found("loss/diverges", "FAIL", RATE), found("loss/spikes", "FAIL", LOWER))
    changed = run_of(found("loss/diverges", "PASS"), found("loss/spikes", "PASS"))
    proof = outcome(first, changed, first, rules, "loss/spikes")
    assert proof.outcome == "undecided"
    assert proof.after.startswith("not tried: SOLVER.BASE_LR")


def test_other_fixes_of_the_same_finding_get_no_proof(rules):
    first = run_of(found("loss/diverges", "FAIL", RATE, LOWER))
    changed = run_of(found("loss/diverges", "PASS"))
    judged = with_proofs(first, changed, first, rules)
    assert [fix.proof is not None for fix in judged.findings[0].fixes] == [True, False]
