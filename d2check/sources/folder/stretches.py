"""One training whose logs hold a stretch of its iterations each: their series, put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from d2check.model import Series
from d2check.sources._every import every_of

_CLOCK = "wall_s"


def joined(stretches: Sequence[Mapping[str, Series]]) -> dict[str, Series]:
    """The series of all stretches, in the order of their iterations.

    An iteration that two stretches tell of is the later one's, which went on from there. The time
    between two processes is left out of `wall_s`.
    """
    together: dict[str, Series] = {}
    for stretch in stretches:
        for name, series in stretch.items():
            before = together.get(name)
            together[name] = series if before is None else _after(before, series)
    return together


def _after(before: Series, series: Series) -> Series:
    """A series with what another stretch of it told of the iterations before."""
    if not len(series):
        return before
    kept = before.iterations < series.iterations[0]
    if not kept.any():
        return series
    early = replace(before, iterations=before.iterations[kept], values=before.values[kept])
    if series.name == _CLOCK:
        series = replace(series, values=_running_on(early, series))
    iterations = np.concatenate([early.iterations, series.iterations])
    return Series(
        series.name,
        iterations,
        np.concatenate([early.values, series.values]),
        max(every_of(iterations), 1),
        max(early.window, series.window),
        series.statistic,
    )


def _running_on(early: Series, late: Series) -> NDArray[np.float64]:
    """Seconds of the later stretch, as if its process had begun at once."""
    own = late.values - late.values[0]
    steps = np.diff(late.iterations)
    usual = np.diff(own) / steps if len(steps) else np.zeros(1)
    gap = int(late.iterations[0] - early.iterations[-1])
    moved: NDArray[np.float64] = own + early.values[-1] + float(np.median(usual)) * gap
    return moved
