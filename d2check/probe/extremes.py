"""The worst batch of a training: its size by the user's own transforms, its memory by trying it."""

from __future__ import annotations

import contextlib
import statistics
from typing import TYPE_CHECKING, Any, Callable

import numpy as np
import torch

from . import datasets, facts, image_sizes
from .phases import worst_batch

if TYPE_CHECKING:
    from .session import Session

# Side of the smaller trials against the largest: far enough apart to tell memory by area from
# memory that is always there.
SMALLER_SIDE = 0.7
CLOSER_LOOKS = 2  # further trials where the largest did not fit


class NotPossible(Exception):
    """Why the worst batch cannot be tried, in words for the user."""


def measure(
    session: Session,
    trainer: Any,
    inner: Any,
    template: list[dict[str, Any]] | None,
    meter: Any,
    autocast: Callable[[], Any] | None = None,
) -> dict[str, Any]:
    """Facts of the worst batch; the trials are recorded one by one. Raises NotPossible.

    `worst_batch_mib` (peak of reserved memory), or `worst_batch_oom` where it is too large, with
    `worst_batch_height`, `_width` (pixels of each image) and `_objects` (per image), and what
    `meter` (as memory.CudaMeter) tells of the GPU. template: a batch of this training. autocast:
    the context in which the training was seen to run its model.
    """
    model = getattr(inner.model, "module", inner.model)
    loader = getattr(inner, "data_loader", None)
    cfg = getattr(trainer, "cfg", None)
    entry = datasets.training_set(session, loader, cfg) or {}
    shapes = entry.get("shapes")
    if not shapes:
        raise NotPossible("the sizes of the data set's images are not known")
    divisor = facts.size_divisibility(model)
    capacity = meter.capacity()
    session.recorder.write({"t": "facts", "facts": capacity})
    try:
        if session.recorder.rank == 0:
            image_sizes.write(session, loader, shapes, entry.get("files"), divisor)
        height, width = padded_size(loader, shapes)
    except image_sizes.SizesUnknown as error:
        raise NotPossible(str(error)) from error
    except OSError as error:
        raise NotPossible("the sizes of the images could not be written: %s" % error) from error
    if any("SyncBatchNorm" in type(module).__name__ for module in model.modules()):
        raise NotPossible("SyncBN makes the GPUs wait for each other, and one may run out alone")
    if not template:
        raise NotPossible("the loader's batches are no list of samples")
    trials = design(template, shapes, height, width, divisor)
    device = next(model.parameters()).device
    context = autocast or autocast_of(inner, device.type)
    zero_grad = getattr(getattr(inner, "optimizer", None), "zero_grad", None)

    def measured(some: list[worst_batch.Trial]) -> list[dict[str, Any]]:
        return worst_batch.measure(model, some, meter, context, zero_grad)

    told = measured(trials)
    worst = told[-1]
    for _ in range(CLOSER_LOOKS):
        size = between(told, len(template), divisor)
        if size is None:
            break
        usual = told[0]["most_instances"]
        told += measured([_trial(template, len(template), size, usual, usual, divisor=divisor)])
    for one in told:
        session.recorder.write(dict({"t": "trial"}, **one))
    found: dict[str, Any] = {
        "worst_batch_height": height,
        "worst_batch_width": width,
        "worst_batch_objects": worst["most_instances"],
    }
    if worst.get("oom"):
        found["worst_batch_oom"] = True
    else:
        found["worst_batch_mib"] = worst["peak_reserved_mib"]
    return found


