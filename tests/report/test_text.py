import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2check.report._text import (
    clean,
    clean_block,
    duration,
    epochs,
    figure,
    listed,
    quantity,
    shortened,
    sparkline,
)


@given(st.text())
def test_cleaned_text_is_one_printable_line(text):
    out = clean(text)
    assert "\n" not in out
    assert all(c.isprintable() for c in out)
    assert clean(out) == out
    out.encode("utf-8")


@given(st.text())
def test_a_cleaned_block_keeps_line_breaks_and_nothing_else_that_moves_the_cursor(text):
    assert all(
        c.isprintable() or c in "\n\t\u00a0\u2003\u2009\u202f\u3000" for c in clean_block(text)
    )


@pytest.mark.parametrize(
    ("hostile", "left"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;window title\x07name", "name"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b2Jcleared", "cleared"),
        ("right\u202eleft", "rightleft"),
        ("two\nlines", "two lines"),
        ("a\x00b", "ab"),
        ("[bold]kept[/bold]", "[bold]kept[/bold]"),
        ("中文 é", "中文 é"),
    ],
)
def test_escape_sequences_go_as_a_whole(hostile, left):
    assert clean(hostile) == left


@given(st.text(alphabet="abc ,", max_size=60), st.integers(2, 40))
def test_shortened_text_fits(text, width):
    assert len(shortened(text, width)) <= max(width, 0) or len(text) <= width


@given(st.lists(st.floats(), max_size=200), st.integers(1, 60), st.booleans())
def test_a_sparkline_has_at_most_one_character_a_value_and_never_fails(values, width, ascii_only):
    line = sparkline(values, width, ascii_only=ascii_only)
    assert len(line) == min(width, len(values))
    assert not ascii_only or line.isascii()


def test_a_sparkline_falls_and_marks_what_is_not_a_number():
    assert sparkline([3, 2, 1], 3) == "█▅▁"
    assert sparkline([1, math.nan, 2], 3) == "▁x█"
    assert sparkline([1, math.inf], 10, ascii_only=True) == "=x"
    assert sparkline([5, 5, 5], 3) == "▅▅▅"
    assert sparkline([], 5) == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "0 s"),
        (41.2, "41 s"),
        (59.6, "1 min"),
        (125, "2 min 5 s"),
        (7860, "2 h 11 min"),
        (3600, "1 h"),
        (100 * 3600, "4 d 4 h"),
        (math.inf, "unknown"),
        (-5, "0 s"),
    ],
)
def test_durations_are_worded_for_people(seconds, words):
    assert duration(seconds) == words


def test_numbers_are_worded_for_people():
    assert figure(10_000) == "10,000"
    assert figure(9.93145e14) == "9.93e+14"
    assert figure(0.083456) == "0.0835"
    assert figure(math.nan) == "nan"
    assert quantity(3088, "MiB") == "3.02 GiB"
    assert quantity(0.1123, "share") == "11.2 %"
    assert quantity(None, "s") == ""
    assert quantity(1.0, "ratio") == "1.00x"
    assert quantity(9.93145e14, "ratio") == "9.93e+14x"
    assert quantity(1.0, "epochs") == "1 epoch"
    assert quantity(1.0, "classes") == "1 class"
    assert quantity(0.5, "s") == "0.5 s"
    assert quantity(1.0, "yes/no") == ""
    assert quantity(math.inf, "images") == ""
    assert epochs(0.44444) == "0.44"
    assert epochs(0.004) == "0.004"
    assert epochs(1300) == "1,300"
    assert listed(["a", "b", "c"], 2) == "a, b and 1 more"
