"""Facts of a batch as Detectron2's loader yields it: a list of dicts with `image`, `instances`."""

from __future__ import annotations

from typing import Any

# Put into a sample by `datasets`, where it was loaded: (seconds, processor seconds, seconds to read
# and decode the image or None).
LOAD_KEY = "d2check_load"


class BatchFacts:
    """Counts and sizes of what one iteration was given, over all its batches."""

    def __init__(self, size_divisibility: int = 1) -> None:
        """`size_divisibility`: the model pads to a multiple of so many pixels."""
        self._divisor = max(1, size_divisibility)
        self.files: list[str] = []
        self.loads: list[tuple[float, float, float | None]] = []
        self._numbers: dict[str, int] = {}

    def add(self, batch: Any) -> None:
        """Look at a batch and take the probe's own key out of it. Anything else is left alone."""
        if not isinstance(batch, (list, tuple)):
            return
        images = instances = height = width = 0
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
            if "instances" in sample:
                instances += count_of(sample["instances"])
            if "file_name" in sample:
                self.files.append(sample["file_name"])
        if images:
            self._count(images, instances, int(height), int(width))

    def take(self) -> dict[str, Any]:
        """The `batch` of an iteration's record, empty when none was seen. Starts afresh."""
        numbers: dict[str, Any] = self._numbers
        if numbers and self.loads:
            numbers["load_s"] = round(sum(load[0] for load in self.loads), 6)
        self._numbers = {}
        self.files = []
        self.loads = []
        return numbers

    def _count(self, images: int, instances: int, height: int, width: int) -> None:
        seen = self._numbers
        divisor = self._divisor
        # Detectron2 pads every image of a batch to its largest height and its largest width.
        padded = (-(-height // divisor) * divisor) * (-(-width // divisor) * divisor)
        seen["images"] = seen.get("images", 0) + images
        seen["instances"] = seen.get("instances", 0) + instances
        seen["max_height"] = max(seen.get("max_height", 0), height)
        seen["max_width"] = max(seen.get("max_width", 0), width)
        seen["padded_pixels"] = max(seen.get("padded_pixels", 0), padded)


def count_of(instances: Any) -> int:
    """Objects of an `Instances`; its own `len` asks one tensor in Python, which takes ten times."""
    classes = getattr(instances, "_fields", {}).get("gt_classes")
    shape = getattr(classes, "shape", None)
    return int(shape[0]) if shape else len(instances)
