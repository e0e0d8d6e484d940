"""Looks at a command's processes for what the probe cannot see or stop. Linux only, by /proc.

A training that the probe could not join, because its start line changes the environment, and what a
shell script runs after its training.

PYTHONPATH set anew, `env -i` or `python -I` keep the probe out. Such a training would go on unseen,
write into its own output folder, and end in days. Elsewhere the limits of `limits` hold.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from d2check.harness.guard import descendants
from d2check.harness.manifest import SITE
from d2check.probe import wire

PROC = Path("/proc")
# PyTorch's core library in a process's memory: it is about to train, and is no helper.
_TORCH = b"libtorch_cpu"
_ISOLATED = frozenset("IES")  # of Python's flags; -E, -I and -S keep sitecustomize out


class UnseenTraining:
    """Looks, now and then, for a process below `root` that has PyTorch and not the probe."""

    def __init__(self, root: int | None) -> None:
        """`root`: whose descendants are looked at, or None where that cannot be done."""
        self._root = root
        self._suspect: int | None = None

    def look(self) -> str | None:
        """Why the training cannot be seen, in words, once two looks in a row have found it so."""
        if self._root is None or not PROC.is_dir():
            return None
        with_torch = [pid for pid in [self._root, *descendants(self._root)] if _has_torch(pid)]
        reasons = {pid: _why_not_joined(pid) for pid in with_torch}
        # Where one process is seen the others are its helpers, whatever their environment.
        if not reasons or None in reasons.values():
            self._suspect = None
            return None
        first, why = next(iter(reasons.items()))
        if self._suspect != first:
            self._suspect = first
            return None
        return why


LEAVES_S = 1.0  # a launcher needs some tenths of a second to see that its processes have left


class AfterTraining:
    """Tells when a command goes on after the training that it started has left."""

    def __init__(self, root: int | None) -> None:
        """`root`: process of the command, or None where there is none to look at."""
        self._root = root
        self._seen: set[int] = set()
        self._left_s: float | None = None

    def is_run(self, trained: Sequence[int], now_s: float, broke: bool = False) -> bool:
        """Whether all of the training's processes are gone and the command is not.

        trained: their ids. Those that were never seen below the command may be of another
        namespace, and tell nothing. A command that is Python may be a launcher (torchrun), which
        leaves by itself a little later: it is given LEAVES_S, and all its time where the training
        broke, of which it has to tell.
        """
        if self._root is None or not PROC.is_dir() or self._root in trained:
            return False
        below = set(descendants(self._root))
        self._seen |= below & set(trained)
        if not trained or self._seen != set(trained) or self._seen & below:
            return False
        if not _is_python(self._root):
            return True
        self._left_s = now_s if self._left_s is None else self._left_s
        return not broke and now_s - self._left_s > LEAVES_S and _is_alive(self._root)


def _is_python(pid: int) -> bool:
    try:
        return os.path.basename(os.readlink(PROC / str(pid) / "exe")).startswith("python")
    except OSError:
        return True  # gone, or not ours to look at: nothing to end


def _is_alive(pid: int) -> bool:
    return (PROC / str(pid)).is_dir()


def _has_torch(pid: int) -> bool:
    return _TORCH in _read(pid, "maps")


def _why_not_joined(pid: int) -> str | None:
    words = [os.fsdecode(word) for word in _read(pid, "cmdline").split(b"\0")]
    if not words[0]:  # it ended meanwhile
        return None
    variables = dict(
        entry.split("=", 1)
        for entry in map(os.fsdecode, _read(pid, "environ").split(b"\0"))
        if "=" in entry
    )
    flags = {flag for word in words[1:2] if word[:1] == "-" and word[1:2] != "-" for flag in word}
    if wire.PLAN_VARIABLE not in variables:
        what = "its environment was emptied on the way (env -i, sudo): leave that out for the check"
    elif str(SITE) not in variables.get("PYTHONPATH", "").split(os.pathsep):
        what = (
            "PYTHONPATH is set anew on the way, and the probe comes in by that:"
            " write PYTHONPATH=...:$PYTHONPATH there"
        )
    elif flags & _ISOLATED:
        what = "-I, -E and -S keep the probe out: leave them out for the check"
    else:
        return None
    return f"the training was ended before it could run unseen: {what}"


def _read(pid: int, name: str) -> bytes:
    try:
        return (PROC / str(pid) / name).read_bytes()
    except OSError:  # it ended meanwhile, or is not ours to look at
        return b""
