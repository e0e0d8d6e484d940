"""The largest batch that the config and the data set can make, forward and backward, no step.

Memory depends on the padded size of a batch and on its objects, and the mask head on the number
of foreground proposals, which grows for hundreds of iterations. All three are set to their
maximum at once. It may never come to that: the peak is an upper bound.
"""

from __future__ import annotations

import contextlib
from typing import Any, Callable, Iterator

import torch

from .loader import unchanged_randomness

PASSES = 2  # the first one also fills the caches of the allocator and of cuDNN
MIB = 2.0**20


class CudaMeter:
    """The allocator's own figures of one GPU."""

    def __init__(self, device: Any) -> None:
        """`device`: a CUDA device."""
        self._device = device

    def begin(self) -> None:
        """Forget earlier peaks, and give back what is only cached."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self._device)

    def peak_mib(self) -> float:
        """The peak of reserved memory since `begin`."""
        torch.cuda.synchronize(self._device)
        return float(torch.cuda.max_memory_reserved(self._device) / MIB)

    def end(self) -> None:
        """Give back what the phase has taken."""
        torch.cuda.empty_cache()


def measure(
    model: Any, batch: list[dict[str, Any]], meter: Any, autocast: Callable[[], Any]
) -> dict[str, Any]:
    """Facts: `worst_batch_mib` (peak of reserved memory), or `worst_batch_oom` where it is too
    large, with `worst_batch_height`, `_width` (pixels of each image) and `_objects` (per image).

    `model` without its DistributedDataParallel. Weights, buffers, gradients, random generators
    and Detectron2's storage are as before, whatever happens.
    """
    image = batch[0]["image"]
    facts: dict[str, Any] = {
        "worst_batch_height": int(image.shape[-2]),
        "worst_batch_width": int(image.shape[-1]),
        "worst_batch_objects": len(batch[0]["instances"]),
    }
    too_large = False
    with unchanged(model), unchanged_randomness(), most_foreground(model), apart_storage():
        meter.begin()
        try:
            for _ in range(PASSES):
                with autocast():
                    loss = sum(model(batch).values())
                loss.backward()
                for parameter in model.parameters():
                    parameter.grad = None
                del loss
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            too_large = True
        if too_large:  # the traceback is gone by now, and the tensors that its frames held
            facts["worst_batch_oom"] = True
        else:
            facts["worst_batch_mib"] = round(meter.peak_mib(), 1)
    meter.end()
    return facts


def is_out_of_memory(error: BaseException) -> bool:
    """torch.cuda.OutOfMemoryError is a RuntimeError, and has no class of its own before 1.13."""
    return "out of memory" in str(error).lower() or "OutOfMemory" in type(error).__name__


def build(
    template: list[dict[str, Any]], images: int, height: int, width: int, objects: int
) -> list[dict[str, Any]]:
    """A batch of `images` samples of that size with so many objects each, of the template's kind.

    template: a batch of the training; a sample of it that has objects gives their fields. Boxes
    are stretched to the new size. Raises ValueError where no sample has objects.
    """
    from detectron2.structures import BitMasks, Boxes, Instances

    source = next((s for s in template if len(s.get("instances", ())) > 0), None)
    if source is None:
        raise ValueError("the batch at hand has no objects to copy")
    found = source["instances"]
    old_height, old_width = found.image_size
    chosen = torch.arange(objects) % len(found)
    instances = Instances((height, width))
    for name, value in found.get_fields().items():
        if isinstance(value, Boxes):
            stretched = value[chosen].clone()
            stretched.scale(width / old_width, height / old_height)
            instances.set(name, stretched)
        elif isinstance(value, BitMasks):
            instances.set(name, BitMasks(torch.ones(objects, height, width, dtype=torch.bool)))
        else:
            instances.set(name, value[chosen])
    pixels = source["image"]
    image = torch.zeros((*pixels.shape[:-2], height, width), dtype=pixels.dtype)
    sample = dict(source, image=image, instances=instances, height=height, width=width)
    if "sem_seg" in source:
        sample["sem_seg"] = torch.zeros((height, width), dtype=source["sem_seg"].dtype)
    return [dict(sample) for _ in range(images)]


@contextlib.contextmanager
def most_foreground(model: Any) -> Iterator[None]:
    """Lay the proposals of each image upon its objects, so that the sampler finds all it may take.

    For ROI heads that sample proposals, as Detectron2's do; other models are left alone.
    """
    heads = getattr(model, "roi_heads", None)
    sample = getattr(heads, "label_and_sample_proposals", None)
    if heads is None or sample is None:
        yield
        return

    def sample_foreground(proposals: Any, targets: Any) -> Any:
        for found, target in zip(proposals, targets):
            if len(found) and len(target):
                chosen = torch.arange(len(found), device=found.proposal_boxes.device) % len(target)
                found.proposal_boxes = target.gt_boxes[chosen].clone()
        return sample(proposals, targets)

    own = vars(heads).get("label_and_sample_proposals")
    object.__setattr__(heads, "label_and_sample_proposals", sample_foreground)
    try:
        yield
    finally:
        object.__delattr__(heads, "label_and_sample_proposals")
        if own is not None:
            object.__setattr__(heads, "label_and_sample_proposals", own)


@contextlib.contextmanager
def unchanged(model: Any) -> Iterator[None]:
    """Buffers (BatchNorm's statistics), gradients and plain numbers of modules end as they began.

    Gradients wait on the processor: the training frees them before its own backward pass, so two
    sets at once would be no memory that it needs.
    """
    buffers = {name: value.detach().cpu().clone() for name, value in model.named_buffers()}
    gradients = [(p, p.grad.detach().cpu()) for p in model.parameters() if p.grad is not None]
    numbers = {module: _numbers(module) for module in model.modules()}
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter in model.parameters():
            parameter.grad = None
        for parameter, gradient in gradients:
            parameter.grad = gradient.to(parameter.device)
        with torch.no_grad():
            for name, value in model.named_buffers():
                value.copy_(buffers[name])
        for module, before in numbers.items():
            # As RetinaNet's loss normaliser: an average that a module keeps in an attribute.
            for name in _numbers(module).keys() - before.keys():
                delattr(module, name)
            for name, number in before.items():
                object.__setattr__(module, name, number)


def _numbers(module: Any) -> dict[str, float]:
    return {k: v for k, v in vars(module).items() if type(v) in (int, float)}


@contextlib.contextmanager
def apart_storage() -> Iterator[None]:
    """A storage of Detectron2 for what the model writes, thrown away afterwards."""
    from detectron2.utils.events import EventStorage, get_event_storage

    with EventStorage(get_event_storage().iter):
        yield


def largest_size(
    shapes: list[tuple[int, int, int]], short: int, longest: int, *, grouping: bool
) -> tuple[int, int]:
    """(height, width) that a batch can be padded to: the largest height and the largest width.

    shapes: (height, width, objects) of each image. short, longest: what ResizeShortestEdge aims
    at and stays below (INPUT.MIN_SIZE_TRAIN, its largest, and MAX_SIZE_TRAIN). grouping: wide
    images meet only wide ones, as with DATALOADER.ASPECT_RATIO_GROUPING.
    """
    groups: dict[bool, list[tuple[int, int]]] = {}
    for height, width, _ in shapes:
        scale = short / min(height, width)
        scale = min(scale, longest / max(height, width))
        resized = int(height * scale + 0.5), int(width * scale + 0.5)
        groups.setdefault(grouping and width > height, []).append(resized)
    sizes = [(max(h for h, _ in group), max(w for _, w in group)) for group in groups.values()]
    return max(sizes, key=lambda size: size[0] * size[1])
