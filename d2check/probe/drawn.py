"""What the first objects look like when the model is given them, after all transforms.

Whether their boxes hold their masks: a mapper that flips, crops or resizes an image without its
boxes, or takes one format for another, parts them, and whatever Detectron2's own transforms do
keeps a mask inside its box. And their highest class: what is beyond the model's classes is
background to it.
"""

from __future__ import annotations

from typing import Any

COMPARED = 200  # objects with masks: milliseconds all together
BATCHES = 20
STRIDE = 4  # pixels: fine enough for a share of one half, and 16 times as fast for bit masks
SLACK_PX = 2.0
INSIDE = 0.5  # share of the mask's extent
_MASKS = ("PolygonMasks", "BitMasks")


class FirstObjects:
    """Looks at the objects of the first batches of a training."""

    def __init__(self) -> None:
        """Nothing is seen yet."""
        self._batches = 0
        self._compared = 0
        self._outside = 0
        self._highest_class = -1

    def look(self, batch: Any) -> None:
        """Look at the objects of a batch, if it is one of the first."""
        if self._batches >= BATCHES or not isinstance(batch, (list, tuple)):
            return
        self._batches += 1
        for sample in batch:
            instances = sample.get("instances") if isinstance(sample, dict) else None
            fields: dict[str, Any] = getattr(instances, "_fields", {})
            boxes, masks = fields.get("gt_boxes"), fields.get("gt_masks")
            if type(boxes).__name__ == "Boxes" and type(masks).__name__ in _MASKS:
                if _is_at_hand(boxes.tensor):  # type: ignore[union-attr]
                    self._compare(boxes, masks)
            classes: Any = fields.get("gt_classes")
            if hasattr(classes, "max") and _is_at_hand(classes) and len(classes):
                self._highest_class = max(self._highest_class, int(classes.max()))

    def facts(self) -> dict[str, int]:
        """Facts `masks_*` and `highest_class`; none where there was nothing to see."""
        told: dict[str, int] = {}
        if self._compared:
            told.update(masks_compared=self._compared, masks_outside_box=self._outside)
        if self._highest_class >= 0:
            told["highest_class"] = self._highest_class
        return told

    def _compare(self, boxes: Any, masks: Any) -> None:
        room = COMPARED - self._compared
        if room <= 0 or not len(masks):
            return
        for box, mask in zip(boxes.tensor[:room].tolist(), extents(masks, room)):
            if mask[0] < mask[2] and mask[1] < mask[3]:  # not empty
                self._compared += 1
                self._outside += inside(mask, box) < INSIDE


def _is_at_hand(tensor: Any) -> bool:
    """Whether nobody has to wait for it, as for what a loader has put on the GPU already."""
    return bool(tensor.device.type == "cpu")


def extents(masks: Any, room: int) -> list[list[float]]:
    """Left, top, right and bottom of the first masks; of an empty one right is not above left.

    PolygonMasks.get_bounding_boxes takes ten times as long, and the training waits meanwhile.
    """
    polygons = getattr(masks, "polygons", None)
    if polygons is None:
        coarse = type(masks)(masks.tensor[:room, ::STRIDE, ::STRIDE]).get_bounding_boxes()
        found: list[list[float]] = (coarse.tensor * STRIDE).tolist()
        return found
    boxes = []
    for parts in polygons[:room]:
        columns = [part.reshape(-1, 2) for part in parts]
        lows, highs = [c.min(0) for c in columns], [c.max(0) for c in columns]
        boxes.append(
            [float(min(low[k] for low in lows)) for k in (0, 1)]
            + [float(max(high[k] for high in highs)) for k in (0, 1)]
            if columns
            else [0.0] * 4
        )
    return boxes


def inside(mask: list[float], box: list[float]) -> float:
    """Share of the extent of a mask that lies in a box widened by the slack; both as corners."""
    wide = min(mask[2], box[2] + SLACK_PX) - max(mask[0], box[0] - SLACK_PX)
    high = min(mask[3], box[3] + SLACK_PX) - max(mask[1], box[1] - SLACK_PX)
    if wide <= 0 or high <= 0:
        return 0.0
    return wide * high / ((mask[2] - mask[0]) * (mask[3] - mask[1]))
