"""Small loss curves for tests: log-normal noise around a course, seeded."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from d2check.model import Series, Statistic

Floats = NDArray[np.float64]


def series(
    values: Floats | list[float],
    name: str = "total_loss",
    *,
    every: int = 1,
    statistic: Statistic = "raw",
    start: int = 0,
) -> Series:
    """A series from its values; medians summarise 20 iterations each."""
    numbers = np.asarray(values, dtype=np.float64)
    iterations = start + every * np.arange(len(numbers), dtype=np.int64)
    window = 1 if statistic == "raw" else 20
    return Series(name, iterations, numbers, every, window, statistic)


def power_law(start: float, rows: int, *, scale: float = 40.0, power: float = 0.5) -> Floats:
    """A loss that falls as (1 + i / scale)^-power."""
    return start * (1 + np.arange(rows) / scale) ** -power


def noisy(course: Floats, sd: float, seed: int) -> Floats:
    """The course with log-normal noise."""
    return course * np.exp(sd * np.random.default_rng(seed).standard_normal(len(course)))


def mask_rcnn(
    rows: int = 300, sd: float = 0.15, seed: int = 0, **courses: Floats
) -> tuple[Series, dict[str, Series]]:
    """(total, heads) of a Mask R-CNN that learns; a course given by name replaces a head's."""
    heads = {
        "loss_cls": power_law(1.4, rows),
        "loss_box_reg": power_law(0.5, rows, power=0.3),
        "loss_mask": power_law(0.69, rows),
        "loss_rpn_cls": power_law(0.69, rows, power=0.8),
        "loss_rpn_loc": power_law(0.2, rows, power=0.3),
    } | courses
    drawn = {name: noisy(c, sd, 10 * seed + k) for k, (name, c) in enumerate(heads.items())}
    total = np.sum(list(drawn.values()), axis=0)
    return series(total), {name: series(values, name) for name, values in drawn.items()}


def coloured(
    rows: int, phi: float, seed: int, *, sd: float = 0.35, common: float = 0.3
) -> tuple[Series, dict[str, Series]]:
    """(total, heads) that learn, under AR(1) noise of which a part is common to all heads."""
    rng = np.random.default_rng(seed)

    def noise() -> Floats:
        drawn = np.convolve(rng.standard_normal(rows + 60), phi ** np.arange(60))
        return np.sqrt(1 - phi * phi) * drawn[60 : rows + 60]

    shared = noise()
    starts = {"loss_cls": 1.4, "loss_box_reg": 0.5, "loss_mask": 0.7, "loss_rpn_loc": 0.2}
    heads = {}
    for name, start in starts.items():
        own = common * shared + np.sqrt(1 - common**2) * noise()
        heads[name] = series(power_law(start, rows) * np.exp(sd * own), name)
    return series(np.sum([s.values for s in heads.values()], axis=0)), heads
