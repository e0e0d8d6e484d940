"""The learning rates that Detectron2's models are trained at."""

from __future__ import annotations

REFERENCE_IMAGES = 16  # all of Detectron2's model zoo schedules are made for 16 images per batch
REFERENCE_LR = {"RetinaNet": 0.01, "FCOS": 0.01}  # zoo configs; R-CNN models use the other
REFERENCE_LR_RCNN = 0.02
# DETR, Mask2Former, DINO and ViTDet train at this rate, whatever the batch.
ADAM_LR = 1e-4


def linear_rule(images_per_batch: int, meta_architecture: str | None) -> float:
    """The model zoo's rate for so many images per batch (SGD)."""
    reference = REFERENCE_LR.get(meta_architecture or "", REFERENCE_LR_RCNN)
    return reference * images_per_batch / REFERENCE_IMAGES


def usual_lr(
    images: int | None, optimizer: str | None, meta_architecture: str | None
) -> float | None:
    """The rate that such models are trained at; None where none is known.

    images: per optimizer step. optimizer: SGD unless named; a class's full name will do.
    """
    name = (optimizer or "SGD").rpartition(".")[2].upper()
    if "ADAM" in name:
        return ADAM_LR
    if name.startswith("SGD") and images:
        return linear_rule(images, meta_architecture)
    return None
