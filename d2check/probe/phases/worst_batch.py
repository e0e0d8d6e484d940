"""Large batches that nobody has to wait for: made up, forward and backward, no step.

Memory depends on the padded size of a batch and on its objects, and the mask head on the number
of foreground proposals, which grows for hundreds of iterations. The first two are chosen, the third
is at its maximum, so that the peaks are upper bounds for batches of their size.
"""

from __future__ import annotations

import contextlib
import gc
from typing import Any, Callable, Iterator

import torch

from .loader import unchanged_randomness

_NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "bad_alloc",
    "_status_alloc_failed",
    "unable to find a valid cudnn algorithm",  # torch 1.x: none whose workspace there is room for
    "unable to find an engine to execute",  # the same since torch 2.0
)
PASSES = 2  # the second one has the gradients of the first in memory, as a training has


def measure(
    model: Any,
    trials: list[Trial],
    meter: Any,
    autocast: Callable[[], Any],
    zero_grad: Callable[[], None] | None = None,
) -> list[dict[str, Any]]:
    """One record for each trial: its size and its peaks, MiB, or `oom` where it did not fit.

    meter: as memory.CudaMeter. zero_grad: the optimizer's, which Detectron2 calls between the two
    passes, so that the gradients of one iteration lie in memory during the next one's forward.
    A batch that is as large in everything as one that did not fit is not tried. `model` without
    its DistributedDataParallel. Weights, buffers, gradients, random generators and Detectron2's
    storage are as before, whatever happens.
    """
    zero_grad = zero_grad or (lambda: _forget_gradients(model))
    told: list[dict[str, Any]] = []
    with unchanged(model), unchanged_randomness(), most_foreground(model), apart_storage():
        for trial in trials:
            record: dict[str, Any] = dict(trial.size)
            if any(before.get("oom") and _within(before, record) for before in told):
                record.update(oom=True, tried=False)
            else:
                _forget_gradients(model)
                meter.begin_trial()
                if _fits(model, trial.batch(), autocast, zero_grad):
                    record.update(meter.take_trial())
                else:  # the traceback is gone by now, and the tensors that its frames held
                    record["oom"] = True
                    _forget_failed_pass(model)
                _forget_gradients(model)
                # Workspaces that the first use of a size has left behind belong to no batch.
                record["held_mib"] = meter.end_trial()
            told.append(record)
    return told


class Trial:
    """A batch to try: `size` tells of it (images, objects, ...), `batch()` makes it."""

    def __init__(self, size: dict[str, int], batch: Callable[[], list[dict[str, Any]]]) -> None:
        """The batch is made when its turn comes."""
        self.size = size
        self.batch = batch


def _within(smaller: dict[str, Any], larger: dict[str, Any]) -> bool:
    return all(
        smaller[name] <= larger[name]
        for name in ("images", "padded_pixels", "instances", "most_instances")
    )


def _fits(
    model: Any,
    batch: list[dict[str, Any]],
    autocast: Callable[[], Any],
    zero_grad: Callable[[], None],
) -> bool:
    try:
        for _ in range(PASSES):
            with autocast():
                loss = sum(model(batch).values())
            zero_grad()
            loss.backward()
            del loss
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def _forget_failed_pass(model: Any) -> None:
    """Free what a pass that broke off has left: the next trial would find less room.

    The autograd engine keeps the steps that a failed backward pass had still to do, with their
    tensors, until another one begins (74 of 130 MiB on the CPU).
    """
    gc.collect()
    one = torch.zeros(1, device=next(model.parameters()).device, requires_grad=True)
    (one * 2).sum().backward()


def _forget_gradients(model: Any) -> None:
    for parameter in model.parameters():
        parameter.grad = None


def is_out_of_memory(error: BaseException) -> bool:
    """torch.cuda.OutOfMemoryError is a RuntimeError, and has no class of its own before 1.13.

    Without a GPU it is torch's DefaultCPUAllocator that finds no memory, or Python itself. At the
    edge of a GPU's memory cuBLAS and cuDNN fail first, which take theirs from the driver.
    """
    if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__:
        return True
    words = str(error).lower()
    return any(sign in words for sign in _NO_MEMORY)


