"""Facts of a batch as Detectron2's loader yields it: a list of dicts with `image`, `instances`."""

from __future__ import annotations

import hashlib
import os
from typing import Any

# Put into a sample by `datasets`, where it was loaded: (seconds, processor seconds, seconds to read
# and decode the image or None).
LOAD_KEY = "d2check_load"
_NO_FIELDS: dict[str, Any] = {}
# For the ranks to be compared: of the first iterations, and of each so many images at most.
MARKED_ITERATIONS = 20
MARKED_IMAGES = 8


class BatchFacts:
    """Counts and sizes of what one iteration was given, over all its batches."""

    def __init__(self, size_divisibility: int = 1) -> None:
        """`size_divisibility`: the model pads to a multiple of so many pixels."""
        self._divisor = max(1, size_divisibility)
        self.loads: list[tuple[float, float, float | None]] = []
        self._numbers: dict[str, int] = {}
        self._batches: list[Any] = []
        self._taken = 0
        self.keep_latest = False
        self.latest: Any = None

    @property
    def files(self) -> list[str]:
        """The images of this iteration so far; asked for only when something went wrong."""
        named = (s["file_name"] for batch in self._batches for s in batch if "file_name" in s)
        return [str(name) for name in named]

    def not_finite(self) -> list[str]:
        """What of this iteration's images holds NaN or infinity, as "a.png (image)"."""
        found = []
        for batch in self._batches:
            for place, sample in enumerate(batch):
                fields = getattr(sample.get("instances"), "_fields", _NO_FIELDS)
                boxes = getattr(fields.get("gt_boxes"), "tensor", None)
                name = os.path.basename(str(sample.get("file_name", "image %d" % place)))
                given: tuple[tuple[str, Any], ...] = (
                    ("image", sample.get("image")),
                    ("boxes", boxes),
                )
                for what, tensor in given:
                    if hasattr(tensor, "isfinite") and not bool(tensor.isfinite().all()):
                        found.append("%s (%s)" % (name, what))
        return found

    def add(self, batch: Any) -> None:
        """Look at a batch and take the probe's own key out of it. Anything else is left alone."""
        if not isinstance(batch, (list, tuple)):
            return
        images = objects = most = height = width = 0
        for sample in batch:
            if not isinstance(sample, dict):
                return
            load = sample.pop(LOAD_KEY, None)
            if load is not None:
                self.loads.append(load)
            shape: Any = getattr(sample.get("image"), "shape", ())  # a tensor is slow to tell
            if len(shape) < 2:
                continue
            images += 1
            tall, wide = shape[-2:]
            if tall > height:
                height = tall
            if wide > width:
                width = wide
            instances = sample.get("instances")
            if instances is not None:
                # The `len` of an Instances asks a tensor in Python, which takes ten times as long.
                classes = getattr(instances, "_fields", _NO_FIELDS).get("gt_classes")
                count = len(instances) if classes is None else classes.shape[0]
                objects += count
                if count > most:
                    most = count
        if images:
            self._batches.append(batch)
            if self.keep_latest:
                self.latest = batch
            self._count(images, objects, most, int(height), int(width))

    def take(self) -> dict[str, Any]:
        """The `batch` of an iteration's record, empty when none was seen. Starts afresh."""
        numbers: dict[str, Any] = self._numbers
        if numbers and self.loads:
            numbers["load_s"] = round(sum([load[0] for load in self.loads]), 6)
            self.loads = []
        if len(self._batches) > 1:
            numbers["batches"] = len(self._batches)
        if self._batches and self._taken < MARKED_ITERATIONS:
            self._taken += 1
            marks = sorted({mark for batch in self._batches for mark in _marks(batch)})
            for place, mark in enumerate(marks[:MARKED_IMAGES]):
                numbers["given_image_%d" % place] = mark
        self._numbers = {}
        self._batches = []
        return numbers

    def _count(self, images: int, instances: int, most: int, height: int, width: int) -> None:
        divisor = self._divisor
        # Detectron2 pads every image of a batch to its largest height and its largest width.
        padded = (-(-height // divisor) * divisor) * (-(-width // divisor) * divisor)
        seen = self._numbers
        if seen:
            images += seen["images"]
            instances += seen["instances"]
            most = max(most, seen["most_instances"])
            height = max(height, seen["max_height"])
            width = max(width, seen["max_width"])
            padded = max(padded, seen["padded_pixels"])
        self._numbers = {
            "images": images,
            "instances": instances,
            "most_instances": most,
            "max_height": height,
            "max_width": width,
            "padded_pixels": padded,
        }


def _marks(batch: Any) -> list[int]:
    """A number for each image of a batch that has a name: equal for equal names, on all ranks.

    Of 52 bits, which a float holds. Of two batches with the same images the lowest ones agree,
    however the images are ordered.
    """
    names = (sample.get("file_name", sample.get("image_id")) for sample in batch)
    digests = (
        hashlib.blake2b(str(name).encode("utf-8", "replace"), digest_size=8).digest()
        for name in names
        if isinstance(name, (str, int))
    )
    return [int.from_bytes(digest, "big") >> 12 for digest in digests]
