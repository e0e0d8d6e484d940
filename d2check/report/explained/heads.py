"""What losses mean of which only the number itself can be said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from d2check.explain import LossKind


class Head(NamedTuple):
    """means, normal and watch of a field; here is the value."""

    means: str
    normal: str = ""
    watch: str = ""


HEADS: Mapping[LossKind, Head] = {
    "proposal-class": Head(
        "Which class is in each proposal of this stage: cross-entropy, over all classes at once or "
        "for each class by itself, as the project chose; so its chance level is not known.",
        "It falls fast once the head answers `background`, then slowly, as classes are learned.",
        "Near 0 within some tens of iterations there is no foreground: check category ids.",
    ),
    "focal": Head(
        "Which class is at each anchor or point: focal loss, divided by the number of those on "
        "objects. Read so because no loss of proposals stands beside it, as in RetinaNet and FCOS.",
        "It starts near 1 (the head is initialised to answer `background`), has no simple chance "
        "level, and falls within some hundred iterations.",
        "It is divided by a count of foreground: few objects make it jump. Exactly 0: no object "
        "was matched.",
    ),
    "anchor-box": Head(
        "How far the boxes of the anchors on objects are off, divided by their number.",
        "Below 1 from the start, and falling slowly all along.",
        "Exactly 0 for many iterations: no anchor matches an object.",
    ),
    "overlap": Head(
        "How little predicted boxes overlap the objects, at points inside them: 1 - IoU or the "
        "like, or its logarithm.",
        "As 1 - IoU it starts near 1 or below and falls to 0.2 to 0.4.",
        "Flat for thousands of iterations while the class loss falls: boxes in the wrong format.",
    ),
    "centerness": Head(
        "How near each point is to the centre of its object: binary cross-entropy against a target "
        "between 0 and 1.",
        "About 0.69 (ln 2) at the start and about 0.6 for ever after: the target is no yes or no, "
        "and its own entropy is the floor. That it hardly falls is no fault.",
    ),
    "semantic": Head(
        "Which class each pixel is of: cross-entropy, times the head's weight. Knowing nothing "
        "costs ln(classes), times that weight.",
        "It falls steeply first, as large areas are learned, and slowly for small things.",
        "Stuck at its first level: labels shifted by one, or the ignored value counted as a class.",
    ),
    "triplet": Head(
        "By how much images of one identity are not nearer to each other than to others, up to a "
        "margin.",
        "It falls towards 0 when most triplets are told apart; with a soft margin ln 2 = 0.693 is "
        "the level of telling nothing.",
        "Stuck at the margin or at 0.693: all features have become the same, the rate is too high.",
    ),
    "query-class": Head(
        "Which class each query found, or that it found nothing: cross-entropy or focal loss, "
        "times its weight.",
        "It falls first for `nothing`, then for tens of thousands of iterations, as queries "
        "specialise.",
        "Queries are matched anew in each iteration, so that it is noisy; its absolute level "
        "depends on the weight.",
    ),
    "query-box": Head(
        "How far the boxes of matched queries are off: L1 of their relative coordinates, times its "
        "weight (5 by default).",
        "It falls slowly and for long.",
    ),
    "query-overlap": Head(
        "How little the boxes of matched queries overlap their objects: 1 - GIoU, times its weight "
        "(2 by default).",
        "Unweighted it starts above 1 and falls to 0.2 to 0.5.",
    ),
    "query-mask": Head(
        "Each pixel or point of the masks of matched queries, object or not: cross-entropy or "
        "focal loss, times its weight.",
        "It falls slowly; its level depends on the weight and on how points are drawn.",
    ),
    "dice": Head(
        "How little masks of matched queries overlap their objects: 1 - Dice, times its weight.",
        "Unweighted it is between 0 and 1, and falls slowly.",
    ),
    "other": Head("A part of the loss that this model defines."),
}
