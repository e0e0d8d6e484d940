"""Tells afterwards which files of the user's output folders changed while the check ran.

`kept` leads elsewhere what passes through Python. What native code writes (cv2.imwrite, h5py) or a
program that the script starts cannot be led anywhere, but it can be seen, and must not be silent.
"""

from __future__ import annotations

import os
from typing import Any

from .recorder import first_of

LISTED = 2000  # files of a folder that are looked at
NAMED = 5
WORDS = (
    "in output folders, by new files of the script, by native code (cv2.imwrite, h5py) or by other"
    " programs: %s"
)


class Touched:
    """The folders of one process that results would go into, as they were before."""

    def __init__(self, run_folder: str) -> None:
        """Nothing is watched yet. `run_folder`: of the check, which it may change as it likes."""
        self._run_folder = os.path.abspath(run_folder)
        self._before: dict[str, dict[str, tuple[int, int]]] = {}

    def watch(self, folder: Any) -> None:
        """Remember what lies in a folder now, unless it is known already or the run folder's."""
        if not isinstance(folder, (str, os.PathLike)):
            return
        path = os.path.abspath(os.fspath(folder))
        known = any(_is_in(path, other) for other in self._before)
        # A script that names the folder it works in has all of its own files there.
        if known or _is_in(path, self._run_folder) or _is_in(os.getcwd(), path):
            return
        self._before[path] = look(path)

    def tell(self) -> str | None:
        """What is different now, in words; None where nothing is, and when asked again."""
        before, self._before = self._before, {}
        found = []
        for folder, earlier in before.items():
            now = look(folder)
            full = len(earlier) >= LISTED
            for path in sorted({*earlier, *now}):
                if path not in now:
                    if not os.path.lexists(path):
                        found.append("%s is gone" % path)
                elif path not in earlier:
                    if not full:
                        found.append("%s is new" % path)
                elif now[path] != earlier[path]:
                    found.append("%s has changed" % path)
        return WORDS % first_of(found, NAMED, "; ") if found else None


def look(folder: str) -> dict[str, tuple[int, int]]:
    """Size in bytes and time of change in ns of up to LISTED files of a folder and those below."""
    found: dict[str, tuple[int, int]] = {}
    waiting = [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif len(found) < LISTED:
                        state = entry.stat(follow_symlinks=False)
                        found[entry.path] = (state.st_size, state.st_mtime_ns)
                    else:
                        return found
        except OSError:  # not there, or not ours to read
            continue
    return found


def _is_in(path: str, folder: str) -> bool:
    return (path + os.sep).startswith(folder + os.sep)
