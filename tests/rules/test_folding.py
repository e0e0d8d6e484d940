from __future__ import annotations

from dataclasses import replace

import pytest

from d2check.model import Config, Ending, EndingKind, Finding, Run, Verdict
from d2check.rules.expressions import compile_expression
from d2check.rules.folding import arrange, fold, root_causes
from d2check.rules.judge import judge
from d2check.rules.load import load_rules, shipped_rules
from d2check.rules.model import Explanation


@pytest.fixture
def judged(rule):
    """Findings by id, folded: verdict, and the rules that explain each."""

    def fold_and_arrange(verdicts, causes, **changes):
        rules = [
            replace(rule, id=name, explained_by=tuple(causes.get(name, ()))) for name in verdicts
        ]
        findings = [
            replace(
                Finding(name, name, verdict, "medium", "stable", "", value=2.0),
                **changes.get(name.replace("/", "_"), {}),
            )
            for name, verdict in verdicts.items()
        ]
        folded = arrange(fold(rules, findings, Run("test")))
        return {f.rule: f.explained_by for f in folded}, root_causes(folded), folded

    return fold_and_arrange


F, W, P, S = Verdict.FAIL, Verdict.WARN, Verdict.PASS, Verdict.SKIP


def test_a_symptom_keeps_its_verdict_and_names_its_cause(judged):
    explained, roots, findings = judged(
        {"b/loss": F, "a/rate": F}, {"b/loss": [Explanation("a/rate")]}
    )
    assert explained == {"a/rate": None, "b/loss": "a/rate"}
    assert roots == ("a/rate",)
    assert [f.verdict for f in findings] == [F, F]


def test_a_warning_becomes_the_root_cause_beside_a_symptom(judged):
    explained, roots, findings = judged(
        {"b/loss": F, "a/rate": W}, {"b/loss": [Explanation("a/rate")]}
    )
    assert explained["b/loss"] == "a/rate"
    assert roots == ("a/rate",)
    assert findings[0].rule == "a/rate"
    assert findings[0].verdict is W


def test_a_warning_alone_is_no_root_cause(judged):
    assert judged({"b/loss": P, "a/rate": W}, {"b/loss": [Explanation("a/rate")]})[1] == ()


def test_chains_end_at_the_root(judged):
    explained, roots, _ = judged(
        {"c/end": F, "b/loss": F, "a/rate": W},
        {"c/end": [Explanation("b/loss")], "b/loss": [Explanation("a/rate")]},
    )
    assert explained == {"a/rate": None, "b/loss": "a/rate", "c/end": "a/rate"}
    assert roots == ("a/rate",)


@pytest.mark.parametrize("cause", [P, S, Verdict.ERROR])
def test_a_rule_that_neither_fails_nor_warns_explains_nothing(judged, cause):
    explained, roots, _ = judged(
        {"b/loss": F, "a/rate": cause}, {"b/loss": [Explanation("a/rate")]}
    )
    assert explained["b/loss"] is None
    assert roots == ("b/loss",)


def test_a_failing_cause_comes_before_a_warning_one_and_a_stable_one_before_a_trial(judged):
    causes = {"d/loss": [Explanation("a/warns"), Explanation("b/trial"), Explanation("c/fails")]}
    verdicts = {"d/loss": F, "a/warns": W, "b/trial": F, "c/fails": F}
    assert judged(verdicts, causes, b_trial={"status": "trial"})[0]["d/loss"] == "c/fails"


def test_of_equal_causes_the_first_one_listed_is_taken(judged):
    causes = {"d/loss": [Explanation("b/two"), Explanation("a/one")]}
    assert judged({"d/loss": F, "a/one": F, "b/two": F}, causes)[0]["d/loss"] == "b/two"


def test_an_ignored_cause_explains_nothing(judged):
    explained, roots, _ = judged(
        {"b/loss": F, "a/rate": W},
        {"b/loss": [Explanation("a/rate")]},
        a_rate={"ignored": "tuned by hand"},
    )
    assert explained["b/loss"] is None
    assert roots == ("b/loss",)


