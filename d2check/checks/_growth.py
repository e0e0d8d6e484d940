"""How steadily an amount rises."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Rise:
    """What the means of equal blocks of values tell.

    per_iteration: slope. z: slope / standard error. rising_blocks: share of the steps from block
    to block that go up. amount: last mean less the first. steady: slope from the middle third to
    the last one, over that from the first to the middle one; 1 where it goes on as it began, None
    where it did not begin.
    """

    per_iteration: float
    z: float
    rising_blocks: float
    amount: float
    steady: float | None

    @property
    def certain_per_iteration(self) -> float:
        """The slope less three standard errors; the slope itself where it falls."""
        return self.per_iteration * (1 - 3 / self.z) if self.z > 0 else self.per_iteration


def rise_of(iterations: NDArray[np.float64], values: NDArray[np.float64], blocks: int) -> Rise:
    """The rise of `values` seen at `iterations`; two or more for each block."""
    rest = len(values) % blocks
    usable = values[rest:].reshape(blocks, -1)
    means, at = usable.mean(axis=1), iterations[rest:].reshape(blocks, -1).mean(axis=1)
    noise = float(np.median(usable.std(axis=1))) / math.sqrt(usable.shape[1])
    away = at - at.mean()
    spread = math.sqrt(float(away @ away))
    slope = float(away @ means) / spread**2
    third = blocks // 3
    parts = slice(0, third), slice(third, blocks - third), slice(blocks - third, blocks)
    (x0, x1, x2), (y0, y1, y2) = ([float(v[part].mean()) for part in parts] for v in (at, means))
    return Rise(
        per_iteration=slope,
        z=slope / max(noise / spread, 1e-12),
        rising_blocks=float((np.diff(means) > 0).mean()),
        amount=float(means[-1] - means[0]),
        steady=(y2 - y1) / (x2 - x1) / ((y1 - y0) / (x1 - x0)) if y1 > y0 else None,
    )
