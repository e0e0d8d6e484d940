"""Whether the schedule is in proportion to the batch, and long enough."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from d2check.checks._usual_lr import REFERENCE_LR, REFERENCE_LR_RCNN, linear_rule
from d2check.model import Measurement, Scalar, Series

_RCNN_RATED = ("PanopticFPN", "ProposalNetwork", "TensorMask")  # and whatever is an RCNN by name


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
        "proposed_warmup": _tenth(planned_iterations, ()),
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
    recorded rate is used, where the warm-up is over. optimizer: SGD unless named; a class's full
    name will do. Undecided for an architecture that Detectron2 has no rate for.
    """
    name = (optimizer or "SGD").rpartition(".")[2]
    if not name.upper().startswith("SGD"):
        return Measurement(None, undecided=f"the linear rule is for SGD, this run uses {name}")
    if not _has_reference(meta_architecture):
        return Measurement(
            None, undecided=f"Detectron2 has no reference rate for {meta_architecture}"
        )
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


def first_rate(
    lr: Series,
    base_lr: float | None = None,
    warmup_iterations: float | None = None,
    images_per_batch: int | None = None,
    meta_architecture: str | None = None,
    planned_iterations: int | None = None,
    steps: Sequence[float] | None = None,
    *,
    near_start: int = 25,
) -> Measurement:
    """The rate of the first rows over the peak: 1.0 means that there is no warm-up.

    extras: first_at (iteration), peak, asked ("yes" where the config asks for a warm-up),
    over_linear (peak / rate of the linear rule; at 1 a training survives the lack of a warm-up),
    proposed_warmup (a tenth of the run, at most 1,000 and half of the way to the first step).
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
        "proposed_warmup": _tenth(planned_iterations, steps or ()),
    }
    share = float(lr.values[0]) / peak
    return Measurement(share, "share", (int(lr.iterations[0]), int(lr.iterations[0])), extras)


def _has_reference(meta_architecture: str | None) -> bool:
    if meta_architecture is None or meta_architecture in (*REFERENCE_LR, *_RCNN_RATED):
        return True
    return "RCNN" in meta_architecture.upper().replace("_", "")


def _tenth(planned_iterations: int | None, steps: Sequence[float]) -> int | None:
    """A warm-up as long as a tenth of the run, that ends well before the first step."""
    if planned_iterations is None:
        return None
    return max(1, int(min(1000, planned_iterations // 10, *(step // 2 for step in steps))))


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
    complete: bool | None = None,
    *,
    drop: float = 0.6,
) -> Measurement:
    """Share of the planned run after which the rate first drops (infinite: never).

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
        if first is None and not complete:
            words = "the rate has not dropped so far, and no config tells when it will"
            return Measurement(None, undecided=words)
    else:
        return Measurement(None, undecided="neither STEPS nor rates are known")
    extras: dict[str, Scalar] = {
        "first_drop": int(first) if first is not None else None,
        "read_from": source,
        "proposed_first": int(planned_iterations * 2 / 3),
        "proposed_second": int(planned_iterations * 8 / 9),
    }
    share = first / planned_iterations if first is not None else math.inf
    return Measurement(share, "share", None, extras)


def late_rate(
    planned_iterations: int,
    steps: Sequence[float] | None = None,
    scheduler: str | None = None,
    lr: Series | None = None,
    complete: bool | None = None,
    gamma: float | None = None,
    *,
    flat: float = 0.95,
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
    if share > flat:
        words = "the rate stays at its peak, and no config tells whether it should"
        return Measurement(None, undecided=words)
    extras["end_share"] = share
    return Measurement(share, "share", (int(lr.iterations[0]), int(lr.iterations[-1])), extras)


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