@pytest.mark.parametrize(("condition", "cause"), [("value > 1", "a/rate"), ("value < 1", None),
                                                  ("gone > 1", None)])  # fmt: skip
def test_a_cause_may_be_one_only_in_one_direction(judged, condition, cause):
    explanation = Explanation("a/rate", compile_expression(condition))
    assert judged({"b/loss": F, "a/rate": W}, {"b/loss": [explanation]})[0]["b/loss"] == cause


@pytest.mark.parametrize(("share", "cause"), [(0.9, "a/rate"), (0.001, None)])
def test_a_cause_may_depend_on_what_the_symptom_measured(judged, share, cause):
    explanation = Explanation("a/rate", compile_expression("value > 1 and symptom.share > 0.1"))
    explained, _, _ = judged(
        {"b/nan": F, "a/rate": W}, {"b/nan": [explanation]}, b_nan={"extras": {"share": share}}
    )
    assert explained["b/nan"] == cause


def test_causes_first_then_by_verdict_and_severity(judged):
    verdicts = {"a/pass": P, "b/skip": S, "c/warn": W, "d/symptom": F, "e/low": F, "f/rate": W}
    _, roots, findings = judged(
        verdicts,
        {"d/symptom": [Explanation("f/rate")]},
        d_symptom={"severity": "high"},
        e_low={"severity": "low"},
    )
    assert roots == ("f/rate", "e/low")
    assert [f.rule for f in findings] == [
        "f/rate",
        "e/low",
        "d/symptom",
        "c/warn",
        "b/skip",
        "a/pass",
    ]


IDS_FROM_ONE = {"labels/class-out-of-range": F, "labels/no-foreground": F, "loss/head-zero": F}


def of_shipped_rules(verdicts):
    """Root causes of the shipped rules, of these verdicts."""
    rules = [rule for rule in load_rules([shipped_rules()]) if rule.id in verdicts]
    findings = [Finding(r.id, r.title, verdicts[r.id], r.severity, "stable", "") for r in rules]
    return root_causes(fold(rules, findings, Run("test")))


def test_ids_beyond_the_last_class_are_why_no_object_is_foreground():
    assert of_shipped_rules(IDS_FROM_ONE) == ("labels/class-out-of-range",)


@pytest.mark.parametrize("ids", [P, S])
def test_no_foreground_is_a_root_where_no_id_is_seen_out_of_range(ids):
    verdicts = {**IDS_FROM_ONE, "labels/class-out-of-range": ids}
    assert of_shipped_rules(verdicts) == ("labels/no-foreground",)


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        (
            "Milestone must be smaller than total number of updates: milestone=300",
            "config/steps-invalid",
        ),
        ("No module named 'pandas'", None),
    ],
)
def test_steps_past_the_end_are_why_a_training_broke_only_where_it_says_so(message, cause):
    rules = load_rules([shipped_rules()])
    config = Config("yacs", {"SOLVER.STEPS": (200, 300), "SOLVER.MAX_ITER": 300})
    ending = Ending(EndingKind.CRASHED, error="ValueError", message=message)
    findings = judge(rules, Run("test", config=config, ending=ending))
    crash = next(finding for finding in findings if finding.rule == "ending/crashed")
    assert crash.explained_by == cause


@pytest.mark.parametrize("symptom", ["loss/non-finite", "loss/diverges", "weights/not-finite"])
def test_layers_frozen_at_random_come_before_the_rate(symptom):
    """At the rate of the linear rule such a RetinaNet was NaN at iteration 5 as well."""
    both = {"schedule/lr-unscaled": W, "weights/frozen-norm-from-scratch": W}
    assert of_shipped_rules({symptom: F, **both})[0] == "weights/frozen-norm-from-scratch"
    assert of_shipped_rules({symptom: F, "schedule/lr-unscaled": W}) == ("schedule/lr-unscaled",)


def test_an_error_of_the_users_code_gets_no_advice_on_his_config():
    ending = Ending(EndingKind.CRASHED, error="NameError", message="name 'x' is not defined")
    findings = judge(load_rules([shipped_rules()]), Run("test", ending=ending))
    crash = next(finding for finding in findings if finding.rule == "ending/crashed")
    assert crash.fixes == ()
