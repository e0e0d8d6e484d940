"""The words for the losses of Detectron2's heads."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from d2check.explain import Explanation, Layers, Loss, Total
from d2check.report.explained.field import ExplainedField
from d2check.report.explained.heads import HEADS

_ADDS_UP = 0.05
_FALLEN = 0.05
_LATER_STAGE = re.compile(r"(?P<head>\w+)_stage(?P<stage>[1-9]\d*)")


def total_words(total: Total, explanation: Explanation) -> ExplainedField:
    """The sum, and whether its parts make it."""
    here = f"{total.value:.4g}"
    if total.parts_sum is not None and total.parts > 1:
        here = f"the {total.parts} printed parts add up to {total.parts_sum:.4g}"
        if abs(total.parts_sum - total.value) <= _ADDS_UP * abs(total.value):
            here += ", as they should but for the medians"
        else:
            here += (
                "; the model has parts that are not printed, or its loss jumps from step to step"
            )
    here += _since(total.first, total.value, explanation)
    return ExplainedField(
        "total_loss",
        f"{total.value:.4g}",
        "The sum of all losses of the model. Each printed loss is the median of the last 20 "
        "iterations, so that the parts need not add up exactly.",
        here,
        "It falls steeply at first and slowly later; its absolute level says little, the shape of "
        "its curve much.",
        "One bad iteration cannot be seen in medians of 20, and a NaN never: Detectron2 stops "
        "before it prints one.",
    )


def _since(first: float | None, value: float, explanation: Explanation) -> str:
    if first is None:
        return ""
    then = f"{first:.4g} at iteration {explanation.first_iteration}"
    if value == first:
        return f"; it is what it was at iteration {explanation.first_iteration}"
    if abs(value - first) <= _FALLEN * abs(first):
        return f"; hardly changed from {then}"
    change = "fell" if value < first else "rose"
    return f"; it {change} from {then} to {value:.4g}"


def loss_words(loss: Loss, explanation: Explanation) -> ExplainedField:
    """One part of the loss, by what its head learns."""
    worders: dict[str, Callable[[Loss, Explanation], tuple[str, str, str, str]]] = {
        "classifier": _classifier,
        "identity": _identity,
        "box": _box,
        "mask": _mask,
        "points": _points,
        "objectness": _objectness,
        "proposal-box": _proposal_box,
        "keypoint": _keypoint,
    }
    if loss.kind in HEADS:
        means, normal, watch = HEADS[loss.kind]
        here = "exactly 0" if loss.value == 0 else f"{loss.value:.4g}"
    else:
        means, here, normal, watch = worders[loss.kind](loss, explanation)
    stage = _LATER_STAGE.fullmatch(loss.name)
    if stage:
        means = (
            f"The same as {stage['head']}_stage0 in stage {stage['stage']} of the cascade, which "
            "wants boxes that overlap more."
        )
        normal, watch = "Lower than in the stage before it.", ""
    here += _since(loss.first, loss.value, explanation)
    return ExplainedField(loss.name, f"{loss.value:.4g}", means, here, normal, watch)


def layers_words(layers: Layers) -> ExplainedField:
    """The losses of a decoder's earlier layers, as one field."""
    first, last = layers.values[0], layers.values[-1]
    here = f"{first:.4g} after the first of these {len(layers.values)} layers, "
    here += f"{last:.4g} after the last"
    return ExplainedField(
        f"{layers.names[0]} to {layers.names[-1].rpartition('_')[2]}",
        f"{min(layers.values):.4g} to {max(layers.values):.4g}",
        f"The same as {layers.base} after each earlier layer of the decoder. All are added to the "
        "total, which is therefore large.",
        here,
        "Later layers cost less: each improves on the one before.",
        "The last layer is what the model answers with; its losses tell how good it is.",
    )


def _identity(loss: Loss, explanation: Explanation) -> tuple[str, str, str, str]:
    means = (
        "Which identity each image shows: cross-entropy over the identities of the training set, "
        "read so because a triplet loss stands beside it. Knowing nothing costs ln(identities)."
    )
    if loss.chance is not None:
        place = "at" if loss.at_chance else "above" if loss.value > loss.chance else "below"
        here = f"chance for this number of identities is {loss.chance:.3f}: it is {place} it"
    elif loss.classes_if_chance is not None and loss.at_chance is None:
        here = (
            f"ln({loss.classes_if_chance}) = {math.log(loss.classes_if_chance):.3f}: with about "
            f"{loss.classes_if_chance} identities this is pure chance and nothing is learned yet"
            f"{_when(explanation)}; with more it is below chance (--classes N tells which)"
        )
    else:
        here = f"{loss.value:.4g}"
    watch = "A margin (ArcFace, CosFace, Circle) multiplies it, then it may start far above chance."
    return means, here, "It falls for many epochs, and with label smoothing not to 0.", watch


def _points(loss: Loss, explanation: Explanation) -> tuple[str, str, str, str]:
    here = f"ln 2 = 0.693 is chance: it is {'at' if loss.at_chance else 'below'} it"
    if loss.chance is not None and not loss.at_chance and loss.value > loss.chance:
        here = f"{loss.value:.4g}, above ln 2 = 0.693 (or ln(classes) for pixels of several)"
    return (
        "What is at each of some points where the coarse mask is least certain (PointRend).",
        here,
        "Those are the hardest points, so that it stays higher than the loss of the whole mask.",
        "",
    )


