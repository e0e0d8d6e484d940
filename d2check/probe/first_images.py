"""The first images that the model is given, compared with their files and the boxes of those.

A mapper that mirrors, turns, resizes or pads an image and not its boxes, or the boxes and not the
image, is seen so where there are no masks to tell. Whatever is cropped, mixed or not to be read is
left out, and counted.
"""

from __future__ import annotations

import collections
import os
import time
from typing import Any, Iterator, NamedTuple

import numpy as np
import torch

from . import left_behind, moves
from .boxes import numbers_of
from .datasets import XYWH_ABS, XYXY_ABS
from .drawn_facts import summary
from .moves import Unclear
from .phases.loader import find_mapped

IMAGES, PER_BATCH = 40, 4
LIMIT_S = 2.0  # for reading the files, once the training is over
LARGEST = 50_000_000  # pixels of a file, which take up to a second and 150 MB
SCANNED = 20000  # records that are searched where the names of the files are not known
FINE = 4 * moves.SIDE  # pixels of a side before the mean is taken
AS_LIKE = 0.005  # correlations that differ by less are equal
_ORIENTATION = 274  # EXIF


class Drawn(NamedTuple):
    """An image as the model was given it."""

    file_name: str
    boxes: np.ndarray[Any, Any]
    size: tuple[int, int]  # width, height
    # Small copies of all of it and, where its edge is of one colour, of what is inside.
    copies: list[tuple[moves.Frame, np.ndarray[Any, Any]]]


class FirstImages:
    """Keeps small copies of the first images and their boxes, to be compared when there is time."""

    def __init__(self) -> None:
        """Nothing is seen yet."""
        self._seen = 0
        self._drawn: list[Drawn] = []
        self._unclear: collections.Counter[str] = collections.Counter()

    def look(self, batch: Any) -> None:
        """Keep images of a batch while there are not enough: a fraction of a millisecond each."""
        if self._seen >= IMAGES or not isinstance(batch, (list, tuple)):
            return
        for sample in batch[:PER_BATCH]:
            if self._seen >= IMAGES or not isinstance(sample, dict):
                return
            self._seen += 1
            try:
                self._drawn.append(keep(sample))
            except Unclear as why:
                self._unclear[str(why)] += 1
            except Exception as error:  # noqa: BLE001  samples of a user's own making
                self._unclear[_words(error)] += 1

    def facts(self, loader: Any, files: list[Any] | None) -> dict[str, Any]:
        """Facts `drawn_*`, read now from the files and the records behind the loader.

        files: names of the data set's files, in the order of its records, where they are known.
        Empty where no image was seen.
        """
        if not self._seen:
            return {}
        unclear = self._unclear.copy()
        fates: list[left_behind.Fate] = []
        drawn, self._drawn = self._drawn, []
        try:
            found = Records(loader, files, [one.file_name for one in drawn])
        except Unclear as why:
            unclear[str(why)] += len(drawn)
        except Exception as error:  # noqa: BLE001  a data set of the user's own making
            unclear[_words(error)] += len(drawn)
        else:
            with np.errstate(all="ignore"):  # boxes may be infinite
                fates = compare_all(drawn, found, unclear)
        return summary(fates, unclear)


def compare_all(
    drawn: list[Drawn], found: Records, unclear: collections.Counter[str]
) -> list[left_behind.Fate]:
    """What became of each image, as far as there is time; reasons why not are counted."""
    fates: list[left_behind.Fate] = []
    started_s = time.perf_counter()
    for done, one in enumerate(drawn):
        if time.perf_counter() - started_s > LIMIT_S:
            unclear["reading their files takes too long"] += len(drawn) - done
            break
        try:
            fates.append(compare(one, found.record(one.file_name)))
        except Unclear as why:
            unclear[str(why)] += 1
        except Exception as error:  # noqa: BLE001  files and records of any making
            unclear[_words(error)] += 1
    return fates


