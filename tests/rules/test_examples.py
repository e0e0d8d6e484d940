from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from d2check.errors import UsageError
from d2check.rules.example_file import parse_example
from d2check.rules.examples import run_examples, run_of
from d2check.rules.fields import Field
from d2check.rules.load import load_rules
from d2check.rules.new import new_rule
from d2check.rules.yaml_text import read_yaml

RULES = load_rules()


@pytest.mark.parametrize("rule", RULES, ids=[rule.id for rule in RULES])
def test_every_example_of_a_shipped_rule_gets_its_verdict(rule):
    wrong = [
        f"{result.name}: {result.detail}" for result in run_examples(rule) if not result.passed
    ]
    assert wrong == []


def example(rule, text):
    data = read_yaml(f"examples:\n  - {text}\n", "test.yaml")
    made = parse_example(Field(data, ("examples", 0), data.data["examples"][0]))
    assert data.problems == []
    return replace(rule, examples=(made,))


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ('{name: a, series: {total_loss: "20 x5"}, expect: pass}', "expected pass, got fail"),
        ('{name: a, series: {total_loss: "1 x5"}, expect: fail}', "expected fail, got pass"),
        ("{name: a, expect: skip, reason: odd words}", "expected the reason to say"),
        (
            '{name: a, series: {total_loss: "20 x5"}, expect: fail, says: odd}',
            "expected the message to say 'odd'",
        ),
        (
            '{name: a, series: {total_loss: "20 x5"}, expect: fail, proposes: {SOLVER.BASE_LR: 1}}',
            "expected a fix SOLVER.BASE_LR 1, got no fix",
        ),
    ],
)
def test_an_example_that_fails_says_what_was_expected_and_what_came(rule, text, detail):
    result = run_examples(example(rule, text))[0]
    assert not result.passed
    assert detail in result.detail


def test_noise_is_on_losses_only_and_the_same_every_time(rule):
    text = '{name: a, series: {total_loss: "2 x500", lr: "0.1 x500"}, noise: 0.2, expect: pass}'
    noisy = example(rule, text)
    run, again = (run_of(noisy, noisy.examples[0]) for _ in range(2))
    logs = np.log(run.series["total_loss"].values / 2)
    assert logs.std() == pytest.approx(0.2, rel=0.15)
    assert (run.series["lr"].values == 0.1).all()
    assert (run.series["total_loss"].values == again.series["total_loss"].values).all()


def test_medians_come_every_20_iterations_as_detectron2_writes_them(rule):
    text = '{name: a, series: {total_loss: "2 x3", lr: "1 x3"}, sampling: median, expect: pass}'
    medians = example(rule, text)
    series = run_of(medians, medians.examples[0]).series
    assert series["total_loss"].iterations.tolist() == [19, 39, 59]
    assert (series["total_loss"].statistic, series["total_loss"].window) == ("median", 20)
    assert (series["lr"].statistic, series["lr"].every) == ("raw", 20)


def test_the_template_of_a_new_rule_loads_and_keeps_its_examples(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "climbs.yaml").write_text(new_rule("mine/climbs"))
    made = load_rules([tmp_path])[0]
    assert made.status == "trial"
    assert all(result.passed for result in run_examples(made))


@pytest.mark.parametrize("name", ["climbs", "Mine/climbs", "a/b/c", "../x/y", "a/b.yaml", ""])
def test_a_new_rule_needs_an_id(name):
    with pytest.raises(UsageError, match="FAMILY/NAME"):
        new_rule(name)
