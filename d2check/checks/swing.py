"""Whether the loss swings: a regular oscillation around its course."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from d2check.checks._curve import (
    Floats,
    LossCurve,
    loss_curve,
    quartile_sd,
    robust_sd,
    winsorised,
)
from d2check.checks._words import counted
from d2check.model import Measurement, Scalar, Series

PRIOR_ROWS = 500  # real rows are near white (median lag-1 autocorrelation -0.01)
PHI_RANGE = (-0.05, 0.2)
APART_PRIOR_ROWS, APART_RANGE = 60, (-0.3, 0.65)  # of heads without what they have in common
HEADS_FOR_COLOUR = 5
WIDTHS = (1, 2, 3, 5, 7, 11, 15)  # bins that a swing of wandering period may fill
LOWER = 0.7  # share of the spectrum that sets the level of the noise
FIRST_CYCLES = 4
ROWS_AT_ONCE = 65_536  # the spectrum of more is taken in pieces: a million rows need no more memory
NINE_IN_TEN = 1.645  # standard deviations
LEVEL_CERTAINTY = 0.35  # independent ordinates that the level is worth, per bin: coupled, trimmed


def loss_swing(
    total: Series,
    losses: Mapping[str, Series] | None = None,
    lr: Series | None = None,
    base_lr: float | None = None,
    *,
    min_rows: int = 60,
    slow_terms: int = 9,
) -> Measurement:
    """The amplitude of the strongest regular swing of the pooled losses around their course.

    value: relative amplitude (0.2 = plus and minus 20 %). extras: surprise (-log10 of the
    probability that noise makes such a peak anywhere in the spectrum), cycles, period
    (iterations), noise_ratio (amplitude / spread of the rows), scatter (standard deviation of
    total_loss around its course, natural logarithm), within (share of its course within which
    nine rows of ten lie, 0.3 = plus 30 %).

    Periodogram (Hann) of the residual of slow cosines and of an early fall, over an AR(1) null
    whose level is set by the lower 70 % of the ordinates, so that the swing itself does not raise
    it; peaks are summed over 1 to 15 bins and compared with the tail of such sums. Of very long
    runs it is the swing of the piece in which it is strongest, and the span is that piece's.
    """
    curve = loss_curve(total, losses, lr, base_lr)
    if isinstance(curve, str):
        return Measurement(None, undecided=curve)
    n = len(curve)
    if n < min_rows:
        return Measurement(None, undecided=f"only {counted(n, 'row')}; {min_rows} are needed")
    pieces = -(-n // ROWS_AT_ONCE)
    edges = np.linspace(0, n, pieces + 1).astype(int)
    found = [_swing_of(curve.rows(slice(begin, end)), slow_terms) for begin, end in pairwise(edges)]
    best = max(found, key=lambda one: float(one.extras["surprise"] or 0.0))
    # The strongest of several pieces is less of a surprise than that of one.
    surprise = max(float(best.extras["surprise"] or 0.0) - math.log10(pieces), 0.0)
    return replace(best, extras={**best.extras, "surprise": surprise}) if pieces > 1 else best


def _swing_of(curve: LossCurve, slow_terms: int) -> Measurement:
    n = len(curve)
    residual, of_total = _without_course((curve.pool, curve.total), curve.effective, slow_terms)
    surprise, amplitude, cycles = _strongest(residual, _colour(curve, residual))
    scatter = float(np.std(of_total))
    extras: dict[str, Scalar] = {
        "scatter": scatter,
        "within": math.expm1(NINE_IN_TEN * scatter),
        "surprise": surprise,
        "cycles": cycles,
        "period": n * curve.every / cycles if cycles else None,
        "noise_ratio": amplitude / quartile_sd(residual),
    }
    return Measurement(amplitude, "share", curve.span, extras)


def _without_course(curves: Sequence[Floats], effective: Floats, terms: int) -> list[Floats]:
    """float64[n] each: residuals of slow cosines and two early falls, outliers drawn in."""
    n = len(effective)
    basis = np.empty((terms + 2, n))
    basis[:terms] = _slow_cosines(n, terms)
    np.log1p(effective / 10, out=basis[terms])
    np.exp(effective / -15, out=basis[terms + 1])
    solver = np.linalg.inv(basis @ basis.T + 1e-7 * n * np.eye(len(basis)))
    residuals = []
    for values in curves:
        fitted = (solver @ (basis @ values)) @ basis
        drawn = winsorised(values, fitted, quartile_sd(values - fitted))
        rest = values - (solver @ (basis @ drawn)) @ basis
        limit = 3.5 * quartile_sd(rest)
        residuals.append(np.asarray(np.minimum(np.maximum(rest, -limit), limit)))
    return residuals


@lru_cache(maxsize=2)
def _slow_cosines(n: int, terms: int) -> Floats:
    """float64[terms, n]: cosines of 0, 1, 2 ... half turns over the rows."""
    row = np.arange(n, dtype=np.float64) + 0.5
    return np.asarray(np.cos(np.pi / n * np.arange(terms)[:, None] * row))


def _strongest(residual: Floats, phi: float) -> tuple[float, float, float]:
    """(surprise, amplitude, cycles) of the most surprising peak over AR(1) noise."""
    n = len(residual)
    window = np.hanning(n + 2)[1:-1]
    power = np.abs(np.fft.rfft(residual * window)) ** 2 / float(window @ window)
    colour = _null_shape(n, len(power), phi)
    use = slice(FIRST_CYCLES, len(power) - 1)
    ratio = power[use] / colour[use]
    lower = np.sort(ratio)[: int(LOWER * len(ratio))]
    level = max(float(lower.mean()) / _mean_of_lower(LOWER), 1e-18)
    ratio = ratio / level
    level_shape = LEVEL_CERTAINTY * len(ratio)
    best = (0.0, 0.0, 0.0)
    for width in WIDTHS:
        if len(ratio) < 3 * width:
            break
        sums = np.convolve(ratio, np.ones(width), "valid")
        at = int(np.argmax(sums))
        independent = max(1, round(width / 1.5))  # a Hann window couples neighbouring bins
        tail = _log10_tail(independent, float(sums[at]) / width * independent, level_shape)
        surprise = -tail - math.log10(len(ratio))
        if surprise > best[0]:
            peak = slice(FIRST_CYCLES + at, FIRST_CYCLES + at + width)
            above = float(np.sum(power[peak] - level * colour[peak]))
            bins = np.arange(peak.start, peak.stop, dtype=np.float64)
            cycles = float(np.average(bins, weights=power[peak]))
            best = (surprise, math.sqrt(max(4 * above / n, 0.0)), cycles)
    return best


def _colour(curve: LossCurve, residual: Floats) -> float:
    """Correlation of neighbouring rows, other than by a swing.

    A swing moves all heads alike, so what is left of a head without the pool has none: its lag-1
    and lag-2 differences tell phi (see noise_of). With one curve only, a swing cannot be told
    from coloured noise so; then phi is drawn strongly towards white.
    """
    n, names = len(curve), list(curve.heads)
    if len(names) < 2:
        seen = float(residual[1:] @ residual[:-1]) / max(float(residual @ residual), 1e-18)
        return min(max(n * seen / (n + PRIOR_ROWS), PHI_RANGE[0]), PHI_RANGE[1])
    found = []
    for name in names[:: -(-len(names) // HEADS_FOR_COLOUR)]:
        apart = curve.heads[name] - curve.pool
        lag1, lag2 = robust_sd(apart[1:] - apart[:-1]), robust_sd(apart[2:] - apart[:-2])
        if lag1 > 0:
            found.append((lag2 / lag1) ** 2 - 1)
    seen = float(np.median(found)) if found else 0.0
    return min(max(n * seen / (n + APART_PRIOR_ROWS), APART_RANGE[0]), APART_RANGE[1])


def _null_shape(n: int, bins: int, phi: float) -> NDArray[np.float64]:
    """float64[bins]: spectrum of AR(1) noise of unit innovations in n rows."""
    turn = np.cos(2 * np.pi / n * np.arange(bins))
    return np.asarray(1.0 / (1 + phi * phi - 2 * phi * turn))


def _mean_of_lower(share: float) -> float:
    """Mean of the lower share of unit exponentials."""
    edge = -math.log(1 - share)
    return (1 - (1 + edge) * math.exp(-edge)) / share


def _log10_tail(shape: int, x: float, level_shape: float) -> float:
    """log10 P(sum of `shape` unit exponentials > x times a level known as well as that of so many).

    The level of the noise is estimated from the same spectrum: of 100 rows it is uncertain by a
    quarter, which makes high peaks commoner than a Gamma tail says. For a known level (level_shape
    infinite) this is that tail; else a negative binomial sum.
    """
    ratio = x / level_shape
    j = np.arange(shape)
    logs = (
        np.array([math.lgamma(level_shape + k) - math.lgamma(k + 1) for k in j])
        - math.lgamma(level_shape)
        + j * math.log(max(ratio, 1e-300))
        - (level_shape + j) * math.log1p(ratio)
    )
    top = float(logs.max())
    return min((top + math.log(float(np.exp(logs - top).sum()))) / math.log(10), 0.0)
