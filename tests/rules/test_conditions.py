from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2check.rules.conditions import Unknown, UnknownName, describe, evaluate
from d2check.rules.model import AllOf, AnyOf, BySampling, Comparison

MEASURED = {"value": 5.0, "word": "yes", "none": None, "nan": float("nan"), "inf": float("inf")}

leaves = st.sampled_from(
    [
        Comparison("value", "above", 4),
        Comparison("value", "above", 5),
        Comparison("value", "below", 6),
        Comparison("word", "equals", "yes"),
        Comparison("word", "equals", "no"),
        Comparison("none", "above", 1),
        Comparison("nan", "below", 1),
    ]
)
conditions = st.recursive(
    leaves,
    lambda inner: st.builds(
        lambda kind, parts: kind(tuple(parts)),
        st.sampled_from([AllOf, AnyOf]),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=8,
)


def kleene(condition):
    """Three-valued logic by numbers: 0 false, 1/2 unknown, 1 true."""
    if isinstance(condition, Comparison):
        got = evaluate(condition, MEASURED, "raw")
        return 0.5 if isinstance(got, Unknown) else float(got)
    parts = [kleene(part) for part in condition.parts]
    return min(parts) if isinstance(condition, AllOf) else max(parts)


@given(conditions)
def test_joined_conditions_follow_three_valued_logic(condition):
    got = evaluate(condition, MEASURED, "raw")
    assert kleene(condition) == (0.5 if isinstance(got, Unknown) else float(got))


@pytest.mark.parametrize(
    ("condition", "met"),
    [
        (Comparison("value", "above", 5), False),
        (Comparison("value", "below", 5), False),
        (Comparison("inf", "above", 1e9), True),
        (Comparison("value", "above", BySampling({"raw": 4, "median": 6})), True),
    ],
)
def test_comparisons_are_strict(condition, met):
    assert evaluate(condition, MEASURED, "raw") is met


def test_a_threshold_missing_for_the_sampling_decides_nothing():
    got = evaluate(Comparison("value", "above", BySampling({"raw": 4})), MEASURED, "median")
    assert isinstance(got, Unknown)
    assert "median values cannot decide" in got.reason


def test_a_name_that_was_not_measured_is_an_error():
    with pytest.raises(UnknownName):
        evaluate(Comparison("gone", "above", 1), MEASURED, "raw")


def test_a_condition_reads_as_words():
    condition = AnyOf((Comparison("value", "above", 4), AllOf((Comparison("z", "below", 1),))))
    assert describe(condition) == "(value above 4 or z below 1)"
