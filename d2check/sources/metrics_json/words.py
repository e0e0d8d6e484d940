"""The literals NaN and Infinity, which Python's json.dumps writes and no fast JSON reader knows.

They are swapped, in the bytes, for numbers that no training produces, and back.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_NAN, _INF = 1.1938475610293847e308, 1.2746381920374651e308
_NANS = (
    (b": NaN", b": 1.1938475610293847e308"),
    (b":NaN", b":1.1938475610293847e308"),
)
_INFINITIES = (
    (b": -Infinity", b": -1.2746381920374651e308"),
    (b": Infinity", b": 1.2746381920374651e308"),
    (b":-Infinity", b":-1.2746381920374651e308"),
    (b":Infinity", b":1.2746381920374651e308"),
)


def has_word(data: bytes) -> bool:
    """Whether a literal may be in it."""
    return b"NaN" in data or b"Infinity" in data


def swapped(data: bytes) -> bytes:
    """The bytes with numbers in place of the literals."""
    letters = np.frombuffer(data, np.uint8)  # looking for one letter first halves the cost
    for initial, swaps in ((b"N", _NANS), (b"I", _INFINITIES)):
        if (letters == initial[0]).any():
            for word, number in swaps:
                data = data.replace(word, number)
    return data


def unswapped(data: bytes) -> bytes:
    """The bytes as they were."""
    for word, number in _NANS + _INFINITIES:
        data = data.replace(number, word)
    return data


def restore(values: NDArray[np.float64]) -> None:
    """Put NaN and infinities back, in place."""
    values[values == _NAN] = math.nan
    values[values == _INF] = math.inf
    values[values == -_INF] = -math.inf
