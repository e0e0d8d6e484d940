"""Whether boxes lie where their image and their masks are, read as they say and in other ways.

Standard library only. A box here is its four numbers as they stand in a data set's record, before
any transform has clipped it.
"""

from __future__ import annotations

import math
from typing import Any, Callable, Iterable, Iterator, NamedTuple, Tuple

Numbers = Tuple[float, float, float, float]
Corners = Tuple[float, float, float, float]  # left, top, right, bottom in pixels

SAMPLED = 2000
FORMATS = {0: "XYXY_ABS", 1: "XYWH_ABS"}  # of detectron2.structures.BoxMode, those that train
SLACK_PX = 2.0  # rounding, and counting from one
SLACK_SHARE = 0.1  # of the box's own side: annotators overshoot
OVERLAP = 0.5  # with the extent of its mask


class Sample(NamedTuple):
    """One box of a data set. `mask` is the extent of its polygons, None where it has none."""

    mode: int
    numbers: Numbers
    width: float
    height: float
    mask: Corners | None


def _xyxy(a: float, b: float, c: float, d: float) -> Corners:
    return a, b, c, d


def _xywh(a: float, b: float, c: float, d: float) -> Corners:
    return a, b, a + c, b + d


def _centre(a: float, b: float, c: float, d: float) -> Corners:
    return a - c / 2, b - d / 2, a + c / 2, b + d / 2


def _yxyx(a: float, b: float, c: float, d: float) -> Corners:
    return b, a, d, c


# In the order of how common they are: where two fit equally well, the first is told.
READINGS: dict[str, tuple[Callable[..., Corners], bool]] = {
    "XYXY": (_xyxy, False),
    "XYWH": (_xywh, False),
    "centre, width and height": (_centre, False),
    "YXYX": (_yxyx, False),
    "relative XYXY": (_xyxy, True),
    "relative XYWH": (_xywh, True),
    "relative centre, width and height": (_centre, True),
    "relative YXYX": (_yxyx, True),
}
DECLARED = {0: "XYXY", 1: "XYWH"}


def misplaced(sample: Sample, reading: str) -> bool:
    """Whether a box, read in this way, cannot be meant so.

    It has no area, leaves its image by more than the slack, has no number above one though they
    are pixels, or is not where its mask is.
    """
    corners, relative = READINGS[reading]
    if not relative and max(map(abs, sample.numbers)) <= 1 < max(sample.width, sample.height):
        return True
    left, top, right, bottom = corners(*sample.numbers)
    if relative:
        left, right = left * sample.width, right * sample.width
        top, bottom = top * sample.height, bottom * sample.height
    wide, high = right - left, bottom - top
    if not (wide > 0 and high > 0):
        return True
    slack_x = max(SLACK_PX, SLACK_SHARE * wide)
    slack_y = max(SLACK_PX, SLACK_SHARE * high)
    if left < -slack_x or right > sample.width + slack_x:
        return True
    if top < -slack_y or bottom > sample.height + slack_y:
        return True
    return sample.mask is not None and off_mask((left, top, right, bottom), sample.mask)


def off_mask(box: Corners, mask: Corners) -> bool:
    """Whether a box overlaps the extent of its mask too little, and not by rounding alone."""
    rounded = all(abs(a - b) <= SLACK_PX for a, b in zip(box, mask))
    return not rounded and overlap(box, mask) < OVERLAP


def overlap(one: Corners, other: Corners) -> float:
    """Intersection over union of two boxes."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    if wide <= 0 or high <= 0:
        return 0.0
    both = wide * high
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return both / (areas[0] + areas[1] - both)


def samples(dicts: list[dict[str, Any]]) -> Iterator[Sample]:
    """Boxes of images taken evenly over a data set; crowds and what is no box are left out.

    Only images whose size the records tell: without it no box can leave its image.
    """
    found = 0
    for record in dicts[:: max(1, len(dicts) // SAMPLED)]:
        size = numbers_of((record.get("width"), record.get("height")), 2)
        if size is None or min(size) <= 0:
            continue
        for annotation in record.get("annotations") or ():
            mode, box = annotation.get("bbox_mode"), numbers_of(annotation.get("bbox"), 4)
            if annotation.get("iscrowd", 0) or mode not in FORMATS or box is None:
                continue
            mask = extent(annotation.get("segmentation"))
            yield Sample(int(mode), box, size[0], size[1], mask)  # type: ignore[arg-type]
            found += 1
        if found >= SAMPLED:
            return


def extent(segmentation: Any) -> Corners | None:
    """The box around the polygons of an object; None for run lengths and for what is neither."""
    if not isinstance(segmentation, list):
        return None
    points: list[float] = []
    for polygon in segmentation:
        try:
            flat = [float(n) for n in polygon]
        except (TypeError, ValueError):
            return None
        points.extend(flat[: len(flat) // 2 * 2])
    if len(points) < 6 or not all(map(math.isfinite, points)):
        return None
    xs, ys = points[0::2], points[1::2]
    # A mask of no extent tells nothing of where its box should be.
    around = (min(xs), min(ys), max(xs), max(ys))
    return around if around[0] < around[2] and around[1] < around[3] else None


def numbers_of(values: Any, length: int) -> tuple[float, ...] | None:
    """So many finite numbers, or None."""
    try:
        numbers = tuple(float(v) for v in values)
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == length and all(map(math.isfinite, numbers)) else None


def facts(dicts: list[dict[str, Any]]) -> dict[str, Any]:
    """Facts `boxes_*` of a data set: how many boxes cannot be meant as they say.

    Where records of both formats are mixed, those of the format with the larger share of misplaced
    boxes are told. Of none, where no image of known size has an upright box, their number alone.
    """
    by_mode: dict[int, list[Sample]] = {}
    for sample in samples(dicts):
        by_mode.setdefault(sample.mode, []).append(sample)
    told: dict[str, Any] = {}
    if not by_mode:
        return {"boxes_sampled": 0}
    for mode, found in sorted(by_mode.items()):
        wrong = count(found, DECLARED[mode])
        if told and wrong / len(found) <= told["boxes_misplaced"] / told["boxes_sampled"]:
            continue
        told = {
            "boxes_sampled": len(found),
            "boxes_format": FORMATS[mode],
            "boxes_misplaced": wrong,
            "boxes_with_masks": sum(sample.mask is not None for sample in found),
        }
        if wrong:
            others = [name for name in READINGS if name != DECLARED[mode]]
            misfits = {name: count(found, name) for name in others}
            best = min(others, key=misfits.__getitem__)
            told.update(boxes_reading=best, boxes_misplaced_so=misfits[best])
    return told


def count(found: Iterable[Sample], reading: str) -> int:
    """How many of these boxes are misplaced in this reading."""
    return sum(misplaced(sample, reading) for sample in found)
