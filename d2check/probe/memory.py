"""Memory of the training process, cheap enough for every iteration."""

from __future__ import annotations

import os
from typing import Any

MIB = 2.0**20


class HostMemory:
    """Resident memory of this process (its loader workers not counted), MiB."""

    def __init__(self) -> None:
        """Keep /proc/self/statm open where there is one; `resource` serves elsewhere."""
        self._page = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
        try:
            self._file: int | None = os.open("/proc/self/statm", os.O_RDONLY)
        except OSError:
            self._file = None

    def rss_mib(self) -> float | None:
        """Resident memory now; its peak where the system tells no more (macOS); None on Windows."""
        if self._file is not None:
            pages = int(os.pread(self._file, 128, 0).split()[1])
            return round(pages * self._page / MIB, 2)
        try:
            import resource
        except ImportError:
            return None
        return float(round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB, 2))


def cuda_memory(cuda: Any, device: Any) -> dict[str, Any]:
    """The `memory` of an iteration's record. Peaks are those since the process began.

    The nested form of the statistics: flattening them, as `memory_stats` does, takes ten times
    longer than asking for them. They are the allocator's own and need no synchronisation.
    """
    stats = cuda.memory_stats_as_nested_dict(device=device)
    allocated, reserved = stats["allocated_bytes"]["all"], stats["reserved_bytes"]["all"]
    return {
        "allocated_mib": round(allocated["current"] / MIB, 2),
        "reserved_mib": round(reserved["current"] / MIB, 2),
        "peak_allocated_mib": round(allocated["peak"] / MIB, 2),
        "peak_reserved_mib": round(reserved["peak"] / MIB, 2),
        "retries": stats["num_alloc_retries"],
        "ooms": stats["num_ooms"],
    }
