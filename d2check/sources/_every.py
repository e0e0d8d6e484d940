"""How far apart rows lie."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def every_of(iterations: Sequence[int] | NDArray[np.int64], single: int = 1) -> int:
    """Iterations between two rows, as most rows have it; `single` where there are no two rows."""
    return int(np.median(np.diff(iterations))) if len(iterations) > 1 else single
