"""Whether the loss rises: slowly, or by a leap that stays."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from d2check.checks._curve import (
    Floats,
    LossCurve,
    Noise,
    block_means,
    for_trends,
    loss_curve,
    median,
    noise_of,
    running_medians,
    slope_of,
    usual_phi,
)
from d2check.checks._dense import NORMALISED_AFTER, is_dense
from d2check.checks._rcnn import background_dip, beside_roi
from d2check.checks._words import counted
from d2check.model import Ending, EndingKind, Measurement, Scalar, Series

# Share of the rows at the end that a slope is fitted to, and what choosing a short one costs in
# standard errors: a healthy curve falls over its long ends and wanders over its short ones.
ENDS = ((0.75, 0.0), (0.6, 0.0), (0.5, 0.0), (0.4, 0.3), (0.3, 0.8), (0.2, 1.2))
BLOCKS = (10, 20, 40)
BURST_TOLD = 10.0  # times the first loss: what is worth words
BURST_ROWS = 30  # rows that tell whether a loss that burst at once comes back


def loss_rise(
    total: Series,
    losses: Mapping[str, Series] | None = None,
    lr: Series | None = None,
    base_lr: float | None = None,
    ending: Ending | None = None,
    *,
    min_rows: int = 12,
    leap_rows: int = 12,
    roi_rise_z: float = 2.4,
) -> Measurement:
    """How far the end of the loss stands above its best level, and how surely.

    value: ratio of the level at the end to the lowest level before (1.0 = ends at its best).
    extras: z (standard errors of the pooled heads' rise: the steepest of several ends, or the
    last blocks over the second lowest one, selection taken off), best, best_at, end, leap (the
    largest ratio between neighbouring stretches of leap_rows, which a spike does not reach),
    leap_z, leap_at, recovering ("yes" where the last quarter falls surely and is below the
    start), rate_share (rate at the best level / peak rate), dip (in words, where foreground has
    returned after that best level and the loss falls again), burst and the like (see `_burst`).

    A run that ended in NaN is also judged by its very last row; elsewhere a few high rows at the
    end could be a spike. Undecided where an R-CNN finds its foreground again and its other heads
    do not rise (by less than roi_rise_z standard errors), unless what came back falls again. The
    first losses of a RetinaNet or FCOS are left out, see checks/_dense.py.
    """
    curve = loss_curve(total, losses, lr, base_lr)
    if isinstance(curve, str):
        return Measurement(None, undecided=curve)
    burst: dict[str, Scalar] = {"burst": 1.0, "burst_end": 1.0, "burst_lost": 1.0}
    if not is_dense(curve.heads):
        burst.update(_burst(total))
    else:
        # Of a resumed one too: the mean is in no checkpoint.
        curve = curve.rows(curve.iterations >= curve.iterations[0] + NORMALISED_AFTER)
    if len(curve) < min_rows:
        return Measurement(
            None, undecided=f"only {counted(len(curve), 'row')}; {min_rows} are needed"
        )
    curve = for_trends(curve)
    noise = noise_of(curve.pool, usual_phi(curve))
    z, first = max(_end_slopes(curve.pool, noise) + _block_rises(curve.pool, noise))
    exploded = ending is not None and ending.kind is EndingKind.NON_FINITE
    if exploded:
        z = max(z, _last_row(curve.total))
    best, best_row, end = _levels(curve.total, exploded)
    window = min(leap_rows, max(3, len(curve) // 12))
    leap, leap_row = _leap(curve.pool, window)
    extras: dict[str, Scalar] = {
        "z": z,
        "best": math.exp(best),
        "best_at": int(curve.iterations[best_row]),
        "end": math.exp(min(end, 700.0)),
        "leap": math.exp(min(leap, 700.0)),
        "leap_z": leap / max(noise.mean_se(window / 2), 1e-9),
        "leap_at": int(curve.iterations[leap_row]),
        "recovering": "yes" if _recovering(curve, noise) else "no",
        "rate_share": None
        if curve.lr is None
        else float(curve.lr[best_row]) / max(float(curve.lr.max()), base_lr or 0.0, 1e-30),
        "dip": None,
        **burst,
    }
    ratio = math.exp(min(end - best, 700.0))
    undecided = None
    leapt = leap > math.log(1.5)
    if (ratio > 1.1 or leapt) and ratio < 3 and _only_roi_rises(curve, roi_rise_z, window):
        if leapt or z > roi_rise_z or extras["recovering"] == "no":
            undecided = "the ROI heads are coming back from calling everything background"
        else:
            extras["dip"] = "which was the dip in which all was background, and falls again"
    span = (int(curve.iterations[first]), int(curve.iterations[-1]))
    return Measurement(ratio, "ratio", span, extras, undecided)


def _burst(total: Series) -> dict[str, Scalar]:
    """How far a run's loss leapt above its first one, and where it ends, both over the first.

    The first loss of a model is the price of knowing nothing. A rate far too high for an AdamW or a
    DETR leaps from it at once and falls for long afterwards, so that no later level is a rise.
    Empty for what is not raw or does not begin with the training. extras: burst (the second highest
    of the first rows: one may be an image with many objects), burst_end, burst_lost (the highest
    over where it ends: a model that was trained before has easy images and hard ones, no such
    leap), and where it is large and ends above the first: burst_first, burst_peak, burst_at
    (iteration), burst_level.
    """
    finite = np.isfinite(total.values)
    values, at = total.values[finite], total.iterations[finite]
    if total.statistic != "raw" or len(values) < BURST_ROWS or at[0] > 1 or values[0] <= 0:
        return {}
    first, peak = float(values[0]), int(np.argmax(values[:BURST_ROWS]))
    level = float(np.median(values[-max(8, len(values) // 4) :]))
    burst: dict[str, Scalar] = {
        "burst": float(np.sort(values[:BURST_ROWS])[-2]) / first,
        "burst_end": level / first,
        "burst_lost": float(values[peak]) / max(level, 1e-30),
    }
    if level < first or values[peak] < BURST_TOLD * first:
        return burst  # it is over, or none
    return {
        **burst,
        "burst_first": first,
        "burst_peak": float(values[peak]),
        "burst_at": int(at[peak]),
        "burst_level": level,
    }


def _only_roi_rises(curve: LossCurve, limit_z: float, window: int) -> bool:
    """Whether foreground returns and nothing else rises: neither steadily nor by a leap."""
    rest = beside_roi(curve)
    if rest is None or not background_dip(curve):
        return False
    noise = noise_of(rest, usual_phi(curve))
    climb = max(_end_slopes(rest, noise) + _block_rises(rest, noise))[0]
    leap = _leap(rest, window)[0] / max(noise.mean_se(window / 2), 1e-9)
    return climb < limit_z and leap < limit_z + 2  # a leap is the largest of many


def _end_slopes(values: Floats, noise: Noise) -> list[tuple[float, int]]:
    """(z of the slope less its handicap, first row) for every end that is long enough."""
    found = [(-math.inf, 0)]
    for share, handicap in ENDS:
        rows = int(len(values) * share)
        if rows >= 8:
            slope, se = slope_of(np.arange(rows, dtype=np.float64), values[-rows:], noise)
            found.append((slope / max(se, 1e-12) - handicap, len(values) - rows))
    return found


def _block_rises(values: Floats, noise: Noise) -> list[tuple[float, int]]:
    """(z of the last blocks above the second lowest one, row of the lowest).

    sqrt(2 ln blocks) is what the lowest of so many means lies below their mean by chance.
    """
    found = []
    for blocks in BLOCKS:
        size = len(values) // blocks
        if size < 2:
            continue
        means = block_means(values[len(values) - size * blocks :], size)
        se = max(noise.mean_se(size), 1e-9)
        row = len(values) - size * (blocks - int(np.argmin(means[:-1])))
        for last in (1, 2, 4):
            second = float(np.sort(means[:-last])[1])
            rise = float(np.mean(means[-last:])) - second
            z = rise / (se * math.sqrt(1 + 1 / last)) - math.sqrt(2 * math.log(blocks))
            found.append((z, row))
    return found


def _last_row(values: Floats) -> float:
    """Standard errors by which the last row stands above the 40 rows before the last four."""
    before = values[-44:-4] if len(values) > 12 else values[:-1]
    return (float(values[-1]) - median(before)) / max(noise_of(values).sd, 1e-9)


def _levels(values: Floats, exploded: bool) -> tuple[float, int, float]:
    """(best level, its middle row, level at the end), as logarithms.

    The larger rise of two sizes of blocks: small ones see a late leap, large ones a slow climb.
    The second lowest block is the best level, as one lucky block is none.
    """
    n, found = len(values), []
    for size, tail in ((max(3, n // 20), max(3, n // 10)), (max(5, n // 10), max(5, n // 5))):
        count = max(2, n // size)
        size = n // count
        means = block_means(values, size)
        at = int(np.argsort(means)[1 if count > 3 else 0])
        end = float(np.mean(values[-tail:]))
        found.append((end - float(means[at]), float(means[at]), at * size + size // 2, end))
    _, best, row, end = max(found)
    return best, row, max(end, float(values[-1])) if exploded else end


def _leap(values: Floats, rows: int) -> tuple[float, int]:
    """(largest difference of the medians of neighbouring stretches, row of the leap).

    Medians, so that a spike of a few rows is none. The first tenth does not count: R-CNN losses
    leap there as foreground is found.
    """
    levels = running_medians(values, rows)
    steps = levels[rows:] - levels[:-rows]
    skip = len(values) // 10
    if len(steps) <= skip:
        return 0.0, len(values) - 1
    at = skip + int(np.argmax(steps[skip:]))
    return float(steps[at]), min(at + rows, len(values) - 1)


def _recovering(curve: LossCurve, noise: Noise) -> bool:
    quarter = max(len(curve) // 4, 4)
    slope, se = slope_of(np.arange(quarter, dtype=np.float64), curve.pool[-quarter:], noise)
    start = median(curve.total[: max(3, len(curve) // 20)])
    return slope < -4 * se and median(curve.total[-quarter:]) < start
