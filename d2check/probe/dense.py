"""What a dense detector's head makes of its anchors: found, and named rightly.

Detectron2 records no accuracy for RetinaNet and FCOS. Their `losses` is given the scores of all
anchors and the labels that these should have.
"""

from __future__ import annotations

import functools
import inspect
import math
from typing import Any, Callable

import torch

EVERY = 10  # iterations: a look reads every score once more
EVERY_IN_RAMP = 1  # a ramp is short, nothing of it is timed, and it must tell what is forgotten
SAMPLED = 128  # background anchors of each image that are looked at, about
ONE_ABOVE = 20  # an object is found whose score at most one in so many of the background exceeds
GIVEN = ("pred_logits", "gt_labels")  # parameters of `losses`
PREFIX = "dense/"
NAMES = ("fg_anchors", "fg_cls_accuracy", "fg_found", "fg_recognised")


_is_compiling = getattr(getattr(torch, "compiler", None), "is_compiling", lambda: False)


class DenseHead:
    """Looks at the head of one model in some iterations, once in each."""

    def __init__(self, due: Callable[[], bool], failed: Callable[[Exception], None]) -> None:
        """due: whether this iteration is looked at. failed: told of an error, the last look."""
        self._due = due
        self._failed = failed
        self._seen: Any = None
        self._broken = False

    def attach(self, model: Any) -> Callable[[], None] | None:
        """Look at the `losses` of a model; None where it has none of that kind.

        The class's method is wrapped, not the object's: a model that is copied or saved while it
        trains takes nothing of the probe along.
        """
        model = getattr(model, "module", model)  # DistributedDataParallel
        owner = owner_of_losses(type(model))
        if owner is None or getattr(model, "_compiled_call_impl", None) is not None:
            return None
        original = vars(owner)["losses"]
        names = list(inspect.signature(original).parameters)
        places = [(name, names.index(name) - 1) for name in GIVEN]  # without `self`
        look = self

        @functools.wraps(original)
        def losses(self: Any, *args: Any, **kwargs: Any) -> Any:
            # In a graph that is being compiled, the iteration would be a constant.
            if not _is_compiling() and self is model and look.wanted():
                look.take_in(*(kwargs[n] if n in kwargs else args[at] for n, at in places))
            return original(self, *args, **kwargs)

        owner.losses = losses

        def undo() -> None:
            if vars(owner).get("losses") is losses:
                owner.losses = original

        return undo

    def wanted(self) -> bool:
        """Whether to look now: not twice in an iteration (gradients may be accumulated)."""
        return self._seen is None and not self._broken and self._due()

    def take_in(self, pred_logits: Any, gt_labels: Any) -> None:
        """Measure what `losses` is called with."""
        try:
            self._seen = measure(pred_logits, gt_labels)
        except Exception as error:  # noqa: BLE001  a user's own head; its training shall go on
            self._broken = True
            self._failed(error)

    def take(self) -> Any:
        """What was seen since the last call, for `told`, or None."""
        seen, self._seen = self._seen, None
        return seen


def told(seen: Any) -> dict[str, float]:
    """The scalars of what was seen, by name; none without objects. Reading waits for the GPU.

    fg_anchors: how many anchors are an object's. Of them, fg_cls_accuracy: those whose highest
    score is their class's. fg_found: those whose highest score exceeds that of 95 % of the
    background anchors. fg_recognised: those of which both is true, as an R-CNN's fg_cls_accuracy
    says.
    """
    anchors, *rest, background = seen.tolist()
    if not anchors or not background:
        return {}
    return {PREFIX + n: v for n, v in zip(NAMES, (anchors, *(one / anchors for one in rest)))}


def owner_of_losses(cls: type) -> Any:
    """The class whose `losses` is called with `pred_logits` and `gt_labels`, or None.

    A subclass may have another signature and hand on what it gets to its parent's.
    """
    for owner in cls.__mro__:
        method = vars(owner).get("losses")
        if inspect.isfunction(method):
            if set(GIVEN) <= set(inspect.signature(method).parameters):
                return owner
    return None


@torch.no_grad()
def measure(pred_logits: Any, gt_labels: Any) -> Any:
    """Counts for `told`, a tensor[5], or None for what is not as RetinaNet and FCOS have it.

    pred_logits: scores by level, each [N, anchors of the level, K]. gt_labels: of N images, each
    [anchors of all levels]; 0 to K-1 for an object's class, K for background, -1 to be ignored.

    Of anchors that are an object's: how many there are, whose highest score is their class's, whose
    highest score exceeds that of 95 % of the background anchors, and of which both is true; then
    the background anchors that were looked at. No size of any tensor depends on what is in others,
    or the processor would have to wait for the GPU to tell it.
    """
    if not _as_expected(pred_logits, gt_labels):
        return None
    labels_na = torch.stack(tuple(gt_labels))
    classes = pred_logits[0].shape[2]
    best = [level.detach().max(2) for level in pred_logits]
    highest_na = torch.cat([one.values for one in best], 1)
    choice_na = torch.cat([one.indices for one in best], 1)
    is_object = (labels_na >= 0) & (labels_na < classes)
    level, seen = _level(highest_na, labels_na == classes)
    right = is_object & (choice_na == labels_na)
    found = is_object & (highest_na > level)
    return torch.stack([*(each.sum() for each in (is_object, right, found, right & found)), seen])


def _as_expected(pred_logits: Any, gt_labels: Any) -> bool:
    """Whether these are scores by level and labels by image, as RetinaNet and FCOS have them."""
    for tensors, dimensions in ((pred_logits, 3), (gt_labels, 1)):
        if not isinstance(tensors, (list, tuple)) or not tensors:
            return False
        if not all(isinstance(t, torch.Tensor) and t.dim() == dimensions for t in tensors):
            return False
    anchors, images, classes = 0, len(gt_labels), pred_logits[0].shape[2]
    for level in pred_logits:
        anchors += level.shape[1]
        if not classes or level.shape[0] != images or level.shape[2] != classes:
            return False
    return all(t.shape[0] == anchors and t.dtype is torch.int64 for t in gt_labels)


def _level(highest_na: Any, is_background: Any) -> tuple[Any, Any]:
    """The score that 95 % of the background anchors stay below, [1], and how many were looked at.

    By every n-th anchor, without random numbers: the training's own shall not change. n has no
    factor of 2 or 3, so that anchors of all sizes and shapes at a place take their turn.
    """
    step = 6 * (highest_na.shape[1] // (6 * SAMPLED)) + 1
    is_seen = is_background[:, ::step].flatten()
    scores = highest_na[:, ::step].flatten().masked_fill(~is_seen, -math.inf)
    ordered = scores.sort(descending=True).values
    seen = is_seen.sum()
    above = torch.div(seen, ONE_ABOVE, rounding_mode="floor").reshape(1)
    return ordered.gather(0, above.clamp(max=len(ordered) - 1)), seen
