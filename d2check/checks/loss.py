"""What the total loss does: falls, stops falling, rises, swings, leaps, ceases to be a number."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from d2check.checks._curve import (
    Floats,
    LossCurve,
    Noise,
    for_trends,
    loss_curve,
    noise_of,
    slope_of,
    smooth,
    winsorised,
)
from d2check.model import Ending, EndingKind, Measurement, Scalar, Series

FALL_SCALE = 30.0  # effective iterations; losses fall about linearly in ln(1 + e / 30)
LATE_SCALE = 20.0
DECAY_STEP = 0.6  # a rate below this share of the one before begins a new segment
CHANCE_OF_TWO = math.log(2)  # cross entropy of a coin: masks, proposals, one class


# ------------------------------------------------------------------------------ falling


def loss_fall(
    total: Series,
    losses: Mapping[str, Series] | None = None,
    lr: Series | None = None,
    base_lr: float | None = None,
    *,
    min_effective: float = 25.0,
    min_rows: int = 8,
) -> Measurement:
    """By what share the loss has fallen since the start, and how surely.

    value: share of the best supported fall among the total, the pool of its heads and every
    head (0.4 = fell by 40 %; negative = rose), from least squares on ln(1 + e / 30), e effective
    iterations. extras: z (fall / standard error), upper (share that the total or the pool may
    have fallen at most, one standard error up), fell (name of the curve), effective.

    Undecided where a fall cannot be expected yet, or no longer: fewer than min_effective
    effective iterations, or a start at a trained level, unless the fall is plain (z > 5).
    """
    curve = loss_curve(total, losses, lr, base_lr)
    if isinstance(curve, str):
        return Measurement(None, undecided=curve)
    if len(curve) < min_rows:
        return Measurement(None, undecided=f"only {len(curve)} rows; {min_rows} are needed")
    curve = for_trends(curve)
    x = np.log1p(curve.effective / FALL_SCALE)
    reach = float(x[-1] - x[0])
    best_z, best_fall, best_name, upper = -math.inf, 0.0, "total_loss", -math.inf
    for name, values in {"total_loss": curve.total, "pool": curve.pool, **curve.heads}.items():
        slope, se = slope_of(x, values, noise_of(values))
        fall, fall_se = -slope * reach, max(se * reach, 1e-12)
        if name in ("total_loss", "pool"):
            upper = max(upper, fall + fall_se)
        if fall / fall_se > best_z:
            best_z, best_fall, best_name = fall / fall_se, fall, name
    effective = float(curve.effective[-1])
    extras: dict[str, Scalar] = {
        "z": best_z,
        "upper": -math.expm1(-upper),
        "fell": best_name,
        "effective": effective,
        "first": math.exp(float(np.median(curve.total[: max(3, len(curve) // 10)]))),
        "last": math.exp(float(np.median(curve.total[-max(3, len(curve) // 10) :]))),
    }
    undecided = None
    if best_z < 5 or best_fall < 0.03:
        undecided = _why_no_fall_is_expected(curve, effective, min_effective)
    return Measurement(-math.expm1(-best_fall), "share", curve.span, extras, undecided)


def _why_no_fall_is_expected(
    curve: LossCurve, effective: float, min_effective: float
) -> str | None:
    if effective < min_effective:
        return (
            f"only {effective:.0f} effective iterations so far: the rate is in warm-up or near zero"
        )
    trained = _trained_level(curve)
    if trained:
        return f"the run begins at a trained level ({trained}), as after a restart from its weights"
    return None


def _trained_level(curve: LossCurve) -> str | None:
    """Which head says that training had been done before the first row, in words."""
    rows = slice(0, max(2, len(curve) // 10))
    for name, below in (("loss_mask", 0.6), ("loss_cls", 0.6)):
        if name in curve.heads:
            level = math.exp(float(np.median(curve.heads[name][rows])))
            if level < below * CHANCE_OF_TWO:
                return f"{name} starts at {level:.2g}"
    return None


def late_fall(
    total: Series,
    losses: Mapping[str, Series] | None = None,
    lr: Series | None = None,
    base_lr: float | None = None,
    *,
    se_margin: float = 2.2,
    min_effective: float = 60.0,
    min_rows: int = 40,
) -> Measurement:
    """How much the loss can still have fallen, at most, over the second half at its base rate.

    value: upper bound of that fall (share of the loss, se_margin standard errors up). extras:
    expected (share that it would have fallen had the early fall gone on, in ln(20 + e)), ratio
    (value / expected), early (fall of the first half), late. Only the stretch up to the first
    drop of the rate is looked at: a tail after a decay is a finished schedule, not a plateau.
    """
    curve = loss_curve(total, losses, lr, base_lr)
    if isinstance(curve, str):
        return Measurement(None, undecided=curve)
    curve = for_trends(at_base_rate(curve))
    if len(curve) < min_rows or curve.effective[-1] < min_effective:
        return Measurement(
            None,
            undecided=f"only {len(curve)} rows and {curve.effective[-1]:.0f} effective iterations "
            "at the base rate",
        )
    x = np.log(LATE_SCALE + curve.effective)
    noise = noise_of(curve.pool)
    half = len(curve) // 2
    early_slope, _ = slope_of(x[:half], curve.pool[:half], noise)
    late_slope, late_se = slope_of(x[half:], curve.pool[half:], noise)
    reach = float(x[-1] - x[half])
    early = -early_slope * float(x[half] - x[0])
    late, upper = -late_slope * reach, (-late_slope + se_margin * late_se) * reach
    expected = max(-early_slope * reach, 0.0)
    extras: dict[str, Scalar] = {
        "early": -math.expm1(-early),
        "late": -math.expm1(-late),
        "expected": -math.expm1(-expected),
        "ratio": upper / expected if expected > 0 else math.inf,
        "since": int(curve.iterations[half]),
        "effective": float(curve.effective[-1]),
    }
    span = (int(curve.iterations[half]), int(curve.iterations[-1]))
    return Measurement(-math.expm1(-upper), "share", span, extras)


def at_base_rate(curve: LossCurve) -> LossCurve:
    """The rows from the start to the first drop of the rate below DECAY_STEP of its peak."""
    if curve.lr is None or curve.lr.max() <= 0:
        return curve
    peak = int(np.argmax(curve.lr))
    dropped = np.flatnonzero(curve.lr[peak:] < DECAY_STEP * curve.lr[peak])
    return curve.rows(slice(0, peak + int(dropped[0]))) if len(dropped) else curve


# ------------------------------------------------------------------------------ rising


def loss_rise(
    total: Series,
    losses: Mapping[str, Series] | None = None,
    lr: Series | None = None,
    base_lr: float | None = None,
    ending: Ending | None = None,
    *,
    min_rows: int = 12,
) -> Measurement:
    """How far the end of the loss stands above its best level, and how surely.

    value: ratio of the level at the end to the lowest level before it (1.0 = ends at its best;
    3.0 = three times as high). extras: z (standard errors, less what picking the lowest of so
    many blocks gives by chance), best, best_at, end, recovering ("yes" where the last quarter
    falls again and the end is below the start), dip ("yes" where the low level was the one in
    which an R-CNN calls everything background, which is healthy).

    A run that ended in NaN is also judged by its very last rows; else a few high rows at the end
    could be a spike.
    """
    curve = loss_curve(total, losses, lr, base_lr)
    if isinstance(curve, str):
        return Measurement(None, undecided=curve)
    if len(curve) < min_rows:
        return Measurement(None, undecided=f"only {len(curve)} rows; {min_rows} are needed")
    curve = for_trends(curve)
    noise, pool_noise = noise_of(curve.total), noise_of(curve.pool)
    exploded = ending is not None and ending.kind is EndingKind.NON_FINITE
    rises = [_block_rise(curve.pool, blocks, pool_noise) for blocks in (10, 20, 40)]
    rises += [_block_rise(curve.total, blocks, noise) for blocks in (10, 20, 40)]
    rises += [_end_slope(curve.pool, share, pool_noise) for share in (0.6, 0.45, 0.3, 0.2)]
    rises = [r for r in rises if r is not None]
    z, start, size = max((r for r in rises if r is not None), default=(-math.inf, 0, 1))
    if exploded:
        z = max(z, _last_rows(curve.total, noise))
    best = _lowest_level(curve.total, max(3, len(curve) // 20))
    tail = max(1 if exploded else 3, min(size, len(curve) // 10))
    end = float(np.mean(curve.total[-tail:]))
    extras: dict[str, Scalar] = {
        "z": z,
        "best": math.exp(best[0]),
        "best_at": int(curve.iterations[best[1]]),
        "end": math.exp(end),
        "recovering": "yes" if _recovering(curve, noise) else "no",
        "dip": "yes" if _background_dip(curve, best[1]) else "no",
    }
    span = (int(curve.iterations[min(start, len(curve) - 1)]), int(curve.iterations[-1]))
    return Measurement(math.exp(min(end - best[0], 700.0)), "ratio", span, extras)


def _block_rise(values: Floats, blocks: int, noise: Noise) -> tuple[float, int, int] | None:
    """Z of the last one to four blocks above the second lowest one, selection taken off."""
    size = len(values) // blocks
    if size < 2:
        return None
    used = values[len(values) - size * blocks :].reshape(blocks, size)
    means = used.mean(axis=1)
    se = max(noise.mean_se(size), 1e-9)
    best = -math.inf
    for last in (1, 2, 4):
        before = np.sort(means[: blocks - last])
        if len(before) < 3:
            continue
        rise = float(np.mean(means[-last:]) - before[1])
        z = rise / (se * math.sqrt(1 + 1 / last)) - math.sqrt(2 * math.log(blocks))
        best = max(best, z)
    lowest = int(np.argmin(means[: blocks - 1]))
    return best, len(values) - size * (blocks - lowest), size


def _end_slope(values: Floats, share: float, noise: Noise) -> tuple[float, int, int] | None:
    rows = int(len(values) * share)
    if rows < 12:
        return None
    x = np.arange(rows, dtype=np.float64)
    slope, se = slope_of(x, values[-rows:], noise)
    return slope / max(se, 1e-12) - 1.2, len(values) - rows, max(3, rows // 6)


def _last_rows(values: Floats, noise: Noise) -> float:
    level = float(np.median(values[-min(len(values), 40) : -4])) if len(values) > 8 else values[0]
    return (float(values[-1]) - level) / max(noise.sd * math.sqrt(noise.vif), 1e-9)


def _lowest_level(values: Floats, size: int) -> tuple[float, int]:
    """Second lowest of the means of blocks (one lucky block is no level), and its middle row."""
    count = max(2, len(values) // size)
    size = len(values) // count
    means = values[: count * size].reshape(count, size).mean(axis=1)
    at = int(np.argsort(means)[min(1, count - 1)])
    return float(means[at]), at * size + size // 2


def _recovering(curve: LossCurve, noise: Noise) -> bool:
    quarter = max(len(curve) // 4, 4)
    slope, se = slope_of(np.arange(quarter, dtype=np.float64), curve.pool[-quarter:], noise)
    start = float(np.median(curve.total[: max(3, len(curve) // 20)]))
    return slope < -4 * se and float(np.median(curve.total[-quarter:])) < start


def _background_dip(curve: LossCurve, lowest: int) -> bool:
    """ROI losses collapse and come back while the proposals improve: foreground is being found.

    Seen in 4 of 233 real runs, all healthy.
    """
    if "loss_box_reg" not in curve.heads or "loss_cls" not in curve.heads:
        return False
    n = len(curve)
    size = max(2, n // 20)
    lowest = min(max(lowest, size), n - size)
    around = slice(max(0, lowest - size), lowest + size)
    box, ends = curve.heads["loss_box_reg"], slice(n - 2 * size, n)
    box_rise = float(np.median(box[ends]) - np.median(box[around]))
    others = [v for k, v in curve.heads.items() if k not in ("loss_box_reg", "loss_cls")]
    risen = max((float(np.median(v[ends]) - np.median(v[around])) for v in others), default=1.0)
    start = float(np.median(curve.total[: max(2, n // 20)]))
    end = float(np.median(curve.total[ends]))
    return box_rise > 0.5 and risen < 0.1 and end < start and lowest < 0.6 * n


# ------------------------------------------------------------------------------ swinging


def loss_swing(
    total: Series,
    losses: Mapping[str, Series] | None = None,
    *,
    min_rows: int = 60,
    slow_terms: int = 9,
) -> Measurement:
    """The amplitude of the strongest regular swing of the loss around its course.

    value: relative amplitude (0.2 = plus and minus 20 %). extras: surprise (-log10 of the
    probability that noise of this colour makes such a peak anywhere in the spectrum), cycles,
    period (iterations), noise_ratio (amplitude / noise of one row). The null is an AR(1)-shaped
    spectrum with the level of its lower 70 %, so that the swing itself does not raise it.
    """
    curve = loss_curve(total, losses)
    if isinstance(curve, str):
        return Measurement(None, undecided=curve)
    if len(curve) < min_rows:
        return Measurement(None, undecided=f"only {len(curve)} rows; {min_rows} are needed")
    n = len(curve)
    best: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    for values in (curve.pool, curve.total):
        residual = _without_course(values, min(slow_terms, max(5, n // 40)))
        noise = robust_sd_of(residual)
        swing = _strongest_swing(winsorised(residual, np.zeros(n), noise), noise)
        best = max(best, swing)
    surprise, amplitude, cycles, ratio = best
    extras: dict[str, Scalar] = {
        "surprise": surprise,
        "cycles": cycles,
        "period": n * curve.every / cycles if cycles else None,
        "noise_ratio": ratio,
    }
    return Measurement(amplitude, "share", curve.span, extras)


def robust_sd_of(residual: Floats) -> float:
    """Standard deviation from the quartiles of a residual."""
    low, high = np.percentile(residual, (25, 75))
    return max(float(high - low) / 1.349, 1e-9)


def _without_course(values: Floats, terms: int) -> Floats:
    """float64[n]: the residual of a few slow cosines and a logarithmic trend."""
    n = len(values)
    row = np.arange(n, dtype=np.float64)
    basis = [np.cos(np.pi * k * (row + 0.5) / n) for k in range(terms)]
    basis.append(np.log1p(row / max(n / 50, 2.0)))
    matrix = np.stack(basis, axis=1)
    weights = np.linalg.solve(matrix.T @ matrix + 1e-9 * n * np.eye(terms + 1), matrix.T @ values)
    return np.asarray(values - matrix @ weights)


def _strongest_swing(residual: Floats, noise: float) -> tuple[float, float, float, float]:
    """(surprise, amplitude, cycles, amplitude / noise) of the best peak of the spectrum."""
    n = len(residual)
    window = np.hanning(n + 2)[1:-1]
    power = np.abs(np.fft.rfft(residual * window)) ** 2 / float(window @ window)
    cycles = np.arange(len(power), dtype=np.float64)
    shape = 1.0 / np.abs(1 - 0.28 * np.exp(-2j * np.pi * cycles / n)) ** 2
    first = max(4, int(0.015 * n) if n > 400 else 4)
    white = (power / shape)[first:-1]
    if len(white) < 10:
        return 0.0, 0.0, 0.0, 0.0
    lower = np.sort(white)[: int(0.7 * len(white))]
    level = max(float(lower.mean()) / 0.4840, 1e-18)  # mean of an exponential's lower 70 %
    white = white / level
    best = (0.0, 0.0, 0.0, 0.0)
    for width in (1, 3, 7, 15):
        if len(white) < 3 * width:
            break
        sums = np.convolve(white, np.ones(width), "valid")
        at = int(np.argmax(sums))
        bins = width / 1.5  # a Hann window couples neighbours
        surprise = -_log10_gamma_tail(
            max(1, round(bins)), float(sums[at]) / width * max(1, round(bins))
        )
        surprise -= math.log10(len(white))
        peak = slice(at + first, at + first + width)
        share = float(np.sum(power[peak] - level * shape[peak])) * 2 / n
        amplitude = math.sqrt(max(2 * share, 0.0))
        if surprise > best[0]:
            best = (
                surprise,
                amplitude,
                float(np.average(cycles[peak], weights=power[peak])),
                amplitude / noise,
            )
    return best


def _log10_gamma_tail(shape: int, x: float) -> float:
    """log10 P(sum of `shape` unit exponentials > x)."""
    terms = np.cumsum(np.log(np.maximum(x, 1e-300)) - np.log(np.arange(1, shape)))
    logs = np.concatenate(([0.0], terms))
    top = float(logs.max())
    return (top + math.log(float(np.exp(logs - top).sum())) - x) / math.log(10)


# ------------------------------------------------------------------------------ leaping


def loss_spikes(
    total: Series,
    losses: Mapping[str, Series] | None = None,
    *,
    window: int = 15,
    skip_first: int = 8,
    skip_last: int = 4,
    counted_above: float = 2.9,
) -> Measurement:
    """The highest single leap of the loss above its neighbourhood, as a ratio.

    value: loss / running median of the highest row. extras: z (leap / noise), spikes (runs of
    rows above counted_above and 5.5 noise), at (iteration of the highest), per_thousand. Raw rows
    only: a median of 20 iterations does not show a leap of fewer than ten.
    """
    if total.statistic != "raw":
        return Measurement(None, undecided="medians of several iterations hide spikes")
    curve = loss_curve(total, losses)
    if isinstance(curve, str):
        return Measurement(None, undecided=curve)
    n = len(curve)
    if n < skip_first + skip_last + window:
        return Measurement(None, undecided=f"only {n} rows")
    rows = slice(skip_first, n - skip_last)
    leap = (curve.total - smooth(curve.total, window))[rows]
    noise = robust_sd_of(leap)
    at = int(np.argmax(leap))
    high = leap > max(math.log(counted_above), 5.5 * noise)
    starts = int(np.sum(high[1:] & ~high[:-1]) + high[0])
    extras: dict[str, Scalar] = {
        "z": float(leap[at]) / noise,
        "spikes": starts,
        "at": int(curve.iterations[skip_first + at]),
        "per_thousand": 1000.0 * starts / n,
    }
    return Measurement(math.exp(float(leap[at])), "ratio", curve.span, extras)


# ------------------------------------------------------------------------------ not a number


def non_finite(
    total: Series | None = None,
    losses: Mapping[str, Series] | None = None,
    ending: Ending | None = None,
    lr: Series | None = None,
    base_lr: float | None = None,
) -> Measurement:
    """How many loss values are NaN or infinite, a run ended by such a value counted as one.

    value: count. extras: at (first iteration), series (name of the first), rate_share (rate
    there / peak rate: near zero means data or weights, a large share means the rate),
    finite_rows (rows before it).
    """
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
    extras: dict[str, Scalar] = {
        "at": first,
        "series": name,
        "rate_share": _rate_share(lr, base_lr, first),
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
