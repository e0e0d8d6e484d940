"""What the losses of RetinaNet and FCOS look like where they are healthy and seem not to be."""

from __future__ import annotations

from collections.abc import Iterable

# Detectron2 divides their losses by a running mean of the object anchors (0.9 per iteration) that
# begins at 100 (RetinaNet) or 300 (FCOS). With 15 anchors in a batch, as one small image has, an
# FCOS's first losses are twenty times too small, and by this iteration a twentieth.
NORMALISED_AFTER = 60


def is_dense(losses: Iterable[str]) -> bool:
    """Whether these are the losses of RetinaNet or FCOS, by their names."""
    names = set(losses)
    if any(name.startswith("loss_fcos") for name in names):
        return True
    return names == {"loss_cls", "loss_box_reg"}
