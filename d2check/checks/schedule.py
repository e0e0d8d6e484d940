"""What the learning rate does: as it was asked to, in proportion to the batch, long enough."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from d2check.model import Measurement, Scalar, Series

Floats = NDArray[np.float64]

REFERENCE_IMAGES = 16  # all of Detectron2's model zoo schedules are made for 16 images per batch
REFERENCE_LR = {"RetinaNet": 0.01, "FCOS": 0.01}  # zoo configs; R-CNN models use the other
REFERENCE_LR_RCNN = 0.02


def lr_mismatch(
    lr: Series, planned_lr: Series, *, tolerance: float = 0.02, min_rows: int = 3
) -> Measurement:
    """Share of the rows whose rate is not the one that the config asks for.

    lr, planned_lr: the recorded rate and the schedule's at the same iterations. A row is off by
    more than `tolerance` of the planned rate. extras: rows_off, first_off (iteration), recorded,
    planned (rates at the row that is furthest off), factor (recorded / planned there), typical
    (median factor of the rows that are off), from_start ("yes" where the first row is off),
    in_a_row (longest stretch of rows that are off).
    """
    common, at_lr, at_plan = np.intersect1d(
        lr.iterations, planned_lr.iterations, assume_unique=True, return_indices=True
    )
    recorded, planned = lr.values[at_lr], planned_lr.values[at_plan]
    known = np.isfinite(recorded) & np.isfinite(planned)
    common, recorded, planned = common[known], recorded[known], planned[known]
    if len(common) < min_rows:
        return Measurement(None, undecided=f"only {len(common)} rows with a rate")
    floor = 1e-4 * float(np.abs(planned).max())  # printed digits and the last row of a cosine
    distance = np.abs(recorded - planned) / np.maximum(np.abs(planned), max(floor, 1e-30))
    off = distance > tolerance
    worst = int(np.argmax(np.abs(np.log(np.maximum(recorded, 1e-30) / np.maximum(planned, 1e-30)))))
    factors = recorded[off] / np.maximum(planned[off], 1e-30)
    extras: dict[str, Scalar] = {
        "rows_off": int(off.sum()),
        "first_off": int(common[int(np.argmax(off))]) if off.any() else None,
        "recorded": float(recorded[worst]),
        "planned": float(planned[worst]),
        "factor": float(recorded[worst] / max(planned[worst], 1e-30)),
        "typical": float(np.median(factors)) if off.any() else 1.0,
        "from_start": "yes" if off[0] else "no",
        "in_a_row": _longest_stretch(off),
    }
    return Measurement(float(off.mean()), "share", (int(common[0]), int(common[-1])), extras)


def _longest_stretch(marked: NDArray[np.bool_]) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate(([False], marked, [False]))))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def warmup_share(
    planned_iterations: int | None = None,
    warmup_iterations: float | None = None,
    lr: Series | None = None,
    complete: bool | None = None,
) -> Measurement:
    """Share of the planned run that the rate spends in warm-up.

    From the config where it is known; else from the recorded rates of a run that is complete
    (its last row is its planned end). A short run that was stopped in its warm-up says nothing:
    the question is what the planned run does. extras: warmup_iterations, planned_iterations,
    proposed_warmup (a tenth of the run, at most 1,000), read_from ("config" or "rates").
    """
    source = "config"
    if warmup_iterations is None or not planned_iterations:
        source = "rates"
        if lr is None or len(lr) < 5 or not complete:
            return Measurement(
                None, undecided="neither the config nor a complete run tells how long warm-up lasts"
            )
        planned_iterations = int(lr.iterations[-1]) + 1
        peak = int(np.argmax(lr.values >= 0.999 * lr.values.max()))
        rises = lr.values[peak] > 1.5 * lr.values[0]
        warmup_iterations = float(lr.iterations[peak]) + 1 if rises else 0.0
    extras: dict[str, Scalar] = {
        "warmup_iterations": int(warmup_iterations),
        "planned_iterations": planned_iterations,
        "proposed_warmup": max(1, min(1000, planned_iterations // 10)),
        "read_from": source,
    }
    return Measurement(warmup_iterations / planned_iterations, "share", None, extras)


def lr_scale(
    images_per_batch: int,
    base_lr: float | None = None,
    meta_architecture: str | None = None,
    lr: Series | None = None,
    optimizer: str | None = None,
) -> Measurement:
    """The rate over the one that the linear rule gives for this many images per batch.

    value: BASE_LR / linear_rule_lr (8.0 = eight times too high). The rule scales Detectron2's
    model zoo: 0.02 at 16 images for R-CNN, 0.01 at 16 for RetinaNet and FCOS, SGD (Goyal et al.
    2017). extras: linear_rule_lr, base_lr, reference_lr, read_from. Without a base_lr the highest
    recorded rate is used, where the warm-up is over.
    """
    if optimizer is not None and not optimizer.upper().startswith("SGD"):
        return Measurement(None, undecided=f"the linear rule is for SGD, this run uses {optimizer}")
    if images_per_batch <= 0:
        return Measurement(None, undecided="the number of images per batch is not known")
    source = "config"
    if base_lr is None:
        source = "rates"
        if lr is None or len(lr) < 5 or int(np.argmax(lr.values)) >= len(lr) - 2:
            return Measurement(None, undecided="the peak of the rate is not known")
        base_lr = float(lr.values.max())
    reference = REFERENCE_LR.get(meta_architecture or "", REFERENCE_LR_RCNN)
    linear = linear_rule(images_per_batch, meta_architecture)
    extras: dict[str, Scalar] = {
        "linear_rule_lr": linear,
        "base_lr": base_lr,
        "reference_lr": reference,
        "read_from": source,
    }
    # Rounded: 0.0005 / 0.002 must not come out below a threshold of 0.25.
    return Measurement(float(f"{base_lr / linear:.6g}"), "ratio", None, extras)


def lr_vanishes(
    lr: Series,
    base_lr: float | None = None,
    planned_iterations: int | None = None,
    *,
    negligible: float = 1e-3,
    warmup_iterations: float | None = None,
) -> Measurement:
    """Share of the observed iterations at a rate below `negligible` of the peak.

    Warm-up's first rows and the last twentieth of the planned run (a cosine's tail) do not
    count. extras: first_at, lowest, peak.
    """
    if not len(lr):
        return Measurement(None, undecided="no rate was recorded")
    peak = max(float(lr.values.max()), base_lr or 0.0)
    if peak <= 0:
        extras: dict[str, Scalar] = {
            "first_at": int(lr.iterations[0]), "lowest": 0.0, "peak": 0.0,
        }  # fmt: skip
        return Measurement(1.0, "share", (int(lr.iterations[0]), int(lr.iterations[-1])), extras)
    low = lr.values < negligible * peak
    warmup = warmup_iterations if warmup_iterations is not None else 0.05 * lr.iterations[-1]
    low &= lr.iterations > min(warmup, 10 if warmup_iterations is None else math.inf)
    if planned_iterations:
        low &= lr.iterations < 0.95 * planned_iterations
    extras = {
        "first_at": int(lr.iterations[int(np.argmax(low))]) if low.any() else None,
        "lowest": float(lr.values[low].min()) if low.any() else float(lr.values.min()),
        "peak": peak,
    }
    span = (int(lr.iterations[0]), int(lr.iterations[-1]))
    return Measurement(float(low.mean()), "share", span, extras)


def first_rate(
    lr: Series,
    base_lr: float | None = None,
    warmup_iterations: float | None = None,
    images_per_batch: int | None = None,
    meta_architecture: str | None = None,
    *,
    near_start: int = 25,
) -> Measurement:
    """The rate of the first rows over the peak: 1.0 means that there is no warm-up.

    extras: first_at (iteration), peak, asked ("yes" where the config asks for a warm-up),
    over_linear (peak / rate of the linear rule; at 1 a training survives the lack of a warm-up),
    proposed_warmup.
    """
    if not len(lr) or int(lr.iterations[0]) > near_start:
        return Measurement(None, undecided="the first iterations were not recorded")
    peak = max(float(lr.values.max()), base_lr or 0.0)
    if peak <= 0:
        return Measurement(None, undecided="the rate is zero throughout")
    asked = "unknown" if warmup_iterations is None else "yes" if warmup_iterations > 0 else "no"
    extras: dict[str, Scalar] = {
        "first_at": int(lr.iterations[0]),
        "peak": peak,
        "asked": asked,
        "over_linear": peak / linear_rule(images_per_batch, meta_architecture)
        if images_per_batch
        else None,
        "proposed_warmup": 1000,
    }
    share = float(lr.values[0]) / peak
    return Measurement(share, "share", (int(lr.iterations[0]), int(lr.iterations[0])), extras)


def linear_rule(images_per_batch: int, meta_architecture: str | None) -> float:
    """The model zoo's rate for so many images per batch (SGD)."""
    reference = REFERENCE_LR.get(meta_architecture or "", REFERENCE_LR_RCNN)
    return reference * images_per_batch / REFERENCE_IMAGES


