"""How an image was moved: which way of laying its file's image makes it the one at hand.

Images are told by small grey copies. Boxes are corners in pixels. Nothing is read here.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

SIDE = 64  # pixels of a small copy, both ways
LIKE = 0.9  # correlation of two copies of one image; brightness and contrast do not change it
CLEAR = 0.1  # by which the best move has to lead: images that are symmetric tell nothing
INSETS = (0.05, 0.1)  # share of a side: a window so much smaller must fit worse, or it is a crop
CROPPED = "the images are not the whole of their files: cropped, mixed, or read in another way"


class Move(NamedTuple):
    """One of the eight ways to lay a rectangle: axes swapped first, then mirrored."""

    words: str
    swap: bool = False
    mirror_x: bool = False
    mirror_y: bool = False


UNMOVED = Move("left as they are")
MOVES = (
    UNMOVED,
    Move("mirrored left to right", mirror_x=True),
    Move("mirrored top to bottom", mirror_y=True),
    Move("turned by 180 degrees", mirror_x=True, mirror_y=True),
    Move("turned by 90 degrees clockwise", swap=True, mirror_x=True),
    Move("turned by 90 degrees counter-clockwise", swap=True, mirror_y=True),
    Move("mirrored about their diagonal", swap=True),
    Move("mirrored about their other diagonal", swap=True, mirror_x=True, mirror_y=True),
)


class Frame(NamedTuple):
    """A rectangle in pixels of an image."""

    left: float
    top: float
    width: float
    height: float


class Unclear(Exception):
    """Why an image cannot be compared, in words that complete "... could not be compared:"."""


def moved(copy: np.ndarray[Any, Any], move: Move) -> np.ndarray[Any, Any]:
    """A small copy, laid as the move says."""
    copy = copy.T if move.swap else copy
    copy = copy[:, ::-1] if move.mirror_x else copy
    return copy[::-1] if move.mirror_y else copy


def place(
    boxes: np.ndarray[Any, Any], size: tuple[float, float], move: Move, frame: Frame
) -> np.ndarray[Any, Any]:
    """Boxes of an image of this size (width, height) once it was moved into a frame. float[n, 4]"""
    x = boxes[:, 0::2] / size[0]
    y = boxes[:, 1::2] / size[1]
    if move.swap:
        x, y = y, x
    if move.mirror_x:
        x = 1 - x[:, ::-1]
    if move.mirror_y:
        y = 1 - y[:, ::-1]
    x, y = frame.left + x * frame.width, frame.top + y * frame.height
    return np.stack((x[:, 0], y[:, 0], x[:, 1], y[:, 1]), axis=1)


def move_of(drawn: np.ndarray[Any, Any], file: np.ndarray[Any, Any]) -> tuple[Move, float]:
    """The move that makes the file's copy the drawn one, and their correlation. Raises Unclear."""
    if not (np.isfinite(drawn).all() and drawn.std() > 1e-3 * max(1.0, abs(drawn.mean()))):
        raise Unclear("the images are all of one colour")
    likeness = [_correlation(drawn, moved(file, move)) for move in MOVES]
    order = np.argsort(likeness)
    best = likeness[order[-1]]
    if not best > LIKE:
        raise Unclear(CROPPED)
    if best - likeness[order[-2]] < CLEAR:
        raise Unclear("the images look the same when they are mirrored or turned")
    move = MOVES[int(order[-1])]
    if best <= _best_window(drawn, moved(file, move)):
        raise Unclear(CROPPED)
    return move, best


def _correlation(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    one, other = one - one.mean(), other - other.mean()
    scale = np.sqrt((one**2).sum() * (other**2).sum())
    return float((one * other).sum() / scale) if scale > 0 else 0.0


def _best_window(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    """Correlation of either copy with the likest window of the other that is not all of it."""
    best = -1.0
    windows = _windows()
    for whole, part in ((one, other), (other, one)):
        for row, down in enumerate(windows):
            lines = down @ part
            for column, across in enumerate(windows):
                if row or column:
                    best = max(best, _correlation(whole, lines @ across.T))
    return best


@functools.lru_cache(maxsize=1)
def _windows() -> list[np.ndarray[Any, Any]]:
    """Matrices that stretch a part of SIDE pixels over all of them; the first takes all."""
    ends = [(0.0, 1.0)]
    for inset in INSETS:
        ends += [(inset, 1.0), (0.0, 1 - inset), (inset, 1 - inset)]
    found = []
    for begin, end in ends:
        at = np.clip((begin + (np.arange(SIDE) + 0.5) / SIDE * (end - begin)) * SIDE - 0.5,
                     0, SIDE - 1)  # fmt: skip
        low = np.minimum(at.astype(int), SIDE - 2)
        matrix = np.zeros((SIDE, SIDE), np.float32)
        matrix[np.arange(SIDE), low] = 1 - (at - low)
        matrix[np.arange(SIDE), low + 1] = at - low
        found.append(matrix)
    return found
