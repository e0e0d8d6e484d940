"""What an R-CNN's losses look like where they are healthy and seem not to be."""

from __future__ import annotations

import math

import numpy as np

from d2check.checks._curve import Floats, LossCurve, block_means, median, noise_of, pooled
from d2check.model import Beginning

NEAR_START = 20  # iterations; the first row of medians of 20 has 19
AT_CHANCE = 0.8  # of it: what starts above has learned nothing yet
NEAR_CHANCE = 0.7  # of the price of chance; what learns is below within a hundred iterations
DIP_EFFECTIVE = 500.0  # six real dips were lowest before 20 effective iterations
FIRST_ROWS = 3  # raw rows in which a fresh head has hardly learned
CHANCE_OF_TWO = math.log(2)  # cross entropy of a coin: masks, proposals
FOCAL_CHANCE = 0.25 * 0.99**2 * math.log(100)  # focal loss of a positive anchor, prior 0.01


def begins_trained(
    curve: LossCurve, classes: int | None, beginning: Beginning | None = None
) -> str | None:
    """What says that training had been done before the first row, in words: a loss, or weights.

    The weights count where no head starts at the price of chance. One that does is new, or has
    learned nothing that would explain a level loss, whatever the checkpoint is called.
    """
    level = trained_level(curve, classes)
    if level:
        return f"the run begins at a trained level ({level}), as after a restart from its weights"
    if beginning is None or not beginning.trained or _starts_at_chance(curve, classes):
        return None
    return (
        f"the run begins with trained weights ({beginning.told}), and what has been learned "
        "need not fall"
    )


def trained_level(curve: LossCurve, classes: int | None) -> str | None:
    """Which head says that training had been done before the first row, in words.

    Below half of the price of chance, which no fresh predictor can reach. Only the very first
    rows can tell: within twenty iterations loss_cls falls to what calling everything background
    costs, so the first row of medians is held against half of ln 2, whatever the classes.
    """
    if curve.iterations[0] > NEAR_START:
        return None
    rows = slice(0, FIRST_ROWS if curve.raw else 1)
    for name, chance in known_chances(curve, classes if curve.raw else None).items():
        level = math.exp(median(curve.heads[name][rows]))
        if name != "loss_rpn_cls" and level < 0.5 * chance:
            return f"{name} starts at {level:.2g}, chance is {chance:.2g}"
    return None


def known_chances(curve: LossCurve, classes: int | None) -> dict[str, float]:
    """What a new predictor pays, for the heads of Detectron2's own detectors that have a price.

    ln 2 for masks, proposals and classes of an unknown number; the focal loss at its prior of 0.01
    for the classes of RetinaNet and FCOS. Without a box loss the names mean other losses.
    """
    chances = {"loss_fcos_cls": FOCAL_CHANCE}
    if "loss_box_reg" in curve.heads:
        of_classes = math.log(1 + classes) if classes else CHANCE_OF_TWO
        chances["loss_mask"] = chances["loss_rpn_cls"] = CHANCE_OF_TWO
        chances["loss_cls"] = of_classes if "loss_rpn_cls" in curve.heads else FOCAL_CHANCE
    return {name: chance for name, chance in chances.items() if name in curve.heads}


def _starts_at_chance(curve: LossCurve, classes: int | None) -> bool:
    rows = slice(0, FIRST_ROWS if curve.raw else 1)
    return any(
        math.exp(median(curve.heads[name][rows])) > AT_CHANCE * chance
        for name, chance in known_chances(curve, classes).items()
        if classes or chance == FOCAL_CHANCE or name != "loss_cls"
    )


def start_unseen(curve: LossCurve, classes: int | None) -> str | None:
    """Why a loss that is level may have fallen before the first row, in words.

    Rows begin late where a training was resumed, or is logged every hundred iterations. A head
    that is still near the price of chance there tells that nothing was missed. Where no chance is
    known, only a first row that is later than one logging period does.
    """
    first = int(curve.iterations[0])
    if first <= NEAR_START:
        return None
    if "loss_box_reg" not in curve.heads:
        resumed = first > 1.5 * curve.every
        return f"the rows begin at iteration {first} only" if resumed else None
    chances = {"loss_mask": CHANCE_OF_TWO, "loss_cls": math.log(1 + (classes or 1))}
    if "loss_rpn_cls" not in curve.heads:
        chances = {"loss_cls": FOCAL_CHANCE}
    levels = {
        name: math.exp(median(curve.heads[name][:FIRST_ROWS]))
        for name in chances
        if name in curve.heads
    }
    if not levels or any(level > NEAR_CHANCE * chances[name] for name, level in levels.items()):
        return None
    told = " and ".join(f"{name} is at {level:.2g}" for name, level in levels.items())
    return f"the rows begin at iteration {first} only, and {told} there: it may have fallen before"


def background_dip(curve: LossCurve) -> bool:
    """Whether an R-CNN called everything background for a while and now finds its foreground.

    Both ROI losses collapse early and come back while the proposals (and masks) do not, and the
    total stays below 1.5 times its start: healthy, seen in 4 of 233 real runs, and easily taken
    for a divergence. What rises in all heads alike is not this (see `beside_roi`), nor what rises
    from a level that was reached after DIP_EFFECTIVE effective iterations. Where the rows begin
    later than the training, classes must end below the price of a coin instead, and what came
    before the first row counts as effective.
    """
    rest = beside_roi(curve)
    if rest is None or len(curve) < 20:
        return False
    size = max(3, len(curve) // 20)
    box = block_means(curve.heads["loss_box_reg"], size)
    lowest = int(np.argmin(box[: max(1, int(0.6 * len(box)))]))
    first = int(curve.iterations[0])
    unseen = first if first > NEAR_START else 0
    if curve.effective[lowest * size] + unseen > DIP_EFFECTIVE:
        return False
    returned = float(np.mean(box[-2:]) - box[lowest])
    box_se = noise_of(curve.heads["loss_box_reg"]).mean_se(size)
    start, end = float(np.mean(curve.total[:size])), float(np.mean(curve.total[-2 * size :]))
    if returned < max(0.4, 4 * box_se):
        return False
    if unseen and np.mean(curve.heads["loss_cls"][-2 * size :]) > math.log(CHANCE_OF_TWO):
        return False
    if not unseen and end > start + 0.4:
        return False
    others, others_se = block_means(rest, size), noise_of(rest).mean_se(size)
    contrast = returned - float(np.mean(others[-2:]) - others[lowest])
    return contrast > max(0.4, 3 * math.hypot(box_se, others_se))


def beside_roi(curve: LossCurve) -> Floats | None:
    """float64[n]: the pool of an R-CNN's heads without its two ROI losses; None for others."""
    rest = {k: v for k, v in curve.heads.items() if k not in ("loss_box_reg", "loss_cls")}
    if not rest or len(rest) + 2 > len(curve.heads):
        return None
    return pooled(next(iter(rest.values())), rest)
