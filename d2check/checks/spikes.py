"""Whether the loss leaps and comes back."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from d2check.checks._curve import loss_curve, quartile_sd, smooth
from d2check.checks._words import counted
from d2check.model import Measurement, Scalar, Series


def loss_spikes(
    total: Series,
    losses: Mapping[str, Series] | None = None,
    *,
    window: int = 15,
    skip_first: int = 8,
    skip_last: int = 4,
    counted_above: float = 3.0,
) -> Measurement:
    """The highest leap of the loss above its neighbourhood, as a ratio.

    value: geometric mean ratio of the pooled heads to their running median at the row where it
    is highest. extras: total_ratio (the same of total_loss at that row), z (leap of the pool /
    its noise), total_z, highest_total (highest ratio of total_loss anywhere), highest_total_z,
    spikes (runs of rows in which the pool is above counted_above and 4.5 noise), at (iteration),
    per_thousand. One crowded image moves the total by up to 2.5 times; a spike moves all heads.

    Raw rows only: a median of 20 iterations does not show a leap of fewer than ten.
    """
    if total.statistic != "raw":
        return Measurement(None, undecided="medians of several iterations hide spikes")
    curve = loss_curve(total, losses)
    if isinstance(curve, str):
        return Measurement(None, undecided=curve)
    n = len(curve)
    if n < skip_first + skip_last + window:
        return Measurement(None, undecided=f"only {counted(n, 'row')}")
    rows = slice(skip_first, n - skip_last)
    pool = (curve.pool - smooth(curve.pool, window))[rows]
    whole = (curve.total - smooth(curve.total, window))[rows]
    noise, whole_noise = quartile_sd(pool), quartile_sd(whole)
    at, highest = int(np.argmax(pool)), int(np.argmax(whole))
    high = pool > max(math.log(counted_above), 4.5 * noise)
    starts = int(np.sum(high[1:] & ~high[:-1]) + high[0])
    extras: dict[str, Scalar] = {
        "total_ratio": math.exp(float(whole[at])),
        "z": float(pool[at]) / noise,
        "total_z": float(whole[at]) / whole_noise,
        "highest_total": math.exp(float(whole[highest])),
        "highest_total_z": float(whole[highest]) / whole_noise,
        "spikes": starts,
        "at": int(curve.iterations[skip_first + at]),
        "per_thousand": 1000.0 * starts / n,
    }
    return Measurement(math.exp(float(pool[at])), "ratio", curve.span, extras)
