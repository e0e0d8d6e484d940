"""What several checks need of a loss curve: logarithms, noise, effective iterations, one pool.

A loss is judged in its logarithm: its noise is close to Gaussian there and does not shrink with
the level (39 real runs: excess kurtosis 0.2, lag-1 autocorrelation near 0). Heads are pooled
because their noise is nearly independent: the pool has about half the noise of the total.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from d2check.checks._words import counted
from d2check.model import Series

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MAD_TO_SD = 1.4826
WARMUP_FACTOR = 0.001  # SOLVER.WARMUP_FACTOR's default, the intercept of an unfinished warm-up
HEAD_WEIGHT_CAP = 0.5  # one quiet head must not stand for the model
ROWS_FOR_TRENDS = 4096  # longer curves are averaged in blocks: a trend has no use for more
ROWS_FOR_NOISE = 8192  # differences that tell a standard deviation to 1 %
PRIOR_PHI, PRIOR_ROWS = 0.08, 60  # autocorrelation of real raw rows, and how much that counts
DECAY_STEP = 0.6  # a rate below this share of the peak ends the stretch at the base rate


@dataclass(frozen=True, eq=False)
class LossCurve:
    """The losses of one run on common rows, up to the first row that is not finite.

    iterations: int64[n]. effective: float64[n], the iterations so far counted by lr / peak lr.
    total, pool: float64[n], natural logarithms. heads: name -> float64[n], the same.
    lr: float64[n] or None. every: iterations between rows. statistic as in Series.
    """

    iterations: Ints
    effective: Floats
    total: Floats
    pool: Floats
    heads: Mapping[str, Floats]
    lr: Floats | None
    every: float
    raw: bool

    def __len__(self) -> int:
        return len(self.total)

    @property
    def span(self) -> tuple[int, int]:
        """First and last iteration."""
        return int(self.iterations[0]), int(self.iterations[-1])

    def rows(self, keep: slice | NDArray[np.bool_]) -> LossCurve:
        """The same curve on some of its rows."""
        return LossCurve(
            self.iterations[keep],
            self.effective[keep],
            self.total[keep],
            self.pool[keep],
            {name: values[keep] for name, values in self.heads.items()},
            None if self.lr is None else self.lr[keep],
            self.every,
            self.raw,
        )


@dataclass(frozen=True)
class Noise:
    """sd: of one row. vif: how many rows count as one, by autocorrelation (1.0 is white)."""

    sd: float
    vif: float

    def mean_se(self, rows: float) -> float:
        """Standard error of the mean of so many rows."""
        return self.sd * float(np.sqrt(self.vif / max(rows, 1.0)))


def robust_sd(residual: Floats) -> float:
    """Standard deviation that a few outliers do not move: MAD, then winsorised at 2.5.

    The second step brings the efficiency from 37 % (MAD) to about 90 % of a Gaussian sd.
    """
    around = residual - median(residual)
    sd = MAD_TO_SD * median(np.abs(around))
    if sd <= 0:
        return float(np.std(residual))
    clipped = np.minimum(np.maximum(around, -2.5 * sd), 2.5 * sd)
    return math.sqrt(float(clipped @ clipped) / len(clipped)) * 1.0226  # .978 when clipped so


def median(values: Floats) -> float:
    """Median of values of which none is NaN; a fifth of np.median's time on some hundred."""
    half = len(values) // 2
    ordered = np.partition(values, half)
    if len(values) % 2:
        return float(ordered[half])
    return 0.5 * float(ordered[:half].max() + ordered[half])


def noise_of(values: Floats, usual: float = PRIOR_PHI) -> Noise:
    """Noise of a curve around whatever smooth course it takes, from its differences.

    Lag-1 and lag-2 differences have variance 2 s^2 (1 - phi) and 2 s^2 (1 - phi^2), so their
    ratio gives phi; it is shrunk towards the usual one because 100 rows hardly show it.
    """
    lag1, seen, n = _lags_of(values)
    if seen is None:
        return Noise(lag1, 1.0)
    phi = max((n * seen + PRIOR_ROWS * usual) / (n + PRIOR_ROWS), 0.0)
    return Noise(lag1 / math.sqrt(2 * (1 - phi)), (1 + phi) / (1 - phi))


@lru_cache(maxsize=4)
def usual_phi(curve: LossCurve) -> float:
    """Correlation of neighbouring rows that the heads of a run show together, without unit.

    Their noise is nearly independent, so five heads tell phi as well as five times the rows: of
    100 rows correlated by 0.6, one curve alone is taken for one correlated by 0.4.
    """
    told = [(n, seen) for _, seen, n in map(_lags_of, curve.heads.values()) if seen is not None]
    rows = sum(n for n, _ in told)
    return (sum(n * seen for n, seen in told) + PRIOR_ROWS * PRIOR_PHI) / (rows + PRIOR_ROWS)