def keep(sample: dict[str, Any]) -> Drawn:
    """What of a sample is compared later. Raises Unclear."""
    image, name = sample.get("image"), sample.get("file_name")
    if not isinstance(name, (str, os.PathLike)):
        raise Unclear("the samples have no file_name")
    if not isinstance(image, torch.Tensor) or image.dim() != 3:
        raise Unclear("the samples have no image of three dimensions")
    if image.device.type != "cpu":
        raise Unclear("the images are on the GPU before the model gets them")
    fields: dict[str, Any] = getattr(sample.get("instances"), "_fields", {})
    boxes = fields.get("gt_boxes")
    if type(boxes).__name__ != "Boxes":
        raise Unclear("they have no boxes that are upright")
    if not len(boxes):  # type: ignore[arg-type]
        raise Unclear("they have no objects")
    corners = boxes.tensor.detach().cpu().double().numpy().copy()  # type: ignore[union-attr]
    height, width = int(image.shape[1]), int(image.shape[2])
    whole = moves.Frame(0, 0, width, height)
    copies = [(whole, small_copy(image))]
    inner = content(image)
    if inner is not None and inner != whole:
        left, top, wide, tall = (int(number) for number in inner)
        copies.append((inner, small_copy(image[:, top : top + tall, left : left + wide])))
    return Drawn(str(name), corners, (width, height), copies)