def build(
    template: list[dict[str, Any]], objects: list[int], height: int, width: int
) -> list[dict[str, Any]]:
    """A batch of samples of that size with so many objects each, of the template's kind.

    template: a batch of the training; a sample of it that has objects gives their fields. Boxes
    are stretched to the new size, and all keypoints are visible within them: a keypoint head takes
    no region without. Raises ValueError where no sample has objects.
    """
    from detectron2.structures import BitMasks, Boxes, Instances, Keypoints

    source = next((s for s in template if len(s.get("instances", ())) > 0), None)
    if source is None:
        raise ValueError("the batch at hand has no objects to copy")
    found = source["instances"]
    old_height, old_width = found.image_size

    def copied(count: int) -> Any:
        chosen = torch.arange(count) % len(found)
        instances = Instances((height, width))
        for name, value in found.get_fields().items():
            if isinstance(value, Boxes):
                stretched = value[chosen].clone()
                stretched.scale(width / old_width, height / old_height)
                instances.set(name, stretched)
            elif isinstance(value, BitMasks):
                instances.set(name, BitMasks(torch.ones(count, height, width, dtype=torch.bool)))
            else:
                instances.set(name, value[chosen])
        keypoints = instances.get_fields().get("gt_keypoints")
        if isinstance(keypoints, Keypoints) and instances.has("gt_boxes"):
            visible = torch.full_like(keypoints.tensor, 2.0)
            visible[:, :, :2] = instances.gt_boxes.get_centers()[:, None]
            instances.gt_keypoints = Keypoints(visible)
        return instances

    pixels = source["image"]
    image = torch.zeros((*pixels.shape[:-2], height, width), dtype=pixels.dtype)
    sample = dict(source, image=image, height=height, width=width)
    if "sem_seg" in source:
        sample["sem_seg"] = torch.zeros((height, width), dtype=source["sem_seg"].dtype)
    of_count = {count: copied(count) for count in set(objects)}
    return [dict(sample, instances=of_count[count]) for count in objects]


@contextlib.contextmanager
def most_foreground(model: Any) -> Iterator[None]:
    """Lay proposals of each image upon its objects, so that the sampler finds all it may take.

    Only so many, and the others far from any object: the box head gets the background too, and
    together the most regions that it may. For ROI heads that sample proposals, as Detectron2's do;
    other models are left alone.
    """
    heads = getattr(model, "roi_heads", None)
    sample = getattr(heads, "label_and_sample_proposals", None)
    if heads is None or sample is None:
        yield
        return
    regions = getattr(heads, "batch_size_per_image", None)
    kept = getattr(getattr(model, "proposal_generator", None), "post_nms_topk", None) or {}

    def sample_foreground(proposals: Any, targets: Any) -> Any:
        placed = []
        for found, target in zip(proposals, targets):
            if len(found) and len(target):
                # A model that has just begun may propose less than it will.
                most = max(len(found), min(regions or 0, kept.get(True, 0)))
                found = found[torch.arange(most, device=found.proposal_boxes.device) % len(found)]
                foreground = most
                if regions is not None:
                    foreground = int(regions * getattr(heads, "positive_fraction", 1.0))
                found.proposal_boxes = _placed(target.gt_boxes, most, foreground)
            placed.append(found)
        return sample(placed, targets)

    own = vars(heads).get("label_and_sample_proposals")
    object.__setattr__(heads, "label_and_sample_proposals", sample_foreground)
    try:
        yield
    finally:
        object.__delattr__(heads, "label_and_sample_proposals")
        if own is not None:
            object.__setattr__(heads, "label_and_sample_proposals", own)


def _placed(objects: Any, count: int, foreground: int) -> Any:
    """So many boxes: the first ones as the objects', the others a pixel in the corner."""
    at = torch.arange(count, device=objects.device)
    boxes = objects[at % len(objects)].clone()
    apart = torch.zeros_like(boxes.tensor[:1])
    if apart.shape[1] == 5:  # rotated ones: centre, sides, angle
        apart[:, :4] = torch.tensor([0.5, 0.5, 1.0, 1.0])
    else:
        apart[:, 2:] = 1.0
    boxes.tensor[at >= foreground] = apart
    return boxes


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
