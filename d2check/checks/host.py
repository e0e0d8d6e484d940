"""Whether the host's memory holds."""

from __future__ import annotations

from d2check.model import Measurement, Scalar, Series


def host_headroom(
    free: Series, host_total_mib: float, family: Series | None = None, *, min_looks: int = 3
) -> Measurement:
    """Share of the host's memory that was free when least of it was.

    free: MiB that the kernel could hand out, of the host or of the container, at looks a second or
    more apart. family: MiB of the training with its loader's workers. extras: free_gib, total_gib,
    family_gib (the training's own part, most seen; None where it was not looked at).
    """
    if len(free) < min_looks or host_total_mib <= 0:
        return Measurement(None, undecided=f"memory was looked at only {len(free)} times")
    least = float(free.values.min())
    held = float(family.values.max()) / 1024 if family is not None and len(family) else None
    extras: dict[str, Scalar] = {
        "free_gib": least / 1024,
        "total_gib": host_total_mib / 1024,
        "family_gib": held,
    }
    span = (int(free.iterations[0]), int(free.iterations[-1]))
    return Measurement(least / host_total_mib, "share", span, extras)
