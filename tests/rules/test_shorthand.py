from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2check.rules.shorthand import ShorthandError, draw, parse_shape


def test_pieces_are_joined():
    assert draw(parse_shape("1 x2, 1..3 x3, 4->1 x3")).tolist() == pytest.approx(
        [1, 1, 1, 2, 3, 4, 2, 1]
    )


def test_a_swing_has_its_amplitude_and_period():
    values = draw(parse_shape("2 x80 ~ 0.5/40"))
    assert values.max() == pytest.approx(3, rel=0.01)
    assert values.min() == pytest.approx(1, rel=0.01)
    assert np.argmax(values) == 10


def test_marks_put_single_values():
    values = draw(parse_shape("1 x10 ! nan@3 ! 50@4"))
    assert np.isnan(values[3])
    assert values[4] == 50
    assert (np.delete(values, [3, 4]) == 1).all()


@pytest.mark.parametrize(
    "text",
    ["", "a", "1 x0", "1..", "1 x", "0->1 x5", "-1->1 x5", "1 x5 ~ 0.1", "1 x5 ~ 0.1/0",
     "1 x5 ! 3@5", "1 x5 ! x@1", "1 x300000", "1,,2", "1 x5 y"],
)  # fmt: skip
def test_what_is_no_series_is_refused(text):
    with pytest.raises(ShorthandError):
        parse_shape(text)


@given(st.text(alphabet="0123456789.xna->~!/@, einf", max_size=30))
def test_any_text_is_a_series_or_refused(text):
    try:
        shape = parse_shape(text)
    except ShorthandError:
        return
    assert 0 < len(shape) <= 200_000


value = st.floats(0.01, 1000).map(lambda v: round(v, 4))
piece = st.tuples(value, st.sampled_from(["..", "->"]), value, st.integers(2, 50))


@given(st.lists(piece, min_size=1, max_size=4))
def test_every_piece_begins_and_ends_as_written(pieces):
    text = ", ".join(f"{a}{arrow}{b} x{n}" for a, arrow, b, n in pieces)
    values = draw(parse_shape(text))
    position = 0
    for a, _, b, n in pieces:
        assert values[position] == pytest.approx(a)
        assert values[position + n - 1] == pytest.approx(b)
        position += n
    assert position == len(values)
