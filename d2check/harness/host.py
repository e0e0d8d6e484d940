"""What the host says of itself: platform, memory, and whether it killed for want of memory."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass, field
from pathlib import Path

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")
# Below this share of the host's memory the kernel is about to kill.
NEARLY_FULL = 0.05


def facts() -> dict[str, str | int | None]:
    """Platform, cores and memory (MiB) of this machine."""
    total_mib, _ = _memory_mib()
    return {
        "system": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "memory_mib": total_mib,
        "memory_limit_mib": _cgroup_limit_mib(),
    }


@dataclass
class MemoryWatch:
    """Compares the kernel's counters of killed processes before and after a run."""

    lowest_share: float = 1.0
    _cgroup_kills: int | None = field(default_factory=lambda: _cgroup_oom_kills())
    _host_kills: int | None = field(default_factory=lambda: _host_oom_kills())

    def sample(self) -> None:
        """Note how much memory is available now. To be called about once a second."""
        total_mib, available_mib = _memory_mib()
        if total_mib and available_mib is not None:
            self.lowest_share = min(self.lowest_share, available_mib / total_mib)

    def evidence(self) -> str | None:
        """What speaks for a kill by the out-of-memory killer since the start, in words."""
        cgroup, host = _cgroup_oom_kills(), _host_oom_kills()
        if cgroup is not None and self._cgroup_kills is not None and cgroup > self._cgroup_kills:
            limit_mib = _cgroup_limit_mib()
            limit = f" of {limit_mib} MiB" if limit_mib else ""
            return f"the container ran out of its memory{limit} (its cgroup counted a kill)"
        if host is not None and self._host_kills is not None and host > self._host_kills:
            return "the host ran out of memory (the kernel's out-of-memory killer was at work)"
        if self.lowest_share < NEARLY_FULL:
            return (
                f"the host was nearly out of memory ({self.lowest_share:.0%} available), "
                "so the kernel's out-of-memory killer is likely"
            )
        return None


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # another system, or not for us
        return ""


def _memory_mib() -> tuple[int | None, int | None]:
    """Total and available memory of the host."""
    text = _read(PROC / "meminfo")
    found = {name: int(kib) // 1024 for name, kib in re.findall(r"(\w+):\s+(\d+) kB", text)}
    return found.get("MemTotal"), found.get("MemAvailable")


def _cgroup_folders() -> list[Path]:
    """This process's memory cgroup, version 2 then 1."""
    folders: list[Path] = []
    for line in _read(PROC / "self/cgroup").splitlines():
        _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        inner = path.lstrip("/")
        if controllers == "":
            folders += [CGROUP / inner, CGROUP]
        elif "memory" in controllers.split(","):
            folders += [CGROUP / "memory" / inner, CGROUP / "memory"]
    return folders


def _cgroup_oom_kills() -> int | None:
    for folder in _cgroup_folders():
        for name in ("memory.events", "memory.oom_control"):
            found = re.search(r"^oom_kill (\d+)", _read(folder / name), re.MULTILINE)
            if found:
                return int(found[1])
    return None


def _host_oom_kills() -> int | None:
    found = re.search(r"^oom_kill (\d+)", _read(PROC / "vmstat"), re.MULTILINE)
    return int(found[1]) if found else None


def _cgroup_limit_mib() -> int | None:
    for folder in _cgroup_folders():
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(folder / name).strip()
            if text.isdigit() and int(text) < 1 << 60:
                return int(text) >> 20
    return None
