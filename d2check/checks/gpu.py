"""Who else uses the GPU."""

from __future__ import annotations

from d2check.model import Measurement, Scalar, Series


def shared_gpu(others_busy: Series, *, computes: float = 0.05, min_looks: int = 3) -> Measurement:
    """Share of the looks at the GPU that found another process computing on it.

    others_busy: share of the seconds before a look in which the busiest other process had kernels
    there. computes: from which share on it counts. extras: busy (mean of that process's shares
    where it computed), looks (how many there were).
    """
    values = others_busy.values
    if len(values) < min_looks:
        return Measurement(None, undecided=f"the GPU was looked at only {len(values)} times")
    found = values[values >= computes]
    extras: dict[str, Scalar] = {
        "busy": float(found.mean()) if len(found) else 0.0,
        "looks": len(values),
    }
    span = (int(others_busy.iterations[0]), int(others_busy.iterations[-1]))
    return Measurement(len(found) / len(values), "share", span, extras)
