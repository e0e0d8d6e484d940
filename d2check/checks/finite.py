"""Whether the weights are still numbers."""

from __future__ import annotations

from d2check.model import Measurement


def broken_weights(groups_not_finite: int) -> Measurement:
    """How many modules or parameters hold NaN or infinity when the training ends."""
    return Measurement(float(groups_not_finite), "groups")
