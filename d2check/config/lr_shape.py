"""The shape of a learning rate read from its values alone, for runs without a config.

A warm-up is an initial straight rise or a low plateau; what follows is read by `lr_decay`. Where
several readings fit the rows, all are named.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from d2check.config.curves import Floats
from d2check.config.lr_decay import After, Decay, decays, roundest

Warmup = Literal["linear", "constant", "none", "unseen"]

_NO_RATE = 1e30  # a damaged value; fits to it overflow
_STRAIGHT = 0.004  # a rise may be off its line by this share of the peak
_MOST_CANDIDATES = 8
_HIGHEST_PEAK = 10.0  # no published Detectron2 config comes near; rules out readings such as 1000
# Warm-up factors and lengths to try where few rows leave them open, the commonest first: 0.001 over
# 1,000 iterations is Detectron2's default.
_FACTORS = (1e-3, 1e-2, 0.1, 1 / 3, 1e-4, 1e-5, 1e-6, 0.0)
_LENGTHS = (1000, 500, 100, 200, 300, 2000, 5000, 250, 1500, 3000, 10000, 400, 600, 800, 2500, 4000)


@dataclass(frozen=True)
class LrShape:
    """What kind of schedule some rates come from.

    warmup: `unseen` where the rows begin late, or too few to tell. warmup_iters, warmup_factor: its
    length and the share of the peak that it starts from; None where the rows do not tell. peak: the
    rate that the warm-up leads to (BASE_LR, unless a decay lowers it). after: what follows the
    warm-up; `unseen` where the rows end inside it or are too few. steps: iterations at which the
    rate drops, each the roundest that the rows around it allow; gamma: the factor, where all drops
    share it. length: where a cosine or polynomial ends (MAX_ITER); end: the rate there. power: of a
    polynomial. progress: last rate / peak. residual: largest deviation, as a share of the peak.
    candidates: all readings that fit about as well, this one first; empty when it is the only one.
    """

    warmup: Warmup
    after: After
    peak: float | None = None
    warmup_iters: int | None = None
    warmup_factor: float | None = None
    steps: tuple[int, ...] = ()
    gamma: float | None = None
    length: int | None = None
    end: float | None = None
    power: float | None = None
    progress: float | None = None
    residual: float = 0.0
    candidates: tuple[LrShape, ...] = ()


def describe_lr(iterations: NDArray[np.int64] | Sequence[int], values: Floats) -> LrShape:
    """The shape of recorded rates.

    iterations: int64[n], increasing; values: float64[n] as logged (full precision, five digits or
    six decimals; the rounding is allowed for). One row is enough for a reading, though rarely for
    a single one. Rows that follow no schedule known are `irregular`.
    """
    t, v = np.asarray(iterations, np.float64), np.asarray(values, np.float64)
    known = np.isfinite(v)
    t, v = t[known], v[known]
    if not len(t):
        return LrShape("unseen", "unseen")
    if v.max() <= 0 or v.min() < 0 or v.max() > _NO_RATE:
        return LrShape("unseen", "irregular")
    rounding = _rounding(v)
    jump = _plateau_end(v, rounding)
    rise = 0 if jump else _rise_end(v, rounding)
    if len(t) == 1 or rise == len(t) - 1:
        found = _inside_warmup(t, v, rounding)
    elif rise > 0:
        found = _behind_rise(t, v, rise, rounding)
    else:
        found = _behind_plateau(t, v, jump, rounding)
    progress = [replace(f, progress=float(v[-1]) / f.peak if f.peak else None) for f in found]
    return replace(progress[0], candidates=tuple(progress) if len(progress) > 1 else ())


def _rounding(v: Floats) -> Floats:
    """How far each printed value may be from the true one: float64[n]."""
    if all(float(f"{x:.5g}") == x for x in v[:2000]):
        # fastreid prints three digits; two rates that need no more prove nothing.
        three = len(np.unique(v)) > 2 and all(float(f"{x:.3g}") == x for x in v[:2000])
        five = 0.5 * 10.0 ** (np.floor(np.log10(np.maximum(v, 1e-300))) - (2 if three else 4))
        if np.all(v == np.round(v, 6)):  # logs before v0.3; indistinguishable above 0.01
            five = np.maximum(five, 5e-7)
        return np.asarray(five, np.float64)
    return 1e-9 * v


def _rise_end(v: Floats, rounding: Floats) -> int:
    """Index of the row where the initial rise reaches its top; 0 when the rate does not rise first.

    Printed digits make a slow rise stand still for some rows, so that only a fall ends it.
    """
    falls = np.flatnonzero(np.diff(v) < -(rounding[1:] + rounding[:-1]))
    rising = v[: int(falls[0]) + 1] if len(falls) else v
    if rising.max() - v[0] <= 2 * rounding[0]:
        return 0
    top = rising.max() - 1.5 * rounding[int(rising.argmax())]
    return int(np.flatnonzero(rising >= top)[0])


def _plateau_end(v: Floats, rounding: Floats) -> int:
    """Index of the first row after a constant warm-up; 0 when there is none.

    Flat, or (before v0.4 and in poly schedules) falling with the decay, then one jump up.
    """
    jumps = np.flatnonzero(v[1:] > 1.2 * v[:-1] + rounding[1:] + rounding[:-1]) + 1
    if len(jumps) != 1 or jumps[0] < 2:
        return 0
    before = v[: jumps[0]]
    return 0 if np.any(np.diff(before) > 2 * rounding[: jumps[0] - 1]) else int(jumps[0])


def _shape(warmup: Warmup, decay: Decay, iters: int | None, factor: float | None) -> LrShape:
    return LrShape(warmup, warmup_iters=iters, warmup_factor=factor, **asdict(decay))


# ------------------------------------------------------------------------------ behind a warm-up


def _behind_rise(t: Floats, v: Floats, rise: int, rounding: Floats) -> list[LrShape]:
    """Readings of a rise with something after it.

    The last row of the rise may already lie behind the warm-up: the straighter reading wins.
    """
    found: list[LrShape] = []
    for start in (rise, rise + 1):
        for decay in decays(t[start:], v[start:], rounding[start:]):
            if decay.after != "irregular":
                found += (
                    _one_row_warmups(t, v, decay, rounding)
                    if start == 1
                    else _joined(t, v, start, decay, rounding)
                )
    if not found:
        return [LrShape("linear", "irregular", peak=float(v.max()), residual=1.0)]
    least = min(shape.residual for shape in found)
    alike = [shape for shape in found if shape.residual <= max(3 * least, 1e-7)]
    # The first of equals: fewer rows taken for the warm-up, the commoner factor.
    unique = {(s.after, s.warmup_iters, s.warmup_factor): s for s in reversed(alike)}
    return list(unique.values())[: -_MOST_CANDIDATES - 1 : -1]


def _one_row_warmups(t: Floats, v: Floats, decay: Decay, rounding: Floats) -> list[LrShape]:
    """Warm-ups with whole lengths through their only row; else it stays open which it was."""
    share, blur = v[0] / decay.peak, rounding[0] / decay.peak
    found = []
    for factor in _FACTORS:
        if share - blur <= factor:
            continue
        shortest = (1 - factor) * t[0] / (share + blur - factor)
        longest = (1 - factor) * t[0] / (share - blur - factor)
        iters = round(0.5 * (shortest + longest))
        if shortest - 1e-3 <= iters <= longest + 1e-3 and t[0] < iters <= t[1]:
            found.append(_shape("linear", decay, iters, factor))
    return found or [_shape("unseen", decay, None, None)]


def _joined(t: Floats, v: Floats, start: int, decay: Decay, rounding: Floats) -> list[LrShape]:
    """A warm-up over the rows before `start` and a decay from there; none if it is not straight."""
    if decay.peak <= 0:  # the rate is zero right after its rise
        return []
    rising, rates = t[:start], v[:start]
    best: tuple[float, float, float] | None = None
    # Since v0.4 the warm-up is a line to the rate at its end; before, it multiplied the decay.
    for divisor in (np.ones(start), decay.at(rising) / decay.peak):
        line = rates / divisor
        slope = (line[-1] - line[0]) / (rising[-1] - rising[0])
        origin = line[0] - slope * rising[0]
        away = float(np.abs((origin + slope * rising) * divisor - rates).max()) / decay.peak
        if slope > 0 and (best is None or away < best[0]):
            end = _meeting(origin, slope, decay, bool(np.all(divisor == 1)))
            best = (away, end, origin)
    if best is None or best[0] > max(_STRAIGHT, 2 * float(rounding.max()) / decay.peak):
        return []
    away, end, origin = best
    slack = max(2 * float(rounding.max()) * (t[start] - t[0]) / (v[start - 1] - v[0]), 0.51)
    if t[start - 1] - slack <= end <= t[start] + slack:
        iters = roundest(max(end - slack, t[start - 1]), min(end + slack, t[start]))
    else:  # a step between the last row of the warm-up and the next row
        iters = roundest(t[start - 1] + 1e-9, t[start])
    shape = _shape("linear", decay, iters, _usual_factor(origin / decay.peak))
    return [replace(shape, residual=max(away, decay.residual))]


def _meeting(origin: float, slope: float, decay: Decay, additive: bool) -> float:
    """The iteration at which the rising line reaches the decay (or, multiplied, the peak)."""
    end = (decay.peak - origin) / slope
    if additive:
        for _ in range(20):  # a slow decay against a steep line: converges at once
            end = (float(decay.at(np.array([end]))[0]) - origin) / slope
    return end


def _behind_plateau(t: Floats, v: Floats, jump: int, rounding: Floats) -> list[LrShape]:
    """Readings of rates that begin flat or falling: a constant warm-up up to `jump`, or none."""
    readings = decays(t[jump:], v[jump:], rounding[jump:])
    if not jump:
        return [_shape("none" if t[0] == 0 else "unseen", d, None, None) for d in readings]
    iters = roundest(t[jump - 1] + 1e-9, t[jump])
    return [
        _shape("constant", d, iters, _usual_factor(float(v[0]) / float(d.at(t[:1])[0])))
        for d in readings
    ]


def _usual_factor(share: float) -> float:
    """A warm-up factor, as the usual number where it is one within 3 %."""
    near = [f for f in _FACTORS if abs(share - f) <= max(0.03 * f, 2e-6)]
    return near[0] if near else float(f"{max(share, 0.0):.3g}")


# -------------------------------------------------------------------------------- inside a warm-up


def _inside_warmup(t: Floats, v: Floats, rounding: Floats) -> list[LrShape]:
    """A rate that only rises, or one row: several warm-ups pass through it."""
    found = list(_warmup_readings(t, v, rounding))
    if len(t) == 1 and float(f"{v[0]:.2g}") == float(f"{v[0]:.10g}"):
        # A round rate is likelier the rate itself; not where warm-ups begin.
        found.insert(0 if t[0] else len(found), LrShape("unseen", "unseen", peak=float(v[0])))
    if not found and len(t) > 1:
        # A person writes 0.00025 sooner than 0.000196.
        found = sorted(_unusual_factors(t, v, rounding), key=lambda one: not _two_digits(one))
    if not found and len(t) > 2:
        # The last row may be the first one behind the warm-up: then it lies well below the line.
        slope = (v[-2] - v[0]) / (t[-2] - t[0])
        if v[0] + slope * (t[-1] - t[0]) - v[-1] > _STRAIGHT * v[-1]:
            return _behind_rise(t, v, len(t) - 2, rounding)
    return found[:_MOST_CANDIDATES] or [LrShape("linear" if len(t) > 1 else "unseen", "unseen")]


def _warmup_readings(t: Floats, v: Floats, rounding: Floats) -> Iterator[LrShape]:
    """Warm-ups to a rate of two digits that pass through every row, the commonest first."""
    for factor, length in _warmups_to_try(t, v, rounding):
        share = factor + (1 - factor) * (t / length if length else t)
        if (length and length <= t[-1]) or not np.all(share > 0):
            continue
        low, high = float(np.max((v - rounding) / share)), float(np.min((v + rounding) / share))
        peak = float(f"{0.5 * (low + high):.2g}")
        # At the very edge of a rounding both neighbours are printed: the last bit decides.
        if low * (1 - 1e-9) <= peak <= high * (1 + 1e-9) and peak <= _HIGHEST_PEAK:
            yield LrShape("linear", "unseen", peak=peak, warmup_iters=length, warmup_factor=factor)


def _unusual_factors(t: Floats, v: Floats, rounding: Floats) -> Iterator[LrShape]:
    """Warm-ups of a usual length to a rate of two digits, from any share of it."""
    slope = (v[-1] - v[0]) / (t[-1] - t[0])
    intercept = v[0] - slope * t[0]
    for length in _LENGTHS:
        end = intercept + slope * length
        if length <= t[-1] or not 0 <= intercept < end:
            continue
        peak = float(f"{end:.2g}")
        rise = (peak - v[0]) / (length - t[0])
        away = np.abs(v[0] + rise * (t - t[0]) - v)
        if np.all(away <= 2 * rounding) and peak <= _HIGHEST_PEAK:
            factor = _usual_factor((v[0] - rise * t[0]) / peak)
            yield LrShape("linear", "unseen", peak=peak, warmup_iters=length, warmup_factor=factor)


def _warmups_to_try(t: Floats, v: Floats, rounding: Floats) -> Iterator[tuple[float, int | None]]:
    if len(t) == 1:
        # At iteration 0 every length gives the same rate.
        lengths = _LENGTHS if t[0] else (None,)
        yield from ((factor, length) for factor in _FACTORS for length in lengths)
        return
    slope = (v[-1] - v[0]) / (t[-1] - t[0])
    intercept = v[0] - slope * t[0]
    off = (rounding[0] + rounding[-1]) / (t[-1] - t[0])
    low, high = intercept - rounding[0] - off * t[0], intercept + rounding[0] + off * t[0]
    for factor in _FACTORS:
        if factor == 0.0:
            yield from ((factor, length) for length in _LENGTHS)
        elif high > 0 and slope > off:
            # The two numbers of a line leave one free: for each factor there is one length, as far
            # as the printed digits tell.
            scale = (1 - factor) / factor
            length = scale * intercept / slope
            shortest, longest = scale * max(low, 0.0) / (slope + off), scale * high / (slope - off)
            near = (
                {round(length), roundest(0.995 * length, 1.005 * length)} if length > 0 else set()
            )
            usual = [n for n in _LENGTHS if shortest <= n <= longest]
            near = near.difference(usual)
            yield from ((factor, n) for n in usual)
            yield from ((factor, n) for n in sorted(near) if n > 0 and _written_short(n))


def _two_digits(shape: LrShape) -> bool:
    factor = shape.warmup_factor or 0.0
    return factor == float(f"{factor:.2g}")


def _written_short(length: int) -> bool:
    """Whether a person may have written it: 1000, 1333, 25000; not 1001000."""
    return length < 10_000 or (length % 1000 == 0 and length < 1_000_000)
