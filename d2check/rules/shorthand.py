"""The series shorthand of examples: `2.4->0.9 x300 ~ 0.2/40 ! nan@120`.

Parsed when a rule is loaded, drawn into numbers only when its examples run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_POINTS = 200_000

_NUMBER = r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|nan|inf)"
_PIECE = re.compile(rf"\s*({_NUMBER})\s*(?:(\.\.|->)\s*({_NUMBER}))?\s*(?:x\s*(\d+))?\s*$")
_SWING = re.compile(rf"\s*({_NUMBER})\s*/\s*({_NUMBER})\s*$")
_MARK = re.compile(rf"\s*({_NUMBER})\s*@\s*(\d+)\s*$")


class ShorthandError(ValueError):
    """The text is no series."""


@dataclass(frozen=True)
class Piece:
    """`length` values from `first` to `last`: all equal, on a line, or on a geometric curve."""

    first: float
    last: float
    length: int
    curve: Literal["constant", "linear", "geometric"] = "constant"


@dataclass(frozen=True)
class Shape:
    """Pieces one after another; then swings (relative amplitude, period in samples) and marks."""

    pieces: tuple[Piece, ...]
    swings: tuple[tuple[float, float], ...] = ()
    marks: tuple[tuple[int, float], ...] = ()

    def __len__(self) -> int:
        return sum(piece.length for piece in self.pieces)


def parse_shape(text: str) -> Shape:
    """Read the shorthand. Raises ShorthandError with what was expected where."""
    body, *rest = re.split(r"(?=[~!])", text)
    pieces = tuple(_piece(part) for part in body.split(","))
    swings: list[tuple[float, float]] = []
    marks: list[tuple[int, float]] = []
    length = sum(piece.length for piece in pieces)
    if length > MAX_POINTS:
        raise ShorthandError(f"{length} values; the limit is {MAX_POINTS}")
    for extra in rest:
        if extra[0] == "~":
            match = _SWING.match(extra[1:])
            if not match or not float(match[2]) > 0:
                raise ShorthandError(f"{extra.strip()!r} is no swing; write ~ AMPLITUDE/PERIOD")
            swings.append((float(match[1]), float(match[2])))
        else:
            match = _MARK.match(extra[1:])
            if not match or int(match[2]) >= length:
                raise ShorthandError(
                    f"{extra.strip()!r} is no mark; write ! VALUE@INDEX, with INDEX below {length}"
                )
            marks.append((int(match[2]), float(match[1])))
    return Shape(pieces, tuple(swings), tuple(marks))


def shape_of_values(values: Sequence[float]) -> Shape:
    """A list of numbers as a shape."""
    return Shape(tuple(Piece(float(value), float(value), 1) for value in values))


def draw(shape: Shape) -> NDArray[np.float64]:
    """The values, float64[len(shape)], without noise."""
    import numpy as np

    drawn = np.concatenate([_draw_piece(piece) for piece in shape.pieces])
    index = np.arange(len(drawn))
    for amplitude, period in shape.swings:
        drawn = drawn * (1 + amplitude * np.sin(2 * np.pi * index / period))
    for position, value in shape.marks:
        drawn[position] = value
    return drawn


def _piece(text: str) -> Piece:
    match = _PIECE.match(text)
    if not match:
        raise ShorthandError(
            f"{text.strip()!r} is no piece of a series; write 'A xN', 'A..B xN' (linear) or "
            "'A->B xN' (geometric), joined by commas"
        )
    first, arrow, last, length = match[1], match[2], match[3] or match[1], int(match[4] or 1)
    if length < 1:
        raise ShorthandError(f"{text.strip()!r} has no values")
    if arrow == "->" and not (float(first) > 0 and float(last) > 0):
        raise ShorthandError(f"{text.strip()!r}: a geometric piece needs two values above 0")
    curve: Literal["constant", "linear", "geometric"] = "constant"
    if arrow:
        curve = "linear" if arrow == ".." else "geometric"
    return Piece(float(first), float(last), length, curve)


def _draw_piece(piece: Piece) -> NDArray[np.float64]:
    import numpy as np

    if piece.curve == "constant":
        return np.full(piece.length, piece.first)
    if piece.curve == "linear":
        return np.linspace(piece.first, piece.last, piece.length)
    return np.asarray(np.geomspace(piece.first, piece.last, piece.length), dtype=np.float64)