def steps_in_warmup(steps: Sequence[float], warmup_iterations: float) -> Measurement:
    """How many decays lie inside the warm-up: each caps the rate that the warm-up ends at.

    extras: first_step, steps_after (those that stay).
    """
    inside = [s for s in steps if s <= warmup_iterations]
    extras: dict[str, Scalar] = {
        "first_step": inside[0] if inside else None,
        "warmup_iterations": int(warmup_iterations),
        "proposed_warmup": max(1, int(min(inside) // 2)) if inside else None,
    }
    return Measurement(float(len(inside)), "steps", None, extras)


def early_decay(
    planned_iterations: int,
    steps: Sequence[float] | None = None,
    lr: Series | None = None,
    *,
    drop: float = 0.6,
) -> Measurement:
    """Share of the planned run after which the rate first drops (1.0 = never).

    From SOLVER.STEPS where they are known, else from the recorded rates: the first drop below
    `drop` of the row before. extras: first_drop (iteration), read_from.
    """
    first: float | None = None
    source = "config"
    if steps is not None:
        valid = [s for s in steps if 0 < s < planned_iterations]
        first = min(valid, default=None)
    elif lr is not None and len(lr) > 2:
        source = "rates"
        fell = lr.values[1:] < drop * lr.values[:-1]
        first = float(lr.iterations[1 + int(np.argmax(fell))]) if fell.any() else None
    else:
        return Measurement(None, undecided="neither STEPS nor rates are known")
    extras: dict[str, Scalar] = {
        "first_drop": int(first) if first is not None else None,
        "read_from": source,
        "proposed_first": int(planned_iterations * 2 / 3),
        "proposed_second": int(planned_iterations * 8 / 9),
    }
    share = first / planned_iterations if first is not None else 1.0
    return Measurement(share, "share", None, extras)


def late_rate(
    planned_iterations: int,
    steps: Sequence[float] | None = None,
    scheduler: str | None = None,
    lr: Series | None = None,
    complete: bool | None = None,
    gamma: float | None = None,
) -> Measurement:
    """The rate at the planned end over its peak, as planned: 1.0 means that it never decays.

    From the config (a step schedule whose STEPS all lie at or past the end never decays), else
    from the rates of a complete run. gamma: factor of each decay, SOLVER.GAMMA (default 0.1).
    extras: steps_past_end, end_share (the value, None where the rate does not decay), read_from,
    proposed_first and proposed_second (decays at 2/3 and 8/9, as in the model zoo).
    """
    extras: dict[str, Scalar] = {
        "steps_past_end": None,
        "end_share": None,
        "planned_end": planned_iterations,
        "read_from": "config",
        "proposed_first": int(planned_iterations * 2 / 3),
        "proposed_second": int(planned_iterations * 8 / 9),
    }
    if steps is not None and (scheduler is None or "Step" in scheduler):
        past = [s for s in steps if s >= planned_iterations]
        extras["steps_past_end"] = len(past)
        decays = sum(0 < s < planned_iterations for s in steps)
        end = (0.1 if gamma is None else gamma) ** decays
        extras["end_share"] = end if decays else None
        return Measurement(end, "share", None, extras)
    if scheduler is not None and any(w in scheduler for w in ("Cosine", "Poly")):
        extras["end_share"] = 0.0
        return Measurement(0.0, "share", None, extras)
    if lr is None or len(lr) < 5 or not complete:
        return Measurement(None, undecided="neither the config nor a complete run shows the decay")
    extras["read_from"] = "rates"
    peak = float(lr.values.max())
    share = float(lr.values[-1]) / peak if peak > 0 else 1.0
    extras["end_share"] = share
    return Measurement(share, "share", (int(lr.iterations[0]), int(lr.iterations[-1])), extras)


def lr_leap(lr: Series, planned_lr: Series | None = None, *, skip_rows: int = 1) -> Measurement:
    """The largest factor between the rates of neighbouring rows that no plan explains.

    value: factor, at least 1 (8.0 = up or down by eight). Falls by a usual decay (to between a
    twentieth and half) are no leap where no plan is known; a rise in the middle of a run always
    is. extras: at (iteration), before, after, direction ("up", "down"), rewarmed ("yes" where the
    rate falls to the start of a warm-up and climbs again).
    """
    if len(lr) < 5:
        return Measurement(None, undecided=f"only {len(lr)} rows with a rate")
    rates = np.maximum(lr.values, 1e-30)
    change = np.log(rates[1:] / rates[:-1])
    if planned_lr is not None and len(planned_lr) == len(lr):
        planned = np.maximum(planned_lr.values, 1e-30)
        change = change - np.log(planned[1:] / planned[:-1])
    else:
        change = _unexplained(change)
    change[:skip_rows] = 0.0
    at = int(np.argmax(np.abs(change)))
    after = lr.values[at + 1 :]
    rewarmed = change[at] < -math.log(5) and len(after) > 3 and after[-1] > 3 * after[0]
    extras: dict[str, Scalar] = {
        "at": int(lr.iterations[at + 1]),
        "before": float(lr.values[at]),
        "after": float(lr.values[at + 1]),
        "direction": "up" if change[at] > 0 else "down",
        "rewarmed": "yes" if rewarmed else "no",
    }
    span = (int(lr.iterations[at]), int(lr.iterations[at + 1]))
    return Measurement(math.exp(float(np.abs(change[at]))), "ratio", span, extras)


def _unexplained(change: Floats) -> Floats:
    """Without a plan: what a warm-up, a step decay or a smooth schedule does is explained."""
    out: Floats = change.copy()
    falling = np.flatnonzero(change < -0.02)
    first_fall = int(falling[0]) if len(falling) else len(change)
    out[:first_fall] = np.where(_concave_rise(change[:first_fall]), 0.0, change[:first_fall])
    decays = (change <= -math.log(2)) & (change >= -math.log(20))
    out[decays] = 0.0
    out[np.abs(out) < 0.25] = 0.0
    return np.asarray(out)


def _concave_rise(change: Floats) -> NDArray[np.bool_]:
    """Rises that get ever smaller, as those of a linear warm-up do in the logarithm."""
    if len(change) < 2:
        return np.ones(len(change), dtype=bool)
    return np.asarray(np.concatenate(([True], change[1:] <= change[:-1] * 1.05 + 1e-6)))


def epochs(planned_iterations: int, images_per_batch: int, images: int) -> Measurement:
    """How often the planned run sees each image: planned iterations x batch / images.

    extras: images, iterations_per_epoch, proposed_iterations (for 12 epochs, Detectron2's 1x
    schedule of COCO).
    """
    if images <= 0 or images_per_batch <= 0:
        return Measurement(None, undecided="the size of the data set is not known")
    per_epoch = images / images_per_batch
    extras: dict[str, Scalar] = {
        "images": images,
        "iterations_per_epoch": per_epoch,
        "proposed_iterations": math.ceil(12 * per_epoch),
    }
    return Measurement(planned_iterations / per_epoch, "epochs", None, extras)
