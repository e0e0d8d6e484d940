"""Whether some process on this machine still writes a file: its training is still running.

Detectron2 keeps metrics.json and log.txt open from its first row to its end, so an open handle
is certain; a young file is not, for copying one makes it young.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

_PROCESSES = Path("/proc")
_LOOK_EVERY_S = 5.0  # an audit of many outputs looks at the processes now and then, not each time


def is_written(paths: Iterable[Path]) -> bool:
    """Whether a process that we may look into holds one of the files open for writing.

    False where the system does not tell (no /proc), and for processes of other users.
    """
    written = _written(int(time.monotonic() / _LOOK_EVERY_S))
    return any(os.path.realpath(path) in written for path in paths)


@functools.lru_cache(maxsize=1)
def _written(_moment: int) -> frozenset[str]:
    """Paths of all files that other processes hold open for writing."""
    if not _PROCESSES.is_dir():
        return frozenset()
    own = str(os.getpid())
    processes = (p for p in _PROCESSES.iterdir() if p.name.isdigit() and p.name != own)
    return frozenset(path for process in processes for path in _written_by(process))


def _written_by(process: Path) -> Iterator[str]:
    try:
        handles = list((process / "fd").iterdir())
    except OSError:  # it ended meanwhile, or belongs to somebody else
        return
    for handle in handles:
        try:
            target = os.readlink(handle)
            # Sockets, pipes and devices have no path, or one that no training writes to.
            if target.startswith("/") and not target.startswith("/dev/"):
                information = (process / "fdinfo" / handle.name).read_text()
                if _flags(information) & (os.O_WRONLY | os.O_RDWR):
                    yield target
        except OSError:  # closed meanwhile
            continue


def _flags(information: str) -> int:
    """The flags of an open file, from /proc/PID/fdinfo/N."""
    words = next((w for w in information.splitlines() if w.startswith("flags:")), "flags: 0")
    return int(words.split()[1], 8)
