"""Every storage that a training's operators make and let go, in their order, told to an allocator.

Followed where an operator's result leaves the dispatcher, below autograd, so that forward, backward
and optimizer are seen, and the same ones as on a GPU: what CPU kernels take for themselves inside
(oneDNN's reordered copies) is none of it, and neither is what CUDA's kernels would take (cuDNN's
and cuBLAS's workspaces).

`Sizes` answers the heavy operators by tensors of the right size that nobody ever writes to, so that
a batch of 16 images at COCO's sizes takes seconds and no memory. Which tensors live when depends on
the values only through objects, proposals and foreground, and those stay computed.
"""

from __future__ import annotations

import mmap
import os
import weakref
from typing import Any

import torch
import torchvision  # noqa: F401  registers its operators
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

MIB = 2.0**20
LARGE = 1 << 19  # entries: features above that are not computed
aten = torch.ops.aten


class Allocations(TorchDispatchMode):
    """While entered, storages are told to `heap` (as caching_allocator.CachingAllocator)."""

    def __init__(self, heap: Any) -> None:
        super().__init__()
        self.heap = heap
        self._known: dict[int, Any] = {}
        self._names = 0

    def add(self, *tensors: torch.Tensor) -> None:
        """Count these too: parameters, as they are made outside."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if id(storage) in self._known or not storage.nbytes():
                continue
            self._names += 1
            self.heap.allocate(self._names, storage.nbytes())
            self._know(storage, self._names)

    def _leave_out(self, tensors: list[torch.Tensor]) -> None:
        """What an operator is given and nobody has counted lies outside: its views are no news."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if id(storage) not in self._known:
                self._know(storage, None)

    def _know(self, storage: Any, name: int | None) -> None:
        self._known[id(storage)] = weakref.finalize(storage, self._gone, id(storage), name)

    def _gone(self, key: int, name: int | None) -> None:
        del self._known[key]
        if name is not None:
            self.heap.release(name)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = _DECOMPOSED.get(func)
        if known is not None:  # made of others inside, each with a result of its own
            with self:
                return known(*args, **(kwargs or {}))
        self._leave_out(_tensors(args))
        out = self.run(func, args, kwargs or {})
        self.add(*_tensors(out))
        return out

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        return func(*args, **kwargs)


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [leaf for one in value for leaf in _tensors(one)]
    return []


class Sizes(Allocations):
    """The same, with features of images, and overlaps of objects with anchors, not computed."""

    def __init__(self, heap: Any) -> None:
        super().__init__(heap)
        self._shapes: dict[Any, Any] = {}

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        name = func.overloadpacket
        if name in _HEAVY:
            return self._untouched(func, args, kwargs)
        if name in _LIGHT and any(a.numel() > LARGE and a.dim() == 4 for a in _tensors(args)):
            return self._untouched(func, args, kwargs)
        if name in _OVERLAPS and any(_of_anchors(a) for a in _tensors(args)):
            return self._untouched(func, args, kwargs)
        return func(*args, **kwargs)

    def _untouched(self, func: Any, args: Any, kwargs: Any) -> Any:
        name = func.overloadpacket
        if func._schema.name.endswith("_"):
            return args[0]
        key = func, _described(args), _described(tuple(sorted(kwargs.items())))
        if key not in self._shapes:
            of = tree_map(_without_data, (args, kwargs))
            self._shapes[key] = func(*of[0], **of[1])

        def made(meta: Any) -> Any:
            if not isinstance(meta, torch.Tensor):
                return meta
            zeros = _zeros(meta)
            if name is aten.convolution and meta.dim() == 4 and meta.shape[1] <= 9:
                zeros.normal_(0, 0.01)  # scores of anchors: alike, the best were neighbours
            return zeros

        told = self._shapes[key]
        return type(told)(map(made, told)) if isinstance(told, (list, tuple)) else made(told)


def _without_data(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to("meta")
    return torch.device("meta") if isinstance(value, torch.device) else value


def _described(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.size(), value.stride(), value.dtype
    if isinstance(value, (list, tuple)):
        return tuple(map(_described, value))
    return value


def _of_anchors(value: torch.Tensor) -> bool:
    """float[objects, anchors] and float[objects, anchors, 2]"""
    if value.numel() <= LARGE or not value.dtype.is_floating_point:
        return False
    return (value.dim() == 2 and value.shape[1] > 50_000) or (
        value.dim() == 3 and value.shape[2] == 2
    )


def _zeros(meta: torch.Tensor) -> torch.Tensor:
    """Zeros, of which large ones are no memory until they are written to."""
    if meta.numel() <= LARGE:
        made = torch.empty_strided(meta.size(), meta.stride(), dtype=meta.dtype)
        return made.zero_()
    pages = mmap.mmap(-1, meta.untyped_storage().nbytes())
    return torch.frombuffer(pages, dtype=meta.dtype).as_strided(meta.size(), meta.stride())


# Their values decide nothing of sizes, or only by the scores above.
_HEAVY = {
    aten.convolution, aten.convolution_backward, aten.mm, aten.addmm,
    torch.ops.torchvision.roi_align, torch.ops.torchvision._roi_align_backward,
}  # fmt: skip
_LIGHT = {
    aten.relu, aten.relu_, aten.threshold_backward, aten.add, aten.add_, aten.mul, aten.mul_,
    aten.sub, aten.div, aten.max_pool2d_with_indices, aten.max_pool2d_with_indices_backward,
    aten.upsample_nearest2d, aten.upsample_nearest2d_backward, aten.clone, aten.copy_, aten.zero_,
    aten.zeros_like, aten.native_group_norm, aten.native_group_norm_backward,
    aten.native_batch_norm, aten.native_batch_norm_backward, aten.sum, aten._to_copy,
    aten.index_put_, aten.new_zeros, aten.new_full, aten.upsample_bilinear2d,
    aten.upsample_bilinear2d_backward, aten.constant_pad_nd, aten.slice_backward,
    aten.select_backward, aten.cat, aten.fill_, aten.avg_pool2d, aten.avg_pool2d_backward,
}  # fmt: skip


_OVERLAPS = {
    aten.minimum, aten.maximum, aten.sub, aten.clamp_, aten.prod, aten.gt, aten.where, aten.div,
    aten.add, aten.eq, aten.max, aten.mul,
}  # fmt: skip


def _bce_with_logits(
    value: Any, target: Any, weight: Any = None, pos_weight: Any = None, reduction: int = 1
) -> Any:
    """As ATen's native/Loss.cpp: what it makes on the way is as large as the input."""
    logs = torch.nn.functional.logsigmoid(value)
    if pos_weight is not None:
        scale = (pos_weight - 1) * target
        loss = (1 - target).mul_(value).sub_(scale.add_(1).mul_(logs))
    else:
        loss = (1 - target).mul_(value).sub_(logs)
    if weight is not None:
        loss.mul_(weight)
    return loss.mean() if reduction == 1 else loss.sum() if reduction == 2 else loss


_DECOMPOSED = {aten.binary_cross_entropy_with_logits.default: _bce_with_logits}


def resident_mib() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB
