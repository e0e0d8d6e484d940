"""How much memory the host has left, or the container where that has less; and who takes it."""

from __future__ import annotations

import os

from .memory import MIB

PROC = "/proc"
CGROUP = "/sys/fs/cgroup"


class HostMemoryLeft:
    """Looks where the kernel will look before it kills. Linux only; elsewhere nothing is known."""

    def __init__(self) -> None:
        """Find the limits that hold for this process."""
        self._limits = [
            (folder, int(text))
            for folder in _cgroups()
            for text in [_read(os.path.join(folder, "memory.max")).strip()]
            if text.isdigit()
        ]

    def look(self) -> tuple[float, float] | None:
        """(free, total) in MiB, of the tightest limit; None where the system does not tell.

        Free is what the kernel can hand out without killing: its own estimate for the host
        (MemAvailable), and for a container its limit less what it uses beside file caches.
        """
        told = _meminfo()
        if told is None:
            return None
        for folder, limit in self._limits:
            used = _read(os.path.join(folder, "memory.current")).strip()
            if used.isdigit():
                free = (limit - int(used) + _file_caches(folder)) / MIB
                told = min(told, (max(0.0, free), limit / MIB))
        return round(told[0], 1), round(told[1], 1)


class WorkersMemory:
    """Memory of the processes that the training has started: its loader's workers, mostly.

    What they share with others (batches on their way, libraries) is left out, and what they took
    over from the trainer when they were forked is in it from the start, so that it rises by what
    is new alone: by a cache, and not by the copying of inherited pages. Linux only.
    """

    def __init__(self) -> None:
        """Nobody is known yet."""
        self._page_mib = (os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096) / MIB
        self._latest: frozenset[int] = frozenset()
        self._counted: frozenset[int] = frozenset()
        self._sets = 0

    def look(self, processes: list[int]) -> dict[str, float]:
        """`workers_mib`, `worker_processes` and `worker_set`, a number that rises when others come.

        Only of those that the look before has met: a program that was called for a moment is none.
        """
        now = frozenset(processes)
        stayed, self._latest = now & self._latest, now
        if not stayed:
            return {}
        if stayed != self._counted:
            self._counted = stayed
            self._sets += 1
        pages = sum(_own_pages(process) for process in stayed)
        return {
            "workers_mib": round(pages * self._page_mib, 1),
            "worker_processes": len(stayed),
            "worker_set": self._sets,
        }


def _own_pages(process: int) -> int:
    """Resident pages that are of no file and no shared memory; 0 of a process that is gone."""
    figures = _read("%s/%d/statm" % (PROC, process)).split()  # proc(5): size resident shared ...
    return int(figures[1]) - int(figures[2]) if len(figures) > 2 else 0


def _meminfo() -> tuple[float, float] | None:
    found = {}
    for line in _read(PROC + "/meminfo").splitlines()[:8]:
        name, _, rest = line.partition(":")
        if name in ("MemTotal", "MemAvailable"):
            found[name] = int(rest.split()[0]) / 1024.0
    if len(found) < 2:
        return None
    return found["MemAvailable"], found["MemTotal"]


def _cgroups() -> list[str]:
    """The group of this process and all above it (version 2; version 1 has none of these files)."""
    for line in _read(PROC + "/self/cgroup").splitlines():
        if line.startswith("0::/"):
            parts = [part for part in line[3:].strip().split("/") if part and part != ".."]
            groups = [parts[:length] for length in range(len(parts), -1, -1)]
            return [os.path.join(CGROUP, *group) for group in groups]
    return []


def _file_caches(folder: str) -> int:
    caches = 0
    for line in _read(os.path.join(folder, "memory.stat")).splitlines():
        name, _, size = line.partition(" ")
        if name in ("inactive_file", "active_file") and size.isdigit():
            caches += int(size)
    return caches


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except (OSError, ValueError):  # another system, or not for us
        return ""