def _classifier(loss: Loss, explanation: Explanation) -> tuple[str, str, str, str]:
    means = (
        "Which class is in each proposal: cross-entropy over the classes and the background. "
        "Knowing nothing costs ln(classes + 1)."
    )
    normal = (
        "Most proposals are background, so that it falls fast once the head answers `background`; "
        "then slowly, as classes are learned."
    )
    watch = "Near 0 within some tens of iterations there is no foreground: check category ids."
    if loss.chance is not None:
        level = f"chance for this number of classes is {loss.chance:.3f}"
        if loss.at_chance:
            here = f"{level}: nothing is learned yet{_when(explanation)}"
        elif loss.value > loss.chance:
            here = f"{level}: it is above, worse than knowing nothing"
            watch = "That far above chance weights do not fit, or features explode: lower the rate."
        else:
            here = f"{level}: it is below, the head has learned something"
    elif loss.classes_if_chance is not None and loss.at_chance is None:
        count = loss.classes_if_chance
        several = f"about {count} classes" if count > 1 else "a single class"
        here = (
            f"ln({count + 1}) = {math.log(count + 1):.3f}: with {several} this is "
            f"pure chance and nothing is learned yet{_when(explanation)}; with more classes it is "
            "below chance already (--classes N tells which)"
        )
    elif loss.classes_if_chance is not None:
        count = loss.classes_if_chance
        of = "a single class" if count == 1 else f"{count} classes or fewer"
        here = f"at chance only for a model of {of}; for more it has learned"
    else:
        here = "below ln 2, the chance level of a single class: the head has learned something"
    return means, here, normal, watch


def _when(explanation: Explanation) -> str:
    if explanation.early is None:
        return ", which is normal in the first hundreds of iterations and late after them"
    if explanation.early:
        return ", which is normal at this point"
    return ", which is late for that: see the rate, the labels and what is frozen"


def _box(loss: Loss, explanation: Explanation) -> tuple[str, str, str, str]:
    here = f"{loss.value:.4g}"
    if loss.value == 0:
        here = "exactly 0: no proposal is matched to an object"
    return (
        "How far the boxes of foreground proposals are off.",
        here,
        "It rises at first, as more foreground is found, and falls later: an early rise is no "
        "fault.",
        "Exactly 0 for many iterations: the labels hold no foreground (ids equal to the "
        "background).",
    )


def _mask(loss: Loss, explanation: Explanation) -> tuple[str, str, str, str]:
    here = f"ln 2 = 0.693 is chance: it is {'at' if loss.at_chance else 'below'} it"
    if loss.at_chance:
        here += f", nothing is learned yet{_when(explanation)}"
    elif loss.chance is not None and loss.value > loss.chance:
        here = "above ln 2 = 0.693, worse than chance: masks are predicted wrongly with confidence"
    return (
        "Each pixel of the mask of each foreground proposal: object or not.",
        here,
        "0.693 at the start; 0.1 to 0.4 in the end, by how simple the shapes are.",
        "Exactly 0: there is no foreground. Stuck at 0.693 while the others fall: the rate is too "
        "high or the masks are wrong.",
    )


def _objectness(loss: Loss, explanation: Explanation) -> tuple[str, str, str, str]:
    if loss.at_chance:
        here = f"at ln 2 = 0.693, chance: nothing is learned yet{_when(explanation)}"
    elif loss.chance is not None and loss.value > loss.chance:
        here = "above ln 2 = 0.693, worse than chance"
    else:
        here = "far below ln 2 = 0.693" if loss.value < 0.35 else "below ln 2 = 0.693"
        if explanation.early:
            here += " this early: pretrained proposal weights, or an easy task"
        else:
            here += ": it tells objects from background"
    return (
        "Whether there is an object at each anchor, yes or no. Chance is ln 2.",
        here,
        "It is the first loss to fall: below 0.2 within some hundred iterations.",
        "Back at 0.693 after it was lower: the proposal network has collapsed, the rate is too "
        "high.",
    )


def _proposal_box(loss: Loss, explanation: Explanation) -> tuple[str, str, str, str]:
    return (
        "How far the proposals are off, summed over foreground anchors and divided by all sampled "
        "ones.",
        f"{loss.value:.4g}",
        "Small (0.001 to 0.2) and noisy; many or small objects make it larger.",
        "A rise over many rows while the rate climbs is the first sign of a rate too high.",
    )


def _keypoint(loss: Loss, explanation: Explanation) -> tuple[str, str, str, str]:
    here = f"chance is ln(56 x 56) = {loss.chance:.2f}" if loss.chance is not None else ""
    here += f": at it{_when(explanation)}" if loss.at_chance else f": it is at {loss.value:.4g}"
    return (
        "In which cell of a 56 x 56 heat map each keypoint lies.",
        here,
        "It falls to 2 or 3 over thousands of iterations.",
        "",
    )
