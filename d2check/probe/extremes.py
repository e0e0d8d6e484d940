"""The worst batch of a training: its size by the user's own transforms, its memory by trying it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Callable

import torch

from . import datasets
from .phases import worst_batch
from .phases.loader import find_mapped

if TYPE_CHECKING:
    from .session import Session


class NotPossible(Exception):
    """Why the worst batch cannot be tried, in words for the user."""


def measure(
    session: Session,
    trainer: Any,
    inner: Any,
    template: list[dict[str, Any]] | None,
    make_meter: Callable[[Any], Any] = worst_batch.CudaMeter,
    *,
    on_cpu: bool = False,
) -> dict[str, Any]:
    """Facts of the worst batch, see `worst_batch.measure`. Raises NotPossible.

    template: a batch of this training. make_meter: of a device; `on_cpu` for a meter that has no
    need of a GPU.
    """
    model = getattr(inner.model, "module", inner.model)
    device = next(model.parameters()).device
    if device.type != "cuda" and not on_cpu:
        raise NotPossible("the training runs on the CPU")
    if any("SyncBatchNorm" in type(module).__name__ for module in model.modules()):
        raise NotPossible("SyncBN makes the GPUs wait for each other, and one may run out alone")
    cfg = getattr(trainer, "cfg", None)
    loader = getattr(inner, "data_loader", None)
    shapes = (datasets.training_set(session, loader, cfg) or {}).get("shapes")
    if not shapes:
        raise NotPossible("the sizes of the data set's images are not known")
    if not template:
        raise NotPossible("the loader's batches are no list of samples")
    height, width = padded_size(loader, shapes)
    objects = max(count for _, _, count in shapes)
    try:
        batch = worst_batch.build(template, len(template), height, width, max(objects, 1))
    except ValueError as error:
        raise NotPossible(str(error)) from error
    return worst_batch.measure(model, batch, make_meter(device), autocast_of(inner, device.type))


def padded_size(loader: Any, shapes: list[tuple[int, int, int]]) -> tuple[int, int]:
    """The largest (height, width) that a batch of this loader is padded to, in pixels."""
    mapper = getattr(find_mapped(loader), "_map_func", None)
    mapper = getattr(mapper, "_obj", mapper)  # out of Detectron2's PicklableWrapper
    listed = getattr(mapper, "augmentations", None)
    found = {type(one).__name__: one for one in getattr(listed, "augs", None) or listed or ()}
    fixed = found.get("FixedSizeCrop")
    if fixed is not None:
        return int(fixed.crop_size[0]), int(fixed.crop_size[1])
    resize = found.get("ResizeShortestEdge")
    if resize is None:
        raise NotPossible("the mapper has no ResizeShortestEdge and no FixedSizeCrop")
    short, longest = max(resize.short_edge_length), resize.max_size
    if any("Crop" in name for name in found):
        return short, longest  # a crop may have any shape
    return worst_batch.largest_size(shapes, short, longest, grouping=_groups(loader))


def autocast_of(inner: Any, device_type: str) -> Callable[[], Any]:
    """The context in which the trainer runs its model."""
    if getattr(inner, "grad_scaler", None) is None:
        return contextlib.nullcontext
    dtype = getattr(inner, "precision", torch.float16)
    return lambda: torch.autocast(device_type, dtype=dtype)


def _groups(loader: Any) -> bool:
    layer = loader
    for _ in range(10):
        if "AspectRatioGrouped" in type(layer).__name__:
            return True
        own = getattr(layer, "__dict__", {})
        layer = own.get("dataset", own.get("_dataset"))
        if layer is None:
            return False
    return False
