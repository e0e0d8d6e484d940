from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2check.errors import UsageError
from d2check.rules.select import matching

IDS = ("loss/plateau", "loss/spikes", "schedule/lr-zero", "memory/growth")


@pytest.fixture
def chosen(rule):
    rules = [replace(rule, id=name) for name in IDS]
    return lambda expression: [rule.id for rule in matching(rules, expression)]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("loss", ["loss/plateau", "loss/spikes"]),
        ("LOSS and not spikes", ["loss/plateau"]),
        ("schedule/lr-zero or memory", ["schedule/lr-zero", "memory/growth"]),
        ("not (loss or memory)", ["schedule/lr-zero"]),
        ("not not loss and (spikes)", ["loss/spikes"]),
        ("growt", ["memory/growth"]),
        ("nothing", []),
    ],
)
def test_rules_are_chosen_as_pytest_chooses_tests(chosen, expression, expected):
    assert chosen(expression) == expected


@pytest.mark.parametrize(
    "expression", ["", "and", "loss and", "(loss", "loss)", "not", "loss spikes", "()", "(" * 99]
)
def test_what_is_no_expression_is_refused(chosen, expression):
    with pytest.raises(UsageError, match="-k"):
        chosen(expression)


@given(st.text("()ora ndtlsi/", max_size=40))
def test_any_text_chooses_or_is_refused(expression):
    try:
        assert matching([], expression) == ()
    except UsageError:
        pass
