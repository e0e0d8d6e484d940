"""Whether the boxes of an image were moved as the image was, and what they did instead.

Boxes are float[n, 4], corners in pixels: `drawn` as the model is given them.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from .moves import MOVES, UNMOVED, Frame, Move, place

FOLLOWS = 0.5  # intersection over union with the place where a box should be
STAYS = 0.7  # the same with a place where it should not be
SLACK_PX = 2.0  # counting from one, rounding, mirroring about a pixel's middle
MOST, HALF = 0.8, 0.5  # of the boxes of an image
RESIZED = 0.1  # a change of size that is none yet, as a share
BOXES = 100  # drawn boxes of an image that are looked at

# What boxes may do instead.
UNMIRRORED, UNSCALED, NEITHER = "not moved", "not resized", "neither"
ALONE, OTHERWISE, RESCALED = "moved alone", "moved otherwise", "resized otherwise"
UNPADDED, READ_AS_CORNERS = "not padded", "read as corners"
TELLING = frozenset((UNMIRRORED, ALONE, UNSCALED))  # with all of them unseen, nothing is told


class Scene(NamedTuple):
    """A drawn image and its file.

    boxes: of the file, float[n, 4], corners in its pixels. size: its (width, height). move: that
    made the drawn image of it. frame: where the whole of it lies there. image: (width, height) of
    the drawn one. xywh: the boxes were told by a corner, width and height.
    """

    boxes: np.ndarray[Any, Any]
    size: tuple[float, float]
    move: Move
    frame: Frame
    image: tuple[float, float]
    xywh: bool = False

    @property
    def turned(self) -> tuple[float, float]:
        """(width, height) of the file, laid as the drawn image."""
        return (self.size[1], self.size[0]) if self.move.swap else self.size

    @property
    def scales(self) -> tuple[float, float]:
        """Of the drawn image against the file, across and down."""
        return self.frame.width / self.turned[0], self.frame.height / self.turned[1]

    @property
    def scale(self) -> float:
        """Their mean."""
        return math.sqrt(self.scales[0] * self.scales[1])

    @property
    def resized(self) -> bool:
        """Whether the drawn image is larger or smaller than its file, by more than a little."""
        return max(abs(scale - 1) for scale in self.scales) > RESIZED


class Other(NamedTuple):
    """Where boxes would lie that were not moved as their image."""

    fault: str
    moved: Move
    scale: float
    boxes: np.ndarray[Any, Any]


class Fate(NamedTuple):
    """What became of the boxes of one image whose move is known.

    end: followed, stayed, elsewhere, or untold where several places fit equally. move, scale: of
    the image. fault: what the boxes did instead where they stayed, with boxes_moved and boxes_scale
    of theirs. tells: the faults that would have been seen in boxes that followed.
    """

    end: str
    move: Move
    scale: float
    resized: bool
    fault: str | None = None
    boxes_moved: Move = UNMOVED
    boxes_scale: float = 1.0
    tells: frozenset[str] = frozenset()


def fate(drawn: np.ndarray[Any, Any], scene: Scene) -> Fate:
    """Whether the drawn boxes lie where the move of their image puts those of the file."""
    told = Fate("elsewhere", scene.move, scene.scale, scene.resized)
    slack = SLACK_PX * max(1.0, *scene.scales)
    expected = place(scene.boxes, scene.size, scene.move, scene.frame)
    others = otherwise_moved(scene) + otherwise_sized(scene, drawn)
    drawn = drawn[:BOXES]
    follow = fit(drawn, expected, scene.image, slack)
    if follow >= MOST:
        apart: set[str] = set()
        close: set[str] = set()
        for other in others:
            fits = fit(drawn, other.boxes, scene.image, slack)
            (close if fits > HALF else apart).add(other.fault)
        tells = frozenset(apart - (close - {ALONE, OTHERWISE}))
        return told._replace(end="followed" if tells & TELLING else "untold", tells=tells)
    if follow > HALF:
        return told._replace(end="untold")
    shares = [share(drawn, other.boxes, STAYS, scene.image, 0.0) for other in others]
    best = others[int(np.argmax(shares))]  # of equal ones the first, the likeliest
    if max(shares) < MOST:
        return told
    return told._replace(
        end="stayed", fault=best.fault, boxes_moved=best.moved, boxes_scale=best.scale
    )


def otherwise_moved(scene: Scene) -> list[Other]:
    """Boxes that are mirrored or turned in another way than their image, or not resized."""
    move, frame = scene.move, scene.frame
    wide, tall = scene.turned
    laid: list[tuple[str, Move, float, Frame]] = []
    if move != UNMOVED:
        laid.append((UNMIRRORED, UNMOVED, scene.scale, frame))
        if move.swap:  # a turned image has other sides
            sides = Frame(0, 0, frame.height, frame.width)
            laid.append((UNMIRRORED, UNMOVED, scene.scale, sides))
        if not scene.resized:  # by so little that it is no fault of its own
            laid.append((UNMIRRORED, UNMOVED, 1.0, Frame(0, 0, *scene.size)))
    if scene.resized:
        laid.append((UNSCALED, move, 1.0, Frame(0, 0, wide, tall)))
        # Mirrored about the middle of the resized image.
        left = scene.image[0] - wide if move.mirror_x else 0.0
        top = scene.image[1] - tall if move.mirror_y else 0.0
        laid.append((UNSCALED, move, 1.0, Frame(left, top, wide, tall)))
        if move != UNMOVED:
            laid.append((NEITHER, UNMOVED, 1.0, Frame(0, 0, *scene.size)))
    fault = ALONE if move == UNMOVED else OTHERWISE
    laid += [(fault, other, scene.scale, frame) for other in MOVES[1:] if other != move]
    return [
        Other(fault, moved, scale, place(scene.boxes, scene.size, moved, frame))
        for fault, moved, scale, frame in laid
    ]


def otherwise_sized(scene: Scene, drawn: np.ndarray[Any, Any]) -> list[Other]:
    """Boxes that are resized in another way than their image, not padded, or misread."""
    move, frame, scale = scene.move, scene.frame, scene.scale
    wide, tall = scene.turned
    laid: list[tuple[str, float, Frame]] = []
    if frame != Frame(0, 0, *scene.image):
        laid.append((UNPADDED, scale, frame._replace(left=0, top=0)))
        laid.append((UNPADDED, scale, Frame(0, 0, *scene.image)))
    if scene.resized:
        twice = frame.width**2 / wide, frame.height**2 / tall
        laid.append((RESCALED, scale**2, Frame(0, 0, *twice)))
    if len(drawn) == len(scene.boxes):
        plain = place(scene.boxes, scene.size, move, Frame(0, 0, wide, tall))
        sides = (drawn[:, 2:] - drawn[:, :2]) / np.maximum(plain[:, 2:] - plain[:, :2], 1e-6)
        across, down = (float(side) for side in np.median(sides, axis=0))
        own = math.sqrt(max(across * down, 0.0))
        if own > 0 and abs(own / scale - 1) > RESIZED:
            laid.append((RESCALED, own, Frame(0, 0, wide * across, tall * down)))
    found = [
        Other(fault, move, own, place(scene.boxes, scene.size, move, frame))
        for fault, own, frame in laid
    ]
    if scene.xywh and _inside(scene.boxes, scene.size):
        corners = scene.boxes.copy()
        corners[:, 2:] -= corners[:, :2]
        boxes = place(corners, scene.size, move, frame)
        # Of corners in the wrong order apply_box of Detectron2 takes the lowest and the highest.
        low, high = np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])
        found.append(Other(READ_AS_CORNERS, move, scale, np.hstack((low, high))))
    return found


def fit(
    drawn: np.ndarray[Any, Any],
    expected: np.ndarray[Any, Any],
    image: tuple[float, float],
    slack: float,
) -> float:
    """Share of the drawn boxes that are expected, or of the expected that are drawn.

    The one where a transform drops objects, the other where objects of other images are pasted in.
    """
    one = share(drawn, expected, FOLLOWS, image, slack)
    return max(one, share(expected[:BOXES], drawn, FOLLOWS, image, slack))


def share(
    drawn: np.ndarray[Any, Any],
    expected: np.ndarray[Any, Any],
    least: float,
    image: tuple[float, float],
    slack: float,
) -> float:
    """Share of the drawn boxes that have a partner; as they are, or both cut at the image's edge.

    least: intersection over union of partners. slack: in pixels, corners that close are partners
    of any size.
    """
    corners = (np.array(image * 2), np.zeros(4))
    best = np.zeros(len(drawn))
    for one, other in (
        (drawn, expected),
        (np.clip(drawn, corners[1], corners[0]), np.clip(expected, corners[1], corners[0])),
    ):
        best = np.maximum(best, overlaps(one, other).max(axis=1, initial=0.0))
        if slack:
            apart = np.abs(one[:, None] - other[None]).max(axis=2).min(axis=1, initial=np.inf)
            best[apart <= slack] = 1.0
    return float((best > least).mean())


def overlaps(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Intersection over union of each box with each other one."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    both = np.maximum(high - low, 0).prod(axis=2)
    areas = [np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=1) for boxes in (one, other)]
    union = areas[0][:, None] + areas[1][None] - both
    return np.asarray(both / np.maximum(union, 1e-9))


def _inside(boxes: np.ndarray[Any, Any], size: tuple[float, float]) -> bool:
    slack = SLACK_PX
    return bool(
        (boxes >= -slack).all()
        and (boxes[:, 2] <= size[0] + slack).all()
        and (boxes[:, 3] <= size[1] + slack).all()
    )
