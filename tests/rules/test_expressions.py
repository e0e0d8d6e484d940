from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2check.rules.expressions import Absent, ExpressionError, compile_expression

ATTACKS = [
    "__import__('os').system('true')",
    "().__class__.__bases__",
    "value.__class__",
    "config.__class__",
    "'a'.upper()",
    "value.tofile('x')",
    "[x for x in (1, 2)]",
    "(lambda: 1)()",
    "value if 1 else 2",
    "9 ** 9 ** 9",
    "value[0]",
    "{1: 2}",
    "f'{value}'",
    "min(*[1, 2])",
    "max(value, key=abs)",
    "open('x')",
    "eval('1')",
    "(x := 1)",
    "1 << 40",
    "value @ value",
    "b'bytes'",
    "1j",
    "...",
    "None",
    "999999999999999999999999",
    "min",
    "config",
    "series.total_loss",
    "value is value",
    "1 in [1]",
    "-" * 40 + "1",
    "1 +" * 200 + "1",
    "1\n2",
    "",
    "import os",
    "\x00",
    "yield 1",
    "await value",
]


@pytest.mark.parametrize("text", ATTACKS)
def test_what_is_no_arithmetic_is_refused_when_it_is_read(text):
    with pytest.raises(ExpressionError):
        compile_expression(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2 + 3 * 4", 14),
        ("7 // 2 + 7 % 2", 4),
        ("-value / 2", -2.0),
        ("config.SOLVER.BASE_LR * facts.images_per_batch", 0.04),
        ("min(value, 3, 9)", 3),
        ("ceil(value / 3)", 2),
        ("significant(0.0024983, 2)", 0.0025),
        ("steps_scaled(config.SOLVER.STEPS, 0.5)", (50, 100)),
        ("1 < value <= 4 and not value == 3", True),
        ("config.NAME == 'a' or value > 100", True),
        ("[1, value]", (1, 4)),
        ("True", True),
    ],
)
def test_arithmetic_over_names(text, value):
    scope = {
        "value": 4,
        "config.SOLVER.BASE_LR": 0.01,
        "facts.images_per_batch": 4,
        "config.SOLVER.STEPS": [100, 200],
        "config.NAME": "a",
    }
    assert compile_expression(text).evaluate(scope) == value


@pytest.mark.parametrize(
    "text",
    [
        "nothing + 1",
        "facts.images",
        "value / 0",
        "word * 3",
        "'%s' % value",
        "flag + 1",
        "sqrt(-1)",
        "steps_scaled(word, 2)",
        "significant(value, 99)",
        "ceil(endless)",
        "word < 1",
        "floor(word)",
    ],
)
def test_what_cannot_be_computed_is_absent_and_not_an_error(text):
    scope = {"value": 4, "word": "x", "flag": True, "facts.images": None, "endless": math.inf}
    with pytest.raises(Absent):
        compile_expression(text).evaluate(scope)


def test_and_or_stop_at_the_first_part_that_decides():
    assert compile_expression("value > 1 or nothing > 1").evaluate({"value": 2}) is True
    assert compile_expression("value > 9 and nothing > 1").evaluate({"value": 2}) is False


def test_the_names_of_an_expression_are_known():
    assert compile_expression("min(a, config.B.C) + a").names == ("a", "config.B.C")


@given(st.text(max_size=60))
def test_any_text_is_compiled_or_refused(text):
    with contextlib.suppress(ExpressionError):
        compile_expression(text)


numbers = st.one_of(st.integers(-1000, 1000), st.floats(-1e6, 1e6, allow_nan=False))
expressions = st.recursive(
    st.one_of(numbers.map(repr), st.sampled_from(["a", "b"])),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(
        lambda t: f"({t[0]} {t[1]} {t[2]})"
    ),
    max_leaves=8,
)


@given(expressions, numbers, numbers)
def test_the_value_is_that_of_the_arithmetic(text, a, b):
    if len(text) > 300:
        return
    expression = compile_expression(text)
    try:
        expected = eval(text, {"__builtins__": {}}, {"a": a, "b": b})
    except ZeroDivisionError:
        with pytest.raises(Absent):
            expression.evaluate({"a": a, "b": b})
        return
    got = expression.evaluate({"a": a, "b": b})
    assert got == expected or (math.isnan(got) and math.isnan(expected))
