from __future__ import annotations

import pytest

from d2check.rules.examples import run_examples
from d2check.rules.load import load_rules

RULES = load_rules()


@pytest.mark.parametrize("rule", RULES, ids=[rule.id for rule in RULES])
def test_every_example_of_a_shipped_rule_gets_its_verdict(rule):
    wrong = [
        f"{result.name}: {result.detail}" for result in run_examples(rule) if not result.passed
    ]
    assert wrong == []
