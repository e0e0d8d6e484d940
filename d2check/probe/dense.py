"""What a dense detector's head makes of its anchors: found, and named rightly.

Detectron2 records no accuracy for RetinaNet and FCOS. Their `losses` is given the scores of all
anchors and the labels that these should have.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from typing import Any, Callable

import torch

EVERY = 10  # iterations: a look takes some 0.2 ms of the processor, and waits for the GPU
EVERY_IN_RAMP = 1  # a ramp is short, nothing of it is timed, and it must tell what is forgotten
SAMPLED = 128  # background anchors of each image that are looked at, about
FOUND = 0.95  # share of the background whose scores an object's must exceed to be found
GIVEN = ("pred_logits", "gt_labels")  # parameters of `losses`
PREFIX = "dense/"
NAMES = ("fg_anchors", "fg_cls_accuracy", "fg_found", "fg_recognised")


class DenseHead:
    """Looks at the head of one model in some iterations, once in each."""

    def __init__(self, due: Callable[[], bool], failed: Callable[[Exception], None]) -> None:
        """due: whether this iteration is looked at. failed: told of an error, the last look."""
        self._due = due
        self._failed = failed
        self._seen: tuple[int, Any] | None = None
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
            if self is model and look.wanted():
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

    def take(self) -> tuple[int, Any] | None:
        """What was seen since the last call, for `told`, or None."""
        seen, self._seen = self._seen, None
        return seen


def told(seen: tuple[int, Any]) -> dict[str, float]:
    """The scalars of what was seen, by name. Reading them waits for the GPU."""
    anchors, rest = seen
    return {PREFIX + name: value for name, value in zip(NAMES, (anchors, *rest.tolist()))}


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
def measure(pred_logits: Any, gt_labels: Any) -> tuple[int, Any] | None:
    """(object anchors, a tensor of the other NAMES), or None where there is nothing to see.

    pred_logits: scores by level, each [N, anchors of the level, K]. gt_labels: of N images, each
    [anchors of all levels]; 0 to K-1 for an object's class, K for background, -1 to be ignored.
    None for what is not so, and where no anchor is an object's.

    fg_anchors: how many are an object's. fg_cls_accuracy: of them, those whose highest score is
    their class's. fg_found: those whose highest score exceeds that of 95 % of the background
    anchors. fg_recognised: those of which both is true, as an R-CNN's fg_cls_accuracy says.
    """
    if not _as_expected(pred_logits, gt_labels):
        return None
    labels = torch.stack(tuple(gt_labels), 1)  # [anchors, N]
    classes = pred_logits[0].shape[2]
    objects = ((labels >= 0) & (labels < classes)).nonzero()  # [F, 2], ordered by anchor
    if not len(objects):
        return None
    background = _background(pred_logits, labels)
    if not len(background):
        return None
    highest, choice = _scores(pred_logits, objects).max(1)
    right = choice == labels[objects[:, 0], objects[:, 1]]
    level = background.topk(1 + int((1 - FOUND) * len(background))).values[-1]
    found = highest > level
    # torch 1.10 takes no mean of booleans, whatever the type of the result.
    return len(objects), torch.stack((right, found, right & found)).float().mean(1)


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


def _scores(levels: Any, places: Any) -> Any:
    """Scores [F, K] at F places (anchor, image), ordered by anchor.

    Level by level: to join all scores first would take as much memory again.
    """
    ends = list(itertools.accumulate(level.shape[1] for level in levels))
    anchors = places[:, 0].contiguous()
    cuts = torch.searchsorted(anchors, torch.tensor(ends, device=anchors.device)).tolist()
    rows, first, start = [], 0, 0
    for level, end, cut in zip(levels, ends, cuts):
        if cut > first:
            rows.append(level[places[first:cut, 1], anchors[first:cut] - start])
        first, start = cut, end
    return torch.cat(rows).float()


def _background(levels: Any, labels: Any) -> Any:
    """The highest score of every n-th anchor, where that is background's.

    No random numbers: the training's own shall not change. n has no factor of 2 or 3, so that
    anchors of all sizes and shapes at a place take their turn.
    """
    step = 6 * (len(labels) // (6 * SAMPLED)) + 1
    parts, start = [], 0
    for level in levels:
        parts.append(level[:, -start % step :: step])
        start += level.shape[1]
    is_background = labels[::step].t() == levels[0].shape[2]
    return torch.cat(parts, 1).amax(2)[is_background].float()