def _lags_of(values: Floats) -> tuple[float, float | None, int]:
    """(sd of lag-1 differences, or of few rows; phi that lag-2 ones tell, if any; rows).

    That of a curve's own arrays, which nobody can write to, is kept: several checks ask for it.
    """
    if values.flags.writeable or len(values) > ROWS_FOR_TRENDS:
        return _lags(values)
    known = _LAGS.get(id(values))
    if known is None:
        known = values, _lags(values)  # holding the array keeps its id its own
        while len(_LAGS) >= _LAGS_KEPT:
            _LAGS.popitem(last=False)
        _LAGS[id(values)] = known
    return known[1]


_LAGS: OrderedDict[int, tuple[Floats, tuple[float, float | None, int]]] = OrderedDict()
_LAGS_KEPT = 64


def _lags(values: Floats) -> tuple[float, float | None, int]:
    n = len(values)
    if n < 4:
        return float(np.std(values)), None, n
    every = -(-n // ROWS_FOR_NOISE)
    lag1 = robust_sd((values[1:] - values[:-1])[::every])
    lag2 = robust_sd((values[2:] - values[:-2])[::every])
    if lag1 <= 0:
        return 0.0, None, n
    return lag1, min(max((lag2 / lag1) ** 2 - 1.0, -0.3), 0.6), n


def loss_curve(
    total: Series,
    losses: Mapping[str, Series] | None = None,
    lr: Series | None = None,
    base_lr: float | None = None,
) -> LossCurve | str:
    """The curve that loss checks work on, or why there is none (a phrase for the user).

    Several checks of one run ask for the same one, so the last few are kept.
    """
    return _curve_of(total, tuple((losses or {}).items()), lr, base_lr)


@lru_cache(maxsize=4)
def _curve_of(
    total: Series, losses: tuple[tuple[str, Series], ...], lr: Series | None, base_lr: float | None
) -> LossCurve | str:
    finite = np.isfinite(total.values)
    stop = len(total) if finite.all() else int(np.argmin(finite))
    step = independent_step(total)
    rows = slice((stop - 1) % step, stop, step)  # views: of a million rows no copies are kept
    values, iterations = total.values[rows], total.iterations[rows]
    if len(values) < 2:
        return f"only {counted(len(values), 'row')} with a finite total_loss"
    if values.min() <= 0:
        return "total_loss is not positive everywhere, so relative changes mean nothing"
    logs = np.log(values)
    heads = _head_logs(dict(losses), iterations)
    for array in (logs, *heads.values()):
        array.flags.writeable = False
    rates = aligned(lr, iterations) if lr is not None and len(lr) else None
    pool = pooled(logs, heads)
    pool.flags.writeable = False
    return LossCurve(
        iterations,
        effective_iterations(iterations, rates, base_lr),
        logs,
        pool,
        heads,
        rates,
        median(np.diff(iterations).astype(np.float64)),
        total.statistic == "raw",
    )


def independent_step(series: Series) -> int:
    """Every how many rows two values share no iteration (1 unless windows overlap)."""
    return max(1, round(series.window / max(series.every, 1)))


def aligned(series: Series, iterations: Ints) -> Floats:
    """float64[n]: the values of a series at other iterations, linear between its samples."""
    return np.interp(iterations, series.iterations, series.values)


def _head_logs(losses: Mapping[str, Series], iterations: Ints) -> dict[str, Floats]:
    heads: dict[str, Floats] = {}
    for name, series in losses.items():
        if len(series) < len(iterations) // 2:
            continue
        values = _at(series, iterations)
        if values is None or not np.isfinite(values).all():
            continue
        positive = values > 0
        if positive.mean() < 0.95:
            continue
        heads[name] = np.log(np.maximum(values, 0.01 * median(values[positive])))
    return heads


def _at(series: Series, iterations: Ints) -> Floats | None:
    if len(series) == len(iterations) and series.iterations[0] == iterations[0]:
        return series.values
    where = np.searchsorted(series.iterations, iterations)
    where = np.minimum(where, len(series) - 1)
    if np.mean(series.iterations[where] == iterations) < 0.98:
        return None
    return aligned(series, iterations)


def pooled(total: Floats, heads: Mapping[str, Floats]) -> Floats:
    """float64[n]: heads' logarithms weighted by 1 / noise^2, no head above half."""
    if len(heads) < 2:
        return total
    weights = []
    for values in heads.values():
        noise = noise_of(values)
        weights.append(1.0 / max(noise.sd**2 * noise.vif, 1e-6))
    share = np.array(weights) / sum(weights)
    for _ in range(3):
        capped = np.minimum(share, HEAD_WEIGHT_CAP)
        share = capped / capped.sum()
    return np.asarray(sum(w * values for w, values in zip(share, heads.values(), strict=True)))


def effective_iterations(iterations: Ints, lr: Floats | None, base_lr: float | None) -> Floats:
    """float64[n]: iterations so far, each counted by its rate's share of the peak rate.

    The peak is the highest of base_lr, the observed rates, and what an unfinished linear
    warm-up from Detectron2's default factor is heading for. 100 iterations of a 1,000-iteration
    warm-up are 5 effective ones.
    """
    between = np.diff(iterations).astype(np.float64)
    gaps = np.maximum(np.concatenate([[median(between)], between]), 0.0)
    if lr is None or not np.isfinite(lr).all() or lr.max() <= 0:
        return np.cumsum(gaps)
    peak = max(float(lr.max()), base_lr or 0.0)
    if base_lr is None:
        peak = max(peak, warmup_target(iterations, lr) or 0.0)
    return np.cumsum(gaps * np.clip(lr / peak, 0.0, 1.0))


def warmup_target(iterations: Ints, lr: Floats) -> float | None:
    """The rate that a linear warm-up still in progress is heading for, if this is one."""
    if len(lr) < 3 or lr[-1] <= lr[0]:
        return None
    slope = (lr[-1] - lr[0]) / (iterations[-1] - iterations[0])
    line = lr[0] + slope * (iterations - iterations[0])
    if np.max(np.abs(lr - line)) > 0.005 * lr[-1]:
        return None
    start = lr[0] - slope * iterations[0]
    if start <= 0 or start > 0.05 * lr[-1]:
        return None
    return float(start / WARMUP_FACTOR)


@lru_cache(maxsize=4)
def for_trends(curve: LossCurve) -> LossCurve:
    """The curve with at most ROWS_FOR_TRENDS rows, each the mean of a block of rows."""
    size = -(-len(curve) // ROWS_FOR_TRENDS)
    if size == 1:
        return curve
    return LossCurve(
        curve.iterations[size - 1 :: size][: len(curve) // size],
        curve.effective[size - 1 :: size][: len(curve) // size],
        block_means(curve.total, size),
        block_means(curve.pool, size),
        {name: block_means(values, size) for name, values in curve.heads.items()},
        None if curve.lr is None else block_means(curve.lr, size),
        curve.every * size,
        curve.raw,
    )


@lru_cache(maxsize=4)
def at_base_rate(curve: LossCurve) -> LossCurve:
    """The rows from the start to the first drop of the rate below DECAY_STEP of its peak."""
    if curve.lr is None or curve.lr.max() <= 0:
        return curve
    peak = int(np.argmax(curve.lr))
    dropped = np.flatnonzero(curve.lr[peak:] < DECAY_STEP * curve.lr[peak])
    return curve.rows(slice(0, peak + int(dropped[0]))) if len(dropped) else curve


def block_means(values: Floats, size: int) -> Floats:
    """float64[n // size]: means of consecutive blocks, a shorter last one left out."""
    count = len(values) // size
    return np.asarray(values[: count * size].reshape(count, size).mean(axis=1))


def winsorised(values: Floats, fitted: Floats, sd: float, limit: float = 3.5) -> Floats:
    """The values with their distance from a fit limited to so many standard deviations."""
    return fitted + np.clip(values - fitted, -limit * sd, limit * sd)


def slope_of(x: Floats, y: Floats, noise: Noise) -> tuple[float, float]:
    """Slope of y over x and its standard error, least squares with outliers drawn in."""
    centred = x - x.mean()
    spread = float(centred @ centred)
    if spread <= 0:
        return 0.0, float("inf")
    slope = float(centred @ y) / spread
    drawn = winsorised(y, y.mean() + slope * centred, max(noise.sd, 1e-9))
    slope = float(centred @ drawn) / spread
    return slope, noise.sd * float(np.sqrt(noise.vif / spread))


def quartile_sd(residual: Floats) -> float:
    """Standard deviation from the quartiles of a residual: half of the rows may be anything."""
    low, high = np.percentile(residual, (25, 75))
    return max(float(high - low) / 1.349, 1e-9)


def smooth(values: Floats, rows: int) -> Floats:
    """float64[n]: running median over an odd number of rows, ends repeated."""
    half = rows // 2
    return running_medians(np.pad(values, half, mode="edge"), 2 * half + 1)


def running_medians(values: Floats, rows: int) -> Floats:
    """float64[n - rows + 1]: median of every stretch of so many rows; none may be NaN."""
    half = rows // 2
    windows = np.lib.stride_tricks.sliding_window_view(values, rows)
    if rows % 2:
        return np.asarray(np.partition(windows, half, axis=1)[:, half])
    ordered = np.partition(windows, (half - 1, half), axis=1)
    return np.asarray(0.5 * (ordered[:, half - 1] + ordered[:, half]))
