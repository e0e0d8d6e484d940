"""Literals, overrides and defaults as yacs has them."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from d2check.config import keys, yacs
from d2check.errors import UsageError
from d2check.model import Config

SOURCE = Config("yacs", {"SOLVER.BASE_LR": 0.02, "MODEL.MASK_ON": True}, complete=False)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("(1, 2)", [1, 2]), ("1e-3", 0.001), ("'1'", "1"), ("True", True), ("None", None),
        ("abc", "abc"), ("a/b", "a/b"), ("", ""), ("-", "-"), ("...", "..."), ("1 2", "1 2"),
        ("(('a',), {'x': (1,)})", [["a"], {"x": [1]}]), ("010", "010"), (" 5", 5),
        ("True ", True), ("r'C:\\new'", "C:\\new"), ("u'a'", "a"), ("run", "run"),
        ("(" * 500 + ")" * 500, "(" * 500 + ")" * 500), ("1+2j", "1+2j"), (3, 3), ("b'x'", "b'x'"),
    ],
)  # fmt: skip
def test_text_is_decoded_like_a_python_literal(text, value):
    assert yacs.decode(text) == value


@settings(max_examples=200, deadline=None)
@given(st.text("01.eE+-()[]{},'\" abTrueNonFalse_:", max_size=20))
@example("r''")
@example("None ")
def test_decoding_agrees_with_yacs(text):
    """Where a config can hold what yacs makes of it, give or take tuples."""
    node = pytest.importorskip("yacs.config").CfgNode
    try:
        real = node._decode_cfg_value(text)
    except (TypeError, MemoryError, RecursionError):
        return  # yacs itself falls over, {[]: 1} for example
    if type(real) in (int, float, str, bool, type(None)) and real == real:
        assert yacs.decode(text) == real


values = st.recursive(
    st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.text(),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=6,
)


@given(values)
def test_value_text_is_read_back_as_the_same_value(value):
    assert yacs.decode(yacs.value_text(value)) == value
    assert type(yacs.decode(yacs.value_text(value))) is type(value)


def test_value_text_reads_like_a_users_own():
    assert yacs.value_text([60000, 80000]) == "(60000, 80000)"
    assert yacs.value_text([5]) == "(5,)"
    assert yacs.value_text("coco_train") == "coco_train"
    assert yacs.value_text(1.0) == "1.0"


def test_overrides_from_a_command_line_are_decoded():
    words = ["SOLVER.BASE_LR", "1e-3", "SOLVER.STEPS", "(5,)", "OUTPUT_DIR", "12"]
    values = yacs.apply_overrides(SOURCE, words).values
    assert values["SOLVER.BASE_LR"] == 0.001
    assert values["SOLVER.STEPS"] == [5]
    assert values["OUTPUT_DIR"] == "12"
    assert values["MODEL.MASK_ON"] is True
    assert SOURCE.values["SOLVER.BASE_LR"] == 0.02


def test_overrides_may_be_pairs():
    assert yacs.apply_overrides(SOURCE, [("SEED", 3)]).values["SEED"] == 3
    assert yacs.apply_overrides(SOURCE, []) == SOURCE


def test_an_override_without_a_value_is_refused():
    with pytest.raises(UsageError, match="KEY VALUE pairs"):
        yacs.apply_overrides(SOURCE, ["SEED", "1", "SOLVER.MAX_ITER"])


def test_an_override_of_a_section_is_refused():
    with pytest.raises(UsageError, match=r"SOLVER\.BASE_LR VALUE"):
        yacs.apply_overrides(SOURCE, ["SOLVER", "1"])


def test_the_default_holds_where_a_dump_is_too_old_to_have_the_key():
    old = Config("yacs", {"SOLVER.BASE_LR": 0.1}, complete=True)
    assert yacs.setting(old, "SOLVER.RESCALE_INTERVAL") is False
    assert yacs.setting(old, "SOLVER.BASE_LR") == 0.1


def test_a_section_comes_back_nested():
    config = Config("lazy", {"a.b.c": 1, "a.b.d": 2, "a.e": 3, "ab": 4})
    assert yacs.section(config, "a") == {"b": {"c": 1, "d": 2}, "e": 3}


def test_project_defaults_are_known_too():
    assert keys.default("SOLVER.POLY_LR_POWER") == 0.9
