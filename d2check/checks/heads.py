"""What single losses do: stay at chance, at zero, or stall while the others learn."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import numpy as np

from d2check.checks._curve import (
    Floats,
    LossCurve,
    at_base_rate,
    block_means,
    for_trends,
    loss_curve,
    median,
    noise_of,
    slope_of,
)
from d2check.checks._rcnn import CHANCE_OF_TWO, FOCAL_CHANCE, begins_trained
from d2check.checks._words import counted
from d2check.model import Beginning, Measurement, Scalar, Series

FOCAL_UNCERTAINTY = 0.2
# Effective iterations: of seven sound RetinaNets two had left chance by 55, all by 85.
FOCAL_EFFECTIVE = 90.0
MOST_CLASSES = math.log(1204)  # chance over LVIS's 1,203 classes, where nobody told how many
FALL_SCALE = 30.0
WIDE_RANGE = 0.5  # in ln: a head whose eighths range this wide does not stand still
HALF_HANDICAP = 0.05  # in ln: by so much nearer to chance a half must be to stand for the whole


def stuck_head(
    losses: Mapping[str, Series],
    total: Series,
    lr: Series | None = None,
    base_lr: float | None = None,
    classes: int | None = None,
    meta_architecture: str | None = None,
    beginning: Beginning | None = None,
    *,
    min_effective: float = 40.0,
    min_rows: int = 20,
    near_chance: float = 0.2,
) -> Measurement:
    """How far the head that is nearest to chance is away from it, and moves; or which stands still.

    Chance is what a predictor with zero weights pays: ln 2 for masks and proposals,
    ln(classes + 1) for loss_cls, about 1.13 for a focal loss_cls at its prior of 0.01 (0.25 x
    0.99^2 x ln 100 for a positive anchor; the normaliser and the background make that uncertain by
    a fifth). value: |ln(level / chance)| + |fall| of that head, natural logarithms (0.02 = within
    2 % of chance and still), over the whole run or over its second half, where that is less: a
    head may learn and fall back. extras: head, chance, level (its median), fall, se (of the level,
    relative), others (fall of the other heads), effective (iterations that it is about), nearest,
    nearest_level, nearest_chance, and

    still: how much loss_cls or loss_mask of a fresh R-CNN can have moved at the base rate, at most
    (natural logarithm; the one that moved least; infinite where there is none), still_others (fall
    of its other heads). Further from chance than near_chance, head and the rest are about that one,
    and chance is None. unknown_fall: the least |fall|, natural logarithm, of an R-CNN's loss_cls
    while the number of classes, and so its chance, is not known; infinite when it is.
    """
    curve = loss_curve(total, losses, lr, base_lr)
    if isinstance(curve, str):
        return Measurement(None, undecided=curve)
    anchors = _anchors(curve, classes, meta_architecture)
    if len(curve) >= min_rows and not anchors:
        return Measurement(None, undecided="no loss with a known chance level")
    if len(curve) < min_rows or curve.effective[-1] < min_effective:
        return Measurement(
            None,
            undecided=f"only {counted(len(curve), 'row')} and "
            f"{curve.effective[-1]:.0f} effective iterations",
        )
    if curve.effective[-1] < FOCAL_EFFECTIVE:
        anchors = {name: anchor for name, anchor in anchors.items() if not anchor[1]}
    if not anchors:
        return Measurement(
            None,
            undecided=f"only {curve.effective[-1]:.0f} effective iterations; "
            "a focal loss stays near chance for longer",
        )
    curve = for_trends(curve)
    value, extras = _nearest_to_chance(curve, anchors, min_rows, min_effective)
    extras |= {
        "nearest": extras["head"],
        "nearest_level": extras["level"],
        "nearest_chance": extras["chance"],
        "still": math.inf,
        "still_others": 0.0,
    }
    trained = begins_trained(curve, classes, beginning)
    stillest = None if trained else _stillest(curve, min_rows)
    if stillest is not None:
        still, told = stillest
        extras |= {"still": still, "still_others": told["others"]}
        if still < value and value > near_chance:
            extras |= told
    unknown = [name for name in curve.heads if _is_of_classes(name) and name not in anchors]
    falls = [abs(_fall(curve, curve.heads[name])) for name in unknown]
    extras["unknown_fall"] = min(falls, default=math.inf)
    return Measurement(value, "share", curve.span, extras)


def _nearest_to_chance(
    curve: LossCurve,
    anchors: Mapping[str, tuple[float, float]],
    min_rows: int,
    min_effective: float,
) -> tuple[float, dict[str, Scalar]]:
    """The head nearest to chance, over the whole curve or its second half."""
    value, name = min((_from_chance(curve, n, *anchor), n) for n, anchor in anchors.items())
    told = _told(curve, name) | {"effective": float(curve.effective[-1])}
    middle = len(curve) // 2
    effective = float(curve.effective[-1] - curve.effective[middle])
    if len(curve) - middle >= min_rows and effective >= min_effective:
        nearer = value - HALF_HANDICAP
        later = curve.rows(slice(middle, None))
        found = [
            (_from_chance(later, n, *anchor), n)
            for n, anchor in anchors.items()
            # A chance known to a fifth only may be passed on the way down.
            if not anchor[1] and abs(median(later.heads[n]) - math.log(anchor[0])) < nearer
        ]
        if found and min(found)[0] < nearer:
            value, name = min(found)
            told = _told(later, name) | {"effective": effective}
    return value, {**told, "chance": anchors[name][0]}


def _stillest(curve: LossCurve, min_rows: int) -> tuple[float, dict[str, Scalar]] | None:
    """Of loss_cls and loss_mask the one that moved least at the base rate: (at most, extras).

    The larger of its fall (two standard errors up) and of the range of its eighths, so that a
    head that fell and came back does not count as still. None where that range is wide.
    """
    curve = at_base_rate(curve)
    names = [n for n in ("loss_cls", "loss_mask") if n in curve.heads]
    if "loss_rpn_cls" not in curve.heads or len(curve) < min_rows or not names:
        return None
    size = max(1, len(curve) // 8)
    ranges = {name: float(np.ptp(block_means(curve.heads[name], size))) for name in names}
    name = min(names, key=lambda n: ranges[n])
    if ranges[name] > WIDE_RANGE:
        return None
    x = np.log1p(curve.effective / FALL_SCALE)
    slope, se = slope_of(x, curve.heads[name], noise_of(curve.heads[name]))
    most = (abs(slope) + 2 * se) * float(x[-1] - x[0])
    told = _told(curve, name) | {"chance": None, "effective": float(curve.effective[-1])}
    return max(most, ranges[name]), told


def _is_of_classes(name: str) -> bool:
    return name == "loss_cls" or name.startswith("loss_cls_stage")


def _anchors(
    curve: LossCurve, classes: int | None, meta_architecture: str | None
) -> dict[str, tuple[float, float]]:
    """Name -> (chance level, its uncertainty in ln) of the heads that begin there when fresh."""
    two_stage = "loss_rpn_cls" in curve.heads
    anchors = {
        name: (CHANCE_OF_TWO, 0.0)
        for name in ("loss_mask", "loss_rpn_cls")
        if two_stage and name in curve.heads  # elsewhere loss_mask is another loss
    }
    if classes and two_stage:
        for name in curve.heads:
            if _is_of_classes(name):
                anchors[name] = math.log(classes + 1), 0.0
    if meta_architecture == "RetinaNet" and "loss_cls" in curve.heads and not two_stage:
        anchors["loss_cls"] = FOCAL_CHANCE, FOCAL_UNCERTAINTY
    return anchors


def _from_chance(curve: LossCurve, name: str, chance: float, uncertainty: float) -> float:
    """|ln(level / chance)|, less what the chance is uncertain by, + |fall| of a head."""
    values = curve.heads[name]
    distance = max(abs(median(values) - math.log(chance)) - uncertainty, 0.0)
    return distance + abs(_fall(curve, values))


def _told(curve: LossCurve, name: str) -> dict[str, Scalar]:
    """What messages say of a head: its level and fall, and the fall of the others."""
    values = curve.heads[name]
    others = [v for k, v in curve.heads.items() if k != name]
    elsewhere = _fall(curve, np.mean(others, axis=0)) if others else 0.0
    return {
        "head": name,
        "level": math.exp(median(values)),
        "fall": -math.expm1(-_fall(curve, values)),
        "se": noise_of(values).mean_se(len(values)),
        "others": -math.expm1(-elsewhere),
    }


def _fall(curve: LossCurve, values: Floats) -> float:
    """By how much a head has fallen, natural logarithm."""
    x = np.log1p(curve.effective / FALL_SCALE)
    return -slope_of(x, values, noise_of(values))[0] * float(x[-1] - x[0])


# The losses of Detectron2's own models, cascade stages included. Projects add losses that rest at
# zero by design: those of pseudo-labels before a teacher exists, of a consistency weighted 0.
OWN_LOSS = re.compile(
    r"loss_(?:cls|box_reg|mask|keypoint|sem_seg|mask_point|sem_seg_point|center|offset"
    r"|rpn_(?:cls|loc)|fcos_(?:cls|loc|ctr))(?:_stage\d)?"
)


def zero_head(
    losses: Mapping[str, Series] | None = None,
    total: Series | None = None,
    *,
    min_rows: int = 20,
    nothing: float = 1e-12,
) -> Measurement:
    """Share of the rows in which the deadest of Detectron2's own losses, or the total, is zero.

    Below `nothing` counts as zero: half the numbers of a broken loss are denormal. extras: head
    (its name), heads (all that are zero in more than half of their rows), rows. A median of 20
    iterations is zero as soon as most of them are.
    """
    named = {**(losses or {}), **({"total_loss": total} if total is not None else {})}
    own = {n: s for n, s in named.items() if n == "total_loss" or OWN_LOSS.fullmatch(n)}
    shares = {
        name: float(np.mean(np.abs(s.values) < nothing))
        for name, s in own.items()
        if len(s) >= min_rows
    }
    if not shares:
        return Measurement(None, undecided=f"fewer than {min_rows} rows")
    head = max(shares, key=lambda name: shares[name])
    dead = sorted(name for name, share in shares.items() if share > 0.5)
    series = named[head]
    extras: dict[str, Scalar] = {
        "head": head,
        "heads": ", ".join(dead) or None,
        "rows": len(series),
    }
    span = (int(series.iterations[0]), int(series.iterations[-1]))
    return Measurement(shares[head], "share", span, extras)


def roi_stall(
    losses: Mapping[str, Series],
    total: Series,
    lr: Series | None = None,
    base_lr: float | None = None,
    classes: int | None = None,
    beginning: Beginning | None = None,
    *,
    min_effective: float = 100.0,
    min_rows: int = 40,
) -> Measurement:
    """How much the two losses of the box head can have fallen over the second half at the base
    rate, at most.

    value: the larger upper 95 % bound of the falls of loss_cls and loss_box_reg (share). This,
    with proposals and masks that go on learning, is how a rate too high looks in an R-CNN; a
    loss that swings is not. extras: level (loss_cls at the end), rpn (fall of loss_rpn_cls since
    the start), mask (of loss_mask), rpn_level, effective, fresh ("no" where the run begins at a
    trained level or with trained weights: a restart is level as well, and sound).
    """
    curve = loss_curve(total, losses, lr, base_lr)
    if isinstance(curve, str):
        return Measurement(None, undecided=curve)
    names = [n for n in ("loss_cls", "loss_box_reg") if n in curve.heads]
    if len(names) < 2 or "loss_rpn_cls" not in curve.heads:
        why = "not the losses of a detector with one box head"
        return Measurement(None, undecided=why)
    curve = at_base_rate(curve)
    if len(curve) < min_rows or curve.effective[-1] < min_effective:
        return Measurement(
            None,
            undecided=f"only {counted(len(curve), 'row')} and "
            f"{curve.effective[-1]:.0f} effective iterations at the base rate",
        )
    curve = for_trends(curve)
    half = len(curve) // 2
    x = np.log1p(curve.effective / FALL_SCALE)
    bounds = [_upper_fall(x[half:], curve.heads[name][half:]) for name in names]
    tenth = max(3, len(curve) // 10)
    extras: dict[str, Scalar] = {
        "level": math.exp(median(curve.heads["loss_cls"][-tenth:])),
        "rpn": _total_fall(curve.heads["loss_rpn_cls"], tenth),
        "mask": _total_fall(curve.heads["loss_mask"], tenth)
        if "loss_mask" in curve.heads
        else None,
        "rpn_level": math.exp(median(curve.heads["loss_rpn_cls"][-tenth:])),
        "effective": float(curve.effective[-1]),
        "fresh": "no" if begins_trained(curve, classes, beginning) else "yes",
    }
    span = (int(curve.iterations[half]), int(curve.iterations[-1]))
    return Measurement(-math.expm1(-max(bounds)), "share", span, extras)


def _upper_fall(x: Floats, values: Floats) -> float:
    slope, se = slope_of(x, values, noise_of(values))
    return (-slope + 1.645 * se) * float(x[-1] - x[0])


def _total_fall(values: Floats, rows: int) -> float:
    return -math.expm1(median(values[-rows:]) - median(values[:rows]))


def first_level(
    losses: Mapping[str, Series],
    total: Series,
    classes: int | None = None,
    *,
    first_rows: int = 10,
    near_start: int = 25,
) -> Measurement:
    """How many times its chance level the highest classification loss of an R-CNN starts at.

    value: median of the first rows / chance (1.0 = a fresh predictor, below = trained weights,
    far above = wrong or exploding features). extras: head, chance, level, total (of the same
    rows), later (median of its last tenth / chance, where there are rows beyond the first ones).
    Only the rows of the first near_start iterations count as first.

    Undecided where the proposals' loss alone is above chance and does not stay there: features
    that explode raise every head, but proposals that were trained on other images are sure of
    themselves and wrong at first, which costs more than a coin.
    """
    if not len(total) or int(total.iterations[0]) > near_start:
        return Measurement(None, undecided="the first iterations were not recorded")
    chances: dict[str, float] = {}
    if "loss_rpn_cls" in losses:
        chances = {n: CHANCE_OF_TWO for n in ("loss_mask", "loss_rpn_cls") if n in losses}
        if classes and "loss_cls" in losses:
            chances["loss_cls"] = math.log(classes + 1)
    levels = {
        name: float(np.median(losses[name].between(0, near_start).values[:first_rows]))
        for name in chances
        if len(losses[name].between(0, near_start))
    }
    if not levels:
        return Measurement(None, undecided="no loss with a known chance level")
    head = max(levels, key=lambda name: levels[name] / chances[name])
    series = losses[head]
    rows = series.values[-max(3, len(series) // 10) :] if len(series) > 2 * first_rows else None
    later = None if rows is None else float(np.median(rows)) / chances[head]
    extras: dict[str, Scalar] = {
        "head": head,
        "chance": chances[head],
        "level": levels[head],
        "total": float(np.median(total.between(0, near_start).values[:first_rows])),
        "later": later,
    }
    span = (int(total.iterations[0]), near_start)
    undecided = None
    others = {**dict.fromkeys(losses.keys() & {"loss_cls"}, MOST_CLASSES), **chances}
    if head == "loss_rpn_cls" and levels[head] > 1.5 * chances[head] and (later or 0.0) <= 1.0:
        undecided = _proposals_alone(losses, others, levels[head], near_start)
    return Measurement(levels[head] / chances[head], "ratio", span, extras, undecided)


def _proposals_alone(
    losses: Mapping[str, Series], chances: Mapping[str, float], level: float, near_start: int
) -> str | None:
    """Why proposals that start above chance tell nothing: no other head of known chance does."""
    others = [name for name in chances if name != "loss_rpn_cls"]
    for name in others:
        first = losses[name].between(0, near_start).values
        if not len(first) or float(np.median(first)) > 1.5 * chances[name]:
            return None
    if not others:
        return None
    return (
        f"loss_rpn_cls alone starts above chance, at {level:.2g}: proposals that were trained on "
        "other images do, too, and come down by themselves"
    )
