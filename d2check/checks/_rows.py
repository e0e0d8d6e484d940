"""Rows that two series have in common, and the rank that a series is of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from d2check.model import Series


def in_common(
    one: Series, other: Series
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Iterations that both have, and the values of each there.

    Series of one file nearly always have the same iterations: no copy is made then, which a log
    of gigabytes has no room for.
    """
    if len(one) == len(other) and np.array_equal(one.iterations, other.iterations):
        return one.iterations, one.values, other.values
    common, here, there = np.intersect1d(
        one.iterations, other.iterations, assume_unique=True, return_indices=True
    )
    return common, one.values[here], other.values[there]


def rank_of(name: str) -> int:
    """The rank that a series is of: `rank1/forward_s` is of 1, and rank 0's have no prefix."""
    told = name.partition("/")[0].removeprefix("rank")
    return int(told) if told.isdigit() else 0
