"""Whether numbers of two files are the same ones, as far as either file has digits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# The console prints four digits, three decimals before v0.3, and three digits in some forks.
_ABSOLUTE = 5.1e-4
_DIGITS = (3, 4)
_FLOAT32 = 1e-5  # event files hold float32, of which numbers below this have hardly a digit
_SUBNORMAL = 1.2e-38

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


def same_numbers(mine: Floats, theirs: Floats, *, printed: bool) -> Bools:
    """bool[n]: which of theirs are mine, printed on a console or else as event files hold them."""
    if not printed:
        same: Bools = np.isclose(theirs, mine, rtol=_FLOAT32, atol=_SUBNORMAL, equal_nan=True)
        return same
    near = np.abs(theirs - mine) <= np.maximum(_ABSOLUTE, rounding(theirs))
    found: Bools = near | (np.isnan(mine) & np.isnan(theirs)) | (mine == theirs)
    return found


def rounding(printed: Floats) -> Floats:
    """Half a unit of the last digit of each number, and a tenth more."""
    finite = printed[np.isfinite(printed)].tolist()
    digits = max((len(f"{abs(v):.6e}".split("e")[0].rstrip("0")) - 1 for v in finite), default=4)
    digits = min(max(digits, _DIGITS[0]), _DIGITS[1])
    size = np.floor(np.log10(np.maximum(np.abs(printed), 1e-30)))
    half: Floats = 0.55 * 10.0 ** (size + 1 - digits)
    return half
