"""What the recorded learning rate does: as it was asked to, without leaps, and above zero."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from d2check.checks._rows import in_common
from d2check.checks._words import counted
from d2check.model import Config, Measurement, Scalar, Series

Floats = NDArray[np.float64]
SMOOTH = 1.25  # of the step before; the last step of poly with a power of 0.9 is 1.15 times that


def lr_mismatch(
    lr: Series,
    planned_lr: Series,
    config: Config | None = None,
    *,
    tolerance: float = 0.02,
    min_rows: int = 3,
    near_start: int = 100,
) -> Measurement:
    """Share of the rows whose rate is not the one that the config asks for.

    lr, planned_lr: the recorded rate and the schedule's at the same iterations. A row is off by
    more than `tolerance` of the planned rate and half a unit of the digits that were printed.

    What is logged is the rate of one parameter group. Where it is a constant multiple of the plan
    by a factor that the config names, or over a stretch from the start in which the plan varies,
    the schedule is followed: no row is off, and `constant_factor` says by how much it differs.

    extras: rows_off, first_off (iteration), recorded, planned (rates at the row that is furthest
    off), factor (recorded / planned there), typical (median factor of the rows that are off),
    from_start ("yes" where the first row is off), in_a_row (longest stretch of rows that are off),
    constant_factor (None where there is none), kept ("yes" where rows that begin in mid-training
    are off by one factor throughout: a resume kept the rates of its checkpoint).
    """
    common, recorded, planned = in_common(lr, planned_lr)
    known = np.isfinite(recorded) & np.isfinite(planned)
    common, recorded, planned = common[known], recorded[known], planned[known]
    if len(common) < min_rows:
        return Measurement(None, undecided=f"only {counted(len(common), 'row')} with a rate")
    # The floor is for the last row of a cosine.
    floor = max(1e-4 * float(np.abs(planned).max()), 1e-30)
    scale = np.maximum(np.abs(planned), floor)
    rounding = printed_rounding(recorded)
    off = np.abs(recorded - planned) - rounding > tolerance * scale
    factor = None
    if off.mean() > _FEW:
        known_factors = group_factors(config)
        factor = _constant_factor(
            recorded, planned, scale, rounding, known_factors, from_start=common[0] <= near_start
        )
        if factor is not None:
            off = np.abs(recorded - factor * planned) - rounding > tolerance * factor * scale
            planned = factor * planned
    worst = int(np.argmax(np.abs(np.log(np.maximum(recorded, floor) / np.maximum(planned, floor)))))
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
        "constant_factor": factor,
        "kept": "yes" if common[0] > near_start and _by_one_factor(off, factors) else "no",
    }
    return Measurement(float(off.mean()), "share", (int(common[0]), int(common[-1])), extras)


# One odd row in fifty is forgiven; shapes must agree better than rates, for another length of the
# warm-up is nearly a factor.
_FEW, _SHAPE_OFF, _SHAPE_VARIES, _SAME_FACTOR = 0.02, 0.005, 1.05, 0.01


def _constant_factor(
    recorded: Floats,
    planned: Floats,
    scale: Floats,
    rounding: float,
    known: Sequence[float],
    *,
    from_start: bool,
) -> float | None:
    """The factor between recorded and planned rates, if one factor explains them all."""
    usable = planned > 0
    if not usable.any():
        return None
    factor = float(np.median(recorded[usable] / planned[usable]))
    for named in known:
        if abs(factor / named - 1) < _SAME_FACTOR:
            factor = named
    away = np.abs(recorded - factor * planned) - rounding > _SHAPE_OFF * factor * scale
    if factor <= 0 or away.mean() > _FEW:
        return None
    varies = planned[usable].max() / planned[usable].min() > _SHAPE_VARIES
    return factor if factor in known or (varies and from_start) else None


def _by_one_factor(off: NDArray[np.bool_], factors: Floats) -> bool:
    """Whether nearly all rows are off, and by the same factor."""
    if off.mean() < 1 - _FEW:
        return False
    return bool((np.abs(factors / np.median(factors) - 1) > _SAME_FACTOR).mean() <= _FEW)


def group_factors(config: Config | None) -> tuple[float, ...]:
    """Factors that a config gives to the rates of single parameter groups.

    SOLVER.BIAS_LR_FACTOR is Detectron2's own; SOLVER.BACKBONE_MULTIPLIER and the like are those of
    Mask2Former, MaskDINO and other projects.
    """
    if config is None:
        return ()
    names = ("LR_FACTOR", "MULTIPLIER", "LR_MULT")
    return tuple(
        float(value)
        for key, value in config.values.items()
        if key.upper().endswith(names) and isinstance(value, (int, float)) and value > 0
    )


def printed_rounding(rates: Floats) -> float:
    """Half a unit of the six decimals that logs before v0.3 print a rate with, else 0."""
    return 5.1e-7 if bool(np.all(rates == np.round(rates, 6))) else 0.0


def _longest_stretch(marked: NDArray[np.bool_]) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate(([False], marked, [False]))))
    return int((edges[1::2] - edges[::2]).max(initial=0))


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


def lr_leap(
    lr: Series,
    planned_lr: Series | None = None,
    lr_before: Series | None = None,
    *,
    skip_rows: int = 1,
) -> Measurement:
    """The largest factor between the rates of neighbouring rows that no plan explains.

    value: factor, at least 1 (8.0 = up or down by eight). Falls by a usual decay (to between a
    twentieth and half) are no leap where no plan is known; a rise in the middle of a run always
    is. lr_before: rates of the training that this one resumes; the step from them counts too.
    extras: at (iteration), before, after, direction ("up", "down"), rewarmed ("yes" where the rate
    falls to the start of a warm-up and climbs again).
    """
    if len(lr) < 5:
        return Measurement(None, undecided=f"only {counted(len(lr), 'row')} with a rate")
    rates = np.maximum(lr.values, 1e-30)
    change = np.log(rates[1:] / rates[:-1])
    # Of the digits that were printed, a leap from 0.000001 to 0.000002 may be none.
    rounding = printed_rounding(lr.values) / np.minimum(rates[1:], rates[:-1])
    if planned_lr is not None and len(planned_lr) == len(lr):
        planned = np.maximum(planned_lr.values, 1e-30)
        change = change - np.log(planned[1:] / planned[:-1])
    else:
        change = _unexplained(change, lr.values)
    change = np.sign(change) * np.maximum(np.abs(change) - np.log1p(2 * rounding), 0.0)
    change[:skip_rows] = 0.0
    at = int(np.argmax(np.abs(change)))
    resumed = _step_of_resume(lr, lr_before)
    if abs(resumed) > abs(change[at]):
        return _leap_of_resume(lr, lr_before, resumed)
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


def _step_of_resume(lr: Series, lr_before: Series | None) -> float:
    """Logarithm of the factor by which a resume changed the rate, 0 where a schedule might."""
    if lr_before is None or len(lr_before) < 2:
        return 0.0
    rates = np.maximum(np.concatenate([lr_before.values, lr.values]), 1e-30)
    change = np.log(rates[1:] / rates[:-1])
    return float(_unexplained(change, rates)[len(lr_before) - 1])


def _leap_of_resume(lr: Series, lr_before: Series | None, step: float) -> Measurement:
    assert lr_before is not None
    at, before, after = int(lr.iterations[0]), float(lr_before.values[-1]), float(lr.values[0])
    rewarmed = step < -math.log(5) and len(lr) > 3 and lr.values[-1] > 3 * after
    extras: dict[str, Scalar] = {
        "at": at,
        "before": before,
        "after": after,
        "direction": "up" if step > 0 else "down",
        "rewarmed": "yes" if rewarmed else "no",
    }
    return Measurement(math.exp(abs(step)), "ratio", (int(lr_before.iterations[-1]), at), extras)


def _unexplained(change: Floats, rates: Floats) -> Floats:
    """Without a plan: what a warm-up, a step decay or a smooth schedule does is explained.

    change: logarithms of the steps between neighbouring rates. A smooth fall towards zero (cosine,
    poly, linear) ends in steps that are huge as factors and no larger than those before them.
    """
    out: Floats = change.copy()
    falling = np.flatnonzero(change < -0.02)
    first_fall = int(falling[0]) if len(falling) else len(change)
    out[:first_fall] = np.where(_concave_rise(change[:first_fall]), 0.0, change[:first_fall])
    decays = (change <= -math.log(2)) & (change >= -math.log(20))
    out[decays] = 0.0
    step = np.diff(rates)
    smooth = (step[1:] < 0) & (step[:-1] < 0) & (step[1:] >= SMOOTH * step[:-1])
    out[1:][smooth] = 0.0
    out[np.abs(out) < 0.25] = 0.0
    return np.asarray(out)


def _concave_rise(change: Floats) -> NDArray[np.bool_]:
    """Rises that get ever smaller, as those of a linear warm-up do in the logarithm."""
    if len(change) < 2:
        return np.ones(len(change), dtype=bool)
    return np.asarray(np.concatenate(([True], change[1:] <= change[:-1] * 1.05 + 1e-6)))