def small_copy(image: torch.Tensor) -> np.ndarray[Any, Any]:
    """The mean of the channels, float32[SIDE, SIDE]. Grey in this way, their order is the same."""
    tall, wide = image.shape[1:]
    # Every pixel of a large image takes 20 times as long, and tells no more at this size.
    thin = image[:, :: max(1, tall // FINE), :: max(1, wide // FINE)]
    grey = thin.float().mean(0)[None]
    small = torch.nn.functional.adaptive_avg_pool2d(grey, (moves.SIDE, moves.SIDE))
    copy: np.ndarray[Any, Any] = small[0].numpy()
    return copy


def content(image: torch.Tensor) -> moves.Frame | None:
    """The part of an image inside an edge of one colour, as padding leaves it; None without one."""
    for line in (image[:, -1], image[:, :, -1], image[:, 0], image[:, :, 0]):
        if bool((line == line[:, :1]).all()):
            colour = line[:, 0]
            break
    else:
        return None
    steps = [max(1, side // FINE) for side in image.shape[1:]]
    inside = (image[:, :: steps[0], :: steps[1]] != colour[:, None, None]).any(0)
    bounds = []
    for axis, (step, length) in enumerate(zip(steps, image.shape[1:])):
        held = torch.nonzero(inside.any(1 - axis))[:, 0]
        if not len(held):
            return None
        bounds.append((int(held[0]) * step, int(held[-1]) * step, step, int(length)))
    ends = []
    for axis, (low, high, step, length) in enumerate(bounds):
        # Every step-th line was looked at: its edge lies among those before, and those after.
        first = max(0, low - step + 1)
        before = image.narrow(axis + 1, first, low + 1 - first)
        after = image.narrow(axis + 1, high, min(step, length - high))
        held = [
            torch.nonzero((band != colour[:, None, None]).any(0).any(1 - axis))[:, 0]
            for band in (before, after)
        ]
        ends.append((first + int(held[0][0]), high + int(held[1][-1]) + 1))
    (top, bottom), (left, right) = ends
    return moves.Frame(left, top, right - left, bottom - top)


class Records:
    """The records of the data set that belong to some files."""

    def __init__(self, loader: Any, files: list[Any] | None, wanted: list[str]) -> None:
        """Raises Unclear where the loader has no mapper over records that can be looked up."""
        mapped = find_mapped(loader)
        if mapped is None:
            raise Unclear("the loader has no mapper over a data set whose records can be looked up")
        self._records = mapped._dataset
        self._places: dict[str, list[int]] = {name: [] for name in wanted}
        known = files if files and len(files) == len(self._records) else None
        self._all_seen = known is not None or len(self._records) <= SCANNED
        for index, name in enumerate(known or self._scan()):
            if str(name) in self._places:
                self._places[str(name)].append(index)

    def _scan(self) -> Iterator[Any]:
        for index in range(min(len(self._records), SCANNED)):
            record = self._records[index]
            yield record.get("file_name") if isinstance(record, dict) else None

    def record(self, file_name: str) -> dict[str, Any]:
        """The record that names a file. Raises Unclear."""
        found = [self._records[place] for place in self._places[file_name]]
        found = [one for one in found if isinstance(one, dict) and "annotations" in one]
        if not found and not self._all_seen:
            raise Unclear("the data set is too large to look for their records")
        if not found:
            raise Unclear("no record of the data set with annotations names their files")
        # Parts of one image may have a record each, and so may its mirror image.
        if any(one["annotations"] != found[0]["annotations"] for one in found[1:]):
            raise Unclear("several records of the data set name their files")
        return dict(found[0])


def compare(one: Drawn, record: dict[str, Any]) -> left_behind.Fate:
    """What the mapper did to an image and to its boxes. Raises Unclear, or what reading raises."""
    file, xywh = file_boxes(record)
    copy, size = read_small(one.file_name)
    if (record.get("width", size[0]), record.get("height", size[1])) != size:
        raise Unclear("their files are of another size than the records say")
    found: list[tuple[float, moves.Move, moves.Frame]] = []
    why = ""
    for frame, drawn in one.copies:
        try:
            move, likeness = moves.move_of(drawn, copy)
        except Unclear as reason:
            why = why or str(reason)
        else:
            found.append((likeness, move, frame))
    if not found:
        raise Unclear(why)
    # The whole image comes first: its own edge may be of one colour, as the file's is.
    best = max(likeness for likeness, _, _ in found)
    _, move, frame = next(one for one in found if one[0] > best - AS_LIKE)
    return left_behind.fate(one.boxes, left_behind.Scene(file, size, move, frame, one.size, xywh))


def file_boxes(record: dict[str, Any]) -> tuple[np.ndarray[Any, Any], bool]:
    """Corners of a record's boxes without crowds, and whether they are told as XYWH_ABS."""
    modes, corners = set(), []
    for annotation in record.get("annotations") or ():
        if annotation.get("iscrowd", 0):
            continue
        box, mode = numbers_of(annotation.get("bbox"), 4), annotation.get("bbox_mode")
        if box is None or mode not in (XYXY_ABS, XYWH_ABS):
            raise Unclear("their records have no boxes of the formats XYXY_ABS or XYWH_ABS")
        modes.add(int(mode))
        wide = (box[0], box[1]) if mode == XYWH_ABS else (0.0, 0.0)
        corners.append((box[0], box[1], box[2] + wide[0], box[3] + wide[1]))
    if not corners:
        raise Unclear("their records have no annotations")
    return np.array(corners), modes == {XYWH_ABS}


def read_small(file_name: str) -> tuple[np.ndarray[Any, Any], tuple[int, int]]:
    """A small copy of a file's image, and its (width, height). Raises Unclear, OSError."""
    from detectron2.utils.file_io import PathManager
    from PIL import Image

    with PathManager.open(file_name, "rb") as file:
        image = Image.open(file)
        size = image.size
        # Some mappers turn such an image and some do not; of which its boxes are nobody says.
        if image.getexif().get(_ORIENTATION, 1) != 1:
            raise Unclear("their files tell an orientation (EXIF), which mappers treat differently")
        if size[0] * size[1] > LARGEST:
            raise Unclear("their files are too large to be read once more")
        image.draft("RGB", (FINE, FINE))  # a JPEG is decoded at a fraction of its size
        pixels = np.array(image.convert("RGB"))
    return small_copy(torch.from_numpy(pixels).permute(2, 0, 1)), size


def _words(error: Exception) -> str:
    return "%s: %s" % (type(error).__name__, str(error)[:200])
