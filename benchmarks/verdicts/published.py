"""Published rules on loss curves, from their definitions, for comparison side by side.

Each takes the values of total_loss, row by row, and returns the flags that it would raise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def loss_not_decreasing(
    loss: Floats, steps: int = 10, in_a_row: int = 1, percent: float = 0.1
) -> set[str]:
    """SageMaker Debugger's LossNotDecreasing: less than 0.1 % down within ten steps."""
    loss = _finite(loss)
    marks = loss[::steps]
    slow = (marks[:-1] - marks[1:]) / np.abs(marks[:-1]) < percent / 100
    if len(slow) < in_a_row:
        return set()
    return {"not_decreasing"} if sliding_window_view(slow, in_a_row).all(axis=1).any() else set()


def five_in_a_row(loss: Floats) -> set[str]:
    """The same, five times running."""
    return loss_not_decreasing(loss, in_a_row=5)


def autotrainer(
    loss: Floats, epoch: int = 10, zeta: float = 0.03, eta: float = 0.2, delta: float = 0.01
) -> set[str]:
    """AUTOTRAINER's unstable, slow and exploding rules, an epoch being ten rows.

    Unstable: neighbouring tops and feet differ by zeta in a share eta of the epochs. Slow: no
    epoch gains delta. Of the accuracy in the original, here of the loss / its first value.
    """
    if not np.isfinite(loss).all() or loss.max() >= 1e3:
        return {"nan"}
    count = len(loss) // epoch
    if count < 3:
        return set()
    means = loss[: count * epoch].reshape(count, epoch).mean(axis=1)
    means = means / means[0]
    step = np.diff(means)
    tops = means[1:-1][(step[:-1] >= 0) & (step[1:] <= 0)]
    feet = means[1:-1][(step[:-1] <= 0) & (step[1:] >= 0)]
    pairs = min(len(tops), len(feet))
    flags = set()
    if (tops[:pairs] - feet[:pairs] >= zeta).sum() >= eta * count:
        flags.add("oscillation")
    if (-step).max() < delta:
        flags.add("not_decreasing")
    return flags


def patience(loss: Floats, rows: int = 50, min_delta: float = 1e-4) -> set[str]:
    """Keras' EarlyStopping and ReduceLROnPlateau: no new best for so many rows."""
    best, waited = np.inf, 0
    for value in loss:
        if not np.isfinite(value):
            return {"nan"}
        best, waited = (value, 0) if value < best - min_delta else (best, waited + 1)
        if waited >= rows:
            return {"plateau", "not_decreasing"}
    return set()


def three_sigma(loss: Floats, window: int = 20, sds: float = 3.0) -> set[str]:
    """A row above the rolling mean by three standard deviations."""
    if not np.isfinite(loss).all():
        return {"nan"}
    if len(loss) <= window:
        return set()
    before = sliding_window_view(loss, window)[:-1]
    above = loss[window:] > before.mean(axis=1) + sds * before.std(axis=1)
    return {"spikes"} if above.any() else set()


def first_against_last(loss: Floats, share: float = 0.1) -> set[str]:
    """The mean of the last tenth against that of the first."""
    if not np.isfinite(loss).all():
        return {"nan"}
    rows = max(5, int(len(loss) * share))
    ratio = loss[-rows:].mean() / loss[:rows].mean()
    return {"divergence", "not_decreasing"} if ratio > 1.2 else (
        {"not_decreasing"} if ratio > 0.95 else set()
    )  # fmt: skip


def _finite(loss: Floats) -> Floats:
    good = np.isfinite(loss)
    return loss if good.all() else loss[: int(np.argmin(good))]


PUBLISHED: Mapping[str, Callable[[Floats], set[str]]] = {
    "SageMaker LossNotDecreasing": loss_not_decreasing,
    "the same, 5 in a row": five_in_a_row,
    "AUTOTRAINER, 10 rows": autotrainer,
    "Keras patience 50": patience,
    "rolling mean + 3 sd": three_sigma,
    "first tenth against last": first_against_last,
}