def design(
    template: list[dict[str, Any]],
    shapes: list[tuple[int, int, int]],
    height: int,
    width: int,
    divisor: int,
) -> list[worst_batch.Trial]:
    """The batches to try, the worst one last: they differ in images, in area and in objects.

    Three figures grow with memory; all of them at their largest say whether anything can happen,
    and the smaller ones how memory grows with each. Raises NotPossible where the template has no
    objects to copy.
    """
    images = len(template)
    most = max(1, max(count for _, _, count in shapes))
    usual = max(1, int(statistics.median([count for _, _, count in shapes])))
    if usual == most and most > 1:
        usual = most // 2
    low, small = (
        (max(divisor, int(height * part)), max(divisor, int(width * part)))
        for part in (SMALLER_SIDE**2, SMALLER_SIDE)
    )
    sizes = [
        (images, low, usual, usual),
        (-(-images // 2), (height, width), usual, usual),
        (images, small, usual, usual),
        (images, small, usual, most),
        (images, (height, width), usual, usual),
        (images, (height, width), usual, most),
        (images, (height, width), most, most),
    ]
    # Of a single image there are no others, whose objects could differ.
    sizes = [(n, size, top if n == 1 else others, top) for n, size, others, top in sizes]
    distinct = [one for at, one in enumerate(sizes) if one not in sizes[at + 1 :]]
    try:
        worst_batch.build(template, [1], divisor, divisor)
    except ValueError as error:
        raise NotPossible(str(error)) from error
    return [_trial(template, *one, divisor=divisor) for one in distinct]


def between(told: list[dict[str, Any]], images: int, divisor: int) -> tuple[int, int] | None:
    """A size (height, width) between the largest that fitted and the smallest that did not.

    Memory grows faster where batches are large, so the limit is best looked at from near. None
    where all or nothing fitted, or both are as near as padding lets them be.
    """
    sized = [one for one in told if one["images"] == images]
    fitted = [one for one in sized if not one.get("oom")]
    failed = [one for one in sized if one.get("oom")]
    if not fitted or not failed:
        return None
    low = max(fitted, key=lambda one: one["padded_pixels"])
    high = min(failed, key=lambda one: one["padded_pixels"])
    middles = [(low[side] + high[side]) // 2 for side in ("max_height", "max_width")]
    sides = [(side // divisor * divisor, -(-side // divisor) * divisor) for side in middles]
    sizes = [(height, width) for height in sides[0] for width in sides[1]]
    inside = [s for s in sizes if low["padded_pixels"] < s[0] * s[1] < high["padded_pixels"]]
    middle = (low["padded_pixels"] + high["padded_pixels"]) / 2
    return min(inside, key=lambda size: abs(size[0] * size[1] - middle), default=None)


def _trial(
    template: list[dict[str, Any]],
    images: int,
    size: tuple[int, int],
    objects: int,
    most: int,
    *,
    divisor: int,
) -> worst_batch.Trial:
    """One image has `most` objects, the others `objects`."""
    height, width = size
    counts = [most] + [objects] * (images - 1)
    padded = (-(-height // divisor) * divisor) * (-(-width // divisor) * divisor)
    told = {
        "images": images,
        "instances": sum(counts),
        "most_instances": most,
        "max_height": height,
        "max_width": width,
        "padded_pixels": padded,
    }
    return worst_batch.Trial(told, lambda: worst_batch.build(template, counts, height, width))


def padded_size(loader: Any, shapes: list[tuple[int, int, int]]) -> tuple[int, int]:
    """The largest (height, width) that a batch of this loader is padded to, in pixels.

    Raises image_sizes.SizesUnknown.
    """
    transforms = image_sizes.transforms_of(loader)
    height, width, _ = np.asarray(shapes).T
    tall, wide = image_sizes.largest_sizes(height, width, transforms)
    grouping = image_sizes.groups_by_aspect(loader)
    return image_sizes.largest_padded(tall, wide, width > height, grouping=grouping)


def autocast_of(inner: Any, device_type: str) -> Callable[[], Any]:
    """The context in which the trainer runs its model."""
    if getattr(inner, "grad_scaler", None) is None:
        return contextlib.nullcontext
    dtype = getattr(inner, "precision", torch.float16)
    return lambda: torch.autocast(device_type, dtype=dtype)
