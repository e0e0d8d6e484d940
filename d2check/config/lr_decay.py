"""What a learning rate does behind its warm-up, read from values alone.

Families (constant, steps, cosine, polynomial, exponential) fitted on a grid of schedule lengths; a
fit counts when no row is further off than 0.4 % of the peak.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from d2check.config.curves import Floats

After = Literal["constant", "step", "cosine", "poly", "exponential", "irregular", "unseen"]

_ACCEPTED = 0.004
_GRID = 240  # lengths tried, up to _LONGEST times the last iteration seen
_LONGEST = 30.0
_MAX_STEPS = 12
_FEW_ROWS = 4  # below, any two-parameter family fits anything


@dataclass(frozen=True)
class Decay:
    """One reading of the rates behind the warm-up; the fields are those of `LrShape`."""

    after: After
    peak: float
    steps: tuple[int, ...] = ()
    gamma: float | None = None
    length: int | None = None
    end: float | None = None
    power: float | None = None
    residual: float = 0.0

    def at(self, t: Floats) -> Floats:
        """The rate of this reading; only of those that have a closed form, else the peak."""
        if self.after == "cosine" and self.length and self.end is not None:
            half = 0.5 * (1 + np.cos(math.pi * np.minimum(t / self.length, 1.0)))
            return np.asarray(self.end + (self.peak - self.end) * half, np.float64)
        if self.after == "poly" and self.length and self.power is not None:
            return np.asarray(
                self.peak * np.maximum(1 - t / self.length, 0.0) ** self.power, np.float64
            )
        return np.full(t.shape, self.peak)


def decays(t: Floats, v: Floats, rounding: Floats) -> tuple[Decay, ...]:
    """All readings that fit about as well, best first; never empty.

    t: iterations, v: rates, rounding: how far each may be from the true one; float64[n], n > 0.
    """
    peak = tidy(float(v.max()))
    if len(t) < 2:
        return (Decay("unseen", peak),)
    # Equal rates are printed equal: rounding can hide a slow decay, never fake one.
    drops = np.flatnonzero(np.abs(np.diff(v)) > 1e-9 * v[:-1]) + 1
    if not len(drops):
        return (Decay("constant", peak),)
    stairs = _stairs(t, v, drops)
    if stairs is not None:
        return (stairs,)
    if len(t) < _FEW_ROWS:
        return (Decay("irregular" if np.any(np.diff(v) > 0) else "unseen", peak),)
    # Relative precision is lost where a printed rate comes near its last digit.
    precise = v > 20 * rounding
    tp, vp = (t[precise], v[precise]) if precise.sum() >= _FEW_ROWS else (t[:0], v[:0])
    tried = (_cosine(t, v), _poly(tp, vp), _exponential(tp, vp))
    accepted = max(_ACCEPTED, 2 * float(rounding.max()) / peak)
    fits = [fit for fit in tried if fit is not None and fit.residual <= accepted]
    fits.sort(key=lambda fit: fit.residual)
    if not fits:
        return (Decay("irregular", peak, residual=1.0),)
    limit = max(3 * fits[0].residual, 2 * float(rounding.max()) / peak)
    return tuple(f for f in fits if f.residual <= limit)


def _stairs(t: Floats, v: Floats, drops: NDArray[np.int64]) -> Decay | None:
    """A rate that is constant between a few drops."""
    factors = v[drops] / v[drops - 1]
    flat_rows = len(v) - 1 - len(drops)
    if len(drops) > _MAX_STEPS or np.any(factors >= 1):
        return None
    # A smooth decay changes at every row, and by little.
    if flat_rows < len(drops) and np.any(factors > 0.7):
        return None
    steps = tuple(roundest(t[i - 1] + 1e-9, t[i]) for i in drops)
    alike = np.ptp(factors) < 0.01 * factors.max()
    gamma = float(f"{np.median(factors):.3g}") if alike else None
    return Decay("step", tidy(float(v[0])), steps=steps, gamma=gamma)


def _best_length(t: Floats, deviation: Callable[[float], float]) -> float:
    """The schedule length of least deviation: a grid, then golden section around its best."""
    grid = (t[-1] + 1) * (1 + np.geomspace(1e-3, _LONGEST, _GRID) - 1e-3)
    best = int(np.argmin([deviation(float(length)) for length in grid]))
    low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, len(grid) - 1)])
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if deviation(left) <= deviation(right):
            high = right
        else:
            low = left
    refined = 0.5 * (low + high)
    slack = 0.5 + 2e-4 * refined
    options = [float(roundest(refined - slack, refined + slack)), float(round(refined)), refined]
    tried = [(deviation(x), x) for x in (*options, float(grid[best])) if x > t[-1]]
    least = min(tried)[0]
    # The rounder length wins unless it fits visibly worse.
    return next(x for d, x in tried if d <= max(1.05 * least, 1e-7))


def _thinned(t: Floats, v: Floats, most: int = 400) -> tuple[Floats, Floats]:
    keep = np.unique(np.linspace(0, len(t) - 1, min(len(t), most)).astype(int))
    return t[keep], v[keep]


def _cosine(t: Floats, v: Floats) -> Decay | None:
    thin_t, thin_v = _thinned(t, v)
    scale = float(v.max())

    def level_and_amplitude(length: float) -> tuple[float, float]:
        c = np.cos(math.pi * thin_t / length)
        spread = c - c.mean()
        amplitude = float(spread @ thin_v / (spread @ spread)) if spread.any() else 0.0
        return float(thin_v.mean() - amplitude * c.mean()), amplitude

    def deviation(length: float) -> float:
        level, amplitude = level_and_amplitude(length)
        away = np.abs(level + amplitude * np.cos(math.pi * thin_t / length) - thin_v)
        # A cosine never ends below zero; a length for which it would is no reading.
        below = max(amplitude - level - 1e-6 * scale, 0.0)
        return float(away.max() + below) / scale

    length = _best_length(t, deviation)
    level, amplitude = level_and_amplitude(length)
    if amplitude <= 0:
        return None
    away = np.abs(level + amplitude * np.cos(math.pi * t / length) - v).max() / scale
    end = level - amplitude
    return Decay(
        "cosine", tidy(level + amplitude), length=round(length),
        end=0.0 if end < 1e-5 * scale else tidy(end), residual=float(away),
    )  # fmt: skip


def _poly(t: Floats, v: Floats) -> Decay | None:
    if not len(v):
        return None
    thin_t, thin_v = _thinned(t, v)
    log_v, weight, scale = np.log(thin_v), thin_v / thin_v.sum(), float(v.max())

    def base_and_power(length: float) -> tuple[float, float]:
        """Log of the base, and the power: a line in log-log, weighted as errors of rates count."""
        x = np.log1p(-thin_t / length)
        middle = float(weight @ x)
        spread = weight * (x - middle)
        power = float(spread @ log_v / (spread @ x)) if spread.any() else 0.0
        return float(weight @ log_v - power * middle), power

    def deviation(length: float) -> float:
        base, power = base_and_power(length)
        away = np.exp(base + power * np.log1p(-thin_t / length)) - thin_v
        return float(np.abs(away).max()) / scale

    length = _best_length(t, deviation)
    base, power = base_and_power(length)
    if not 0.05 < power < 20:
        return None
    peak = math.exp(base)
    away = np.abs(peak * np.maximum(1 - t / length, 0) ** power - v).max() / v.max()
    return Decay(
        "poly", tidy(peak), length=round(length), end=0.0, power=float(f"{power:.3g}"),
        residual=float(away),
    )  # fmt: skip


def _exponential(t: Floats, v: Floats) -> Decay | None:
    if not len(v):
        return None
    log_v, spread = np.log(v), t - t.mean()
    rate = float(spread @ log_v / (spread @ spread))
    if rate >= 0:
        return None
    base = float(log_v.mean() - rate * t.mean())
    away = np.abs(np.exp(base + rate * t) - v).max() / v.max()
    return Decay("exponential", tidy(math.exp(base)), residual=float(away))


def roundest(low: float, high: float) -> int:
    """The roundest whole number in [low, high]: 1000 before 990 before 987.

    Where the range holds no whole number, the one just above `low`.
    """
    first, last = math.ceil(low), math.floor(high)
    if first >= last:
        return first
    for power in range(len(str(last)), -1, -1):
        for leading in (5, 2, 1):
            unit: int = leading * 10**power
            if last // unit * unit >= first:
                return last // unit * unit
    return last


def tidy(value: float) -> float:
    """Without the last bits that a fit or a sum leaves: 0.020000000000000004 -> 0.02."""
    return float(f"{value:.10g}")
