from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from d2check.rules.yaml_text import read_yaml


def problems(text):
    return [(p.line, p.column, p.message) for p in read_yaml(text, "f.yaml").problems]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: on", "in quotes"),
        ("a: 1\nb: No", "in quotes"),
        ("a: 1e-3", "write 0.001"),
        ("a: 1e-7", "write 1.0e-07"),
        ("a: 012", "octal"),
        ("a: 0x1F", "decimal"),
        ("a: 12:30:45", "base 60"),
        ("a: 1_000", "underscores"),
        ("a: 2024-01-02", "date"),
        ("a: True", "small letters"),
        ("a: &x [1]\nb: *x", "anchors"),
        ("a: !!python/object/apply:os.system [echo]", "tags"),
        ("a: !!float 3", "tags"),
        ("a: {<<: {b: 1}}", "merge"),
        ("? [1, 2]\n: 3", "a key must be a word"),
        ("a: [1", "not YAML"),
        ("a: \x07", "not YAML"),
        ("a: 1\n---\nb: 2", "not YAML"),
    ],
)
def test_a_trap_is_named(text, said):
    assert any(said in message for _, _, message in problems(text))


def test_a_key_that_is_there_twice_is_told_with_both_places():
    assert problems("a: 1\nb: 2\na: 3") == [(3, 1, "'a' is here twice; first in line 1")]


def test_quoted_traps_are_text():
    document = read_yaml("a: 'on'\nb: \"012\"\nc: '1e-3'", "f.yaml")
    assert document.problems == []
    assert document.data == {"a": "on", "b": "012", "c": "1e-3"}


def test_numbers_of_both_yaml_versions():
    document = read_yaml("[1, -2, 0.5, 1.0e-3, .5, 1., .inf, true, null, ~, x]", "f.yaml")
    assert document.problems == []
    assert document.data == [1, -2, 0.5, 0.001, 0.5, 1.0, float("inf"), True, None, None, "x"]


@pytest.mark.parametrize("text", ["[" * 50_000, "- " * 50_000, "{a: " * 5_000, "? " * 20_000])
def test_deep_nesting_is_refused_before_the_parser_sees_it(text):
    assert any("nested" in message for _, _, message in problems(text))


def test_a_huge_text_is_refused():
    assert "limit" in problems("a" * 300_000)[0][2]


@given(st.text(max_size=200))
def test_any_text_gives_data_or_problems(text):
    document = read_yaml(text, "f.yaml")
    assert document.problems or document.data is None or document.root is not None


plain = st.recursive(
    st.one_of(st.integers(-999, 999), st.booleans(), st.text("abc xyz", max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text("abcd", min_size=1), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.text("abcd", min_size=1), plain, max_size=4))
def test_what_yaml_writes_is_read_back(data):
    text = yaml.safe_dump(data, default_flow_style=False)
    if "y:" in text or ": y" in text or "- y" in text or "&id" in text:
        return  # y is one of the traps
    document = read_yaml(text, "f.yaml")
    if not document.problems:
        assert document.data == data
