"""Whether the loss falls, goes on falling, and stays a number."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from d2check.checks._curve import (
    Floats,
    LossCurve,
    Noise,
    at_base_rate,
    for_trends,
    loss_curve,
    median,
    noise_of,
    slope_of,
    usual_phi,
)
from d2check.checks._rcnn import background_dip, begins_trained, known_chances, start_unseen
from d2check.checks._words import counted
from d2check.model import Beginning, Ending, EndingKind, Measurement, Scalar, Series

FALL_SCALE = 30.0  # effective iterations; losses fall about linearly in ln(1 + e / 30)
LATE_SCALE = 20.0
TRAINED_FALL = 0.3  # what had been trained before does not fall by so much; a few classes start low
AT_BASE = 0.8  # of the peak rate: nearly warmed up
_NAN_UNSEEN = (
    "every loss up to iteration {until} is a number, but a NaN ends a training unwritten, and "
    "nothing here tells how this one ended"
)
_OPEN_ENDS = (EndingKind.RUNNING, EndingKind.TRUNCATED, EndingKind.UNKNOWN)


def loss_fall(
    total: Series,
    losses: Mapping[str, Series] | None = None,
    lr: Series | None = None,
    base_lr: float | None = None,
    classes: int | None = None,
    beginning: Beginning | None = None,
    *,
    min_effective: float = 25.0,
    min_rows: int = 8,
) -> Measurement:
    """By what share the loss has fallen since the start, and how surely.

    value: share of the best supported fall among the total, the pool of its heads and every
    head (0.4 = fell by 40 %; negative = rose), from least squares on ln(1 + e / 30), e effective
    iterations. extras: z (fall / standard error), upper (share that the total or the pool may
    have fallen at most, one standard error up), fell (name of the curve), effective,
    first and last (levels of the total), total_fell_to (last, None where the total rose), doubt
    (what keeps a level loss from surely being a fault, in words), sure ("no" where there is one).

    Undecided where a fall cannot be expected yet, or no longer: fewer than min_effective
    effective iterations, a start at a trained level or with trained weights, or rows that begin
    late, unless the fall is plain (z > 5).
    """
    curve = loss_curve(total, losses, lr, base_lr)
    if isinstance(curve, str):
        return Measurement(None, undecided=curve)
    if len(curve) < min_rows:
        return Measurement(
            None, undecided=f"only {counted(len(curve), 'row')}; {min_rows} are needed"
        )
    curve = for_trends(curve)
    x = np.log1p(curve.effective / FALL_SCALE)
    reach = float(x[-1] - x[0])
    phi = usual_phi(curve)
    best_z, best_fall, best_name, upper = -math.inf, 0.0, "total_loss", -math.inf
    for name, values in {"total_loss": curve.total, "pool": curve.pool, **curve.heads}.items():
        slope, se = slope_of(x, values, noise_of(values, phi))
        fall, fall_se = -slope * reach, max(se * reach, 1e-12)
        if name in ("total_loss", "pool"):
            upper = max(upper, fall + fall_se)
        if fall / fall_se > best_z:
            best_z, best_fall, best_name = fall / fall_se, fall, name
    effective = float(curve.effective[-1])
    tenth = max(3, len(curve) // 10)
    first, last = (math.exp(median(e)) for e in (curve.total[:tenth], curve.total[-tenth:]))
    extras: dict[str, Scalar] = {
        "z": best_z,
        "upper": -math.expm1(-upper),
        "fell": "all losses together" if best_name == "pool" else best_name,
        "effective": effective,
        "first": first,
        "last": last,
        # A total may rise while the training learns: foreground found again costs at first.
        "total_fell_to": last if last < first else None,
    }
    doubt = _doubt(curve, beginning)
    extras |= {"doubt": doubt, "sure": "no" if doubt else "yes"}
    undecided = None
    if best_z < 5 or best_fall < 0.03:
        undecided = _why_no_fall_is_expected(curve, effective, min_effective, classes, beginning)
    return Measurement(-math.expm1(-best_fall), "share", curve.span, extras, undecided)


def _doubt(curve: LossCurve, beginning: Beginning | None) -> str | None:
    """Where no head has a known chance level and nothing tells of the weights, that."""
    if known_chances(curve, None) or beginning is None or beginning.trained is not None:
        return None
    return beginning.told


def _why_no_fall_is_expected(
    curve: LossCurve,
    effective: float,
    min_effective: float,
    classes: int | None,
    beginning: Beginning | None,
) -> str | None:
    if effective < min_effective:
        return (
            f"only {effective:.0f} effective iterations so far: the rate is in warm-up or near zero"
        )
    trained = begins_trained(curve, classes, beginning)
    if trained:
        return trained
    if background_dip(curve):
        return "the ROI heads are coming back from calling everything background"
    return start_unseen(curve, classes)


def late_fall(
    total: Series,
    losses: Mapping[str, Series] | None = None,
    lr: Series | None = None,
    base_lr: float | None = None,
    classes: int | None = None,
    beginning: Beginning | None = None,
    *,
    se_margin: float = 2.0,
    discount: float = 0.2,
    min_effective: float = 60.0,
    min_rows: int = 40,
) -> Measurement:
    """How much the loss can still have fallen over the second half at its base rate, at most.

    value: upper bound of that fall of the pooled heads (share, se_margin standard errors up),
    less `discount` of the fall that the first half foretold in ln(20 + e): where much was to be
    expected a plateau is plainer. extras: falling_z (standard errors by which the curve that
    falls most surely does: total, pool or a head), z (the same of the pool; negative = rising),
    late, early (falls of the halves; late is None where the pool has risen), expected, since
    (iteration), most (what the pool can have fallen at most, nothing taken off), unsure (in words,
    what these halves can be other than a plateau).

    Only the stretch up to the first drop of the rate counts: a tail after a decay is a finished
    schedule. Undecided where a flat half is healthy: a start at a trained level or with trained
    weights (unless the loss has fallen by TRAINED_FALL since), an R-CNN whose ROI losses are coming
    back from calling everything background, or medians whose second half begins in the warm-up.
    """
    curve = loss_curve(total, losses, lr, base_lr)
    if isinstance(curve, str):
        return Measurement(None, undecided=curve)
    curve = for_trends(at_base_rate(curve))
    if len(curve) < min_rows or curve.effective[-1] < min_effective:
        return Measurement(
            None,
            undecided=f"only {counted(len(curve), 'row')} and "
            f"{curve.effective[-1]:.0f} effective iterations at the base rate",
        )
    x = np.log(LATE_SCALE + curve.effective)
    half = len(curve) // 2
    reach = float(x[-1] - x[half])
    early_slope, _ = slope_of(x[:half], curve.pool[:half], noise_of(curve.pool))
    phi = usual_phi(curve)
    falls = [
        _falling(x[half:], values[half:], noise_of(values, phi))
        for values in (curve.pool, curve.total, *curve.heads.values())
    ]
    late, late_se = falls[0]
    expected = min(max(-early_slope * reach, 0.0), 0.3)
    first, second = median(curve.total[: max(3, half // 5)]), median(curve.total[half:])
    early = -math.expm1(second - first)
    extras: dict[str, Scalar] = {
        "falling_z": max(fall / se for fall, se in falls),
        "z": late / late_se,
        "late": -math.expm1(-late) if late > 0 else None,
        "early": early,
        "expected": -math.expm1(-expected),
        "since": int(curve.iterations[half]),
        "effective": float(curve.effective[-1]),
    }
    span = (int(curve.iterations[half]), int(curve.iterations[-1]))
    upper = -math.expm1(discount * expected - late - se_margin * late_se)
    rise = math.expm1(-late) if late < -se_margin * late_se else None
    most = -math.expm1(-late - se_margin * late_se)
    extras |= {"most": most, "unsure": _why_no_plateau(span[0], most, early, rise)}
    why = _why_flat_is_healthy(curve, x, classes, early, beginning)
    if why is None and late < se_margin * late_se:
        why = _why_it_may_fall_yet(curve, half)
    return Measurement(upper, "share", span, extras, why)


def _why_it_may_fall_yet(curve: LossCurve, half: int) -> str | None:
    """Whether the rate was still rising when the half began that is level, in words.

    Raw rows are short runs, often within their warm-up as a whole: there the effective iterations
    alone say what to expect.
    """
    if curve.raw or curve.lr is None:
        return None
    peak = float(curve.lr.max())
    if curve.lr[half] > AT_BASE * peak:
        return None
    reached = int(curve.iterations[int(np.argmax(curve.lr > AT_BASE * peak))])
    return f"the rate was warming up until iteration {reached}, and the losses may fall yet"


def _why_no_plateau(since: int, most: float, early: float, rise: float | None) -> str:
    """What keeps halves that do not plainly fall from being a plateau, in words."""
    if rise is not None:
        return (
            f"since iteration {since} the losses have risen together, by about {rise:.0%}, "
            "which is no plateau"
        )
    fell = early >= 0.005
    if most >= 0.005:
        before = f"fell by {early:.0%}" if fell else "did not fall"
        return (
            f"a fall of up to {most:.0%} since iteration {since} would be hidden by the noise; "
            f"before, total_loss {before}"
        )
    before = f"had fallen by {early:.0%} only" if fell else "had not fallen either"
    return f"the losses are level since iteration {since}, but before, total_loss {before}"


def _falling(x: Floats, values: Floats, noise: Noise) -> tuple[float, float]:
    slope, se = slope_of(x, values, noise)
    reach = float(x[-1] - x[0])
    return -slope * reach, max(se * reach, 1e-12)


def _why_flat_is_healthy(
    curve: LossCurve,
    x: Floats,
    classes: int | None,
    early: float,
    beginning: Beginning | None,
) -> str | None:
    trained = begins_trained(curve, classes, beginning)
    if trained and early < TRAINED_FALL:
        return trained
    if background_dip(curve):
        half = len(curve) // 2
        box = curve.heads["loss_box_reg"]
        fall, se = _falling(x[half:], box[half:], noise_of(box))
        if fall < -2 * se:
            return "the ROI heads are still coming back from calling everything background"
    return None


def non_finite(
    total: Series | None = None,
    losses: Mapping[str, Series] | None = None,
    ending: Ending | None = None,
    lr: Series | None = None,
    base_lr: float | None = None,
    processes: int | None = None,
    configured_for: int | None = None,
    end_unexplained: bool | None = None,
    batch_not_finite: int | None = None,
) -> Measurement:
    """How many loss values are NaN or infinite, a run ended by such a value counted as one.

    processes of the configured_for that the rate is made for: where fewer trained, on their share
    of the batch, only a NaN that ended them tells something. end_unexplained: the rows end early
    or nobody knows where they should, and no log tells why. Then finite losses prove nothing of the
    end, whether metrics.json has them or a piece of a log: Detectron2 raises before it stores or
    prints a loss that is not finite (engine/train_loop.py, write_metrics). batch_not_finite: images
    and boxes of that batch that were no numbers before the model saw them: then no rate is to
    blame, and none is told.

    value: count. extras: at (first iteration), series (name of the first), rate_share (rate
    there / peak rate: near zero means data or weights, a large share means the rate),
    until (last iteration, where the rows stop before the training is known to have ended),
    finite_rows (rows before it), share (of the batch that the rate is made for; 1.0 = all of it),
    share_lr (the rate for that share, None where base_lr is not known).
    """
    share = processes / configured_for if processes and configured_for else 1.0
    count, first, name = 0, None, None
    for key, series in {
        **({"total_loss": total} if total is not None else {}),
        **(losses or {}),
    }.items():
        bad = ~np.isfinite(series.values)
        if bad.any():
            count += int(bad.sum())
            where = int(series.iterations[int(np.argmax(bad))])
            if first is None or where < first:
                first, name = where, key
    if ending is not None and ending.kind is EndingKind.NON_FINITE:
        count += 1
        if first is None:
            first, name = ending.iteration, name or "total_loss"
    if first is None and total is not None and len(total) and count:
        first = int(total.iterations[-1])
    if not count and total is None and not losses:
        why = "only a share of the batch was trained, and no NaN ended it"
        return Measurement(None, undecided="no losses are recorded" if share == 1 else why)
    runs_on = ending is not None and ending.kind is EndingKind.RUNNING
    until = max(
        (
            int(s.iterations[-1])
            for s in (total, *(losses or {}).values())
            if s is not None and len(s)
        ),
        default=None,
    )
    if not count and end_unexplained and not runs_on:
        return Measurement(None, undecided=_NAN_UNSEEN.format(until=until))
    extras: dict[str, Scalar] = {
        "at": first,
        "until": until if ending is not None and ending.kind in _OPEN_ENDS else None,
        "series": name,
        "share": share,
        "share_lr": None if base_lr is None else base_lr * share,
        "rate_share": None if batch_not_finite else _rate_share(lr, base_lr, first),
        "finite_rows": int(np.isfinite(total.values).sum()) if total is not None else None,
    }
    span = None
    if total is not None and len(total):
        span = (int(total.iterations[0]), int(total.iterations[-1]))
    return Measurement(float(count), "values", span, extras)


def _rate_share(lr: Series | None, base_lr: float | None, at: int | None) -> float | None:
    if lr is None or not len(lr) or at is None:
        return None
    peak = max(float(np.nanmax(lr.values)), base_lr or 0.0)
    return float(np.interp(at, lr.iterations, lr.values)) / peak if peak > 0 else None
