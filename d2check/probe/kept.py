"""Keeps what earlier trainings have left: a short check overwrites and removes nothing of it.

Kept are model files, and every file in a folder that holds some or that Detectron2 has written its
metrics into. What a script would write there goes into the run folder, where it is read back from;
what it would remove stays. Once the loop runs, model files of any name go there as well: nobody
should find a checkpoint of a few hundred iterations among the real ones.

Seen is what passes through Python (`open`, `os`, `shutil`, `torch.save`). Other files of the
script's own, its data and caches, are its own business.
"""

from __future__ import annotations

import builtins
import functools
import io
import os
import pathlib
import shutil
import sys
from typing import TYPE_CHECKING, Any, Callable

if TYPE_CHECKING:
    from .session import Session

MODEL_FILES = (".pth", ".pt", ".ckpt", ".safetensors")
_MARKS = ("last_checkpoint", "metrics.json")  # of an output folder of Detectron2
FOLDER = "kept-apart"  # in child-output
TOLD = 20  # files that are named; a script may have thousands
SEARCHED = 2000  # entries of a folder that is to be removed


def install(module: Any, session: Session) -> None:
    """Guard the files of this process. `module`: torch.serialization, just imported."""
    guard = Guard(session)
    opened = guard.opening(io.open)
    builtins.open = io.open = opened
    for name, guarded in (
        ("remove", guard.removing),
        ("unlink", guard.removing),
        ("rename", guard.renaming),
        ("replace", guard.renaming),
        ("stat", guard.looking),
        ("mkdir", guard.making),
    ):
        _replace_in_os(name, guarded)
    shutil.rmtree = guard.removing_tree(shutil.rmtree)
    module.save = guard.saving(module.save)
    module.load = guard.loading(module.load)


def _replace_in_os(name: str, guarded: Callable[[Any], Any]) -> None:
    real = getattr(os, name)
    replacement = guarded(real)
    # Where others look up whether a function knows directory handles, and so on.
    for able in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks):
        if real in able:
            able.add(replacement)
    setattr(os, name, replacement)
    accessor = getattr(pathlib, "_NormalAccessor", None)  # before Python 3.11 it holds its own
    if hasattr(accessor, name):
        setattr(accessor, name, staticmethod(replacement))


class Guard:
    """Which files are kept, and where what would have been written to them is now."""

    def __init__(self, session: Session) -> None:
        """No file is known yet."""
        self._session = session
        self._run = os.path.abspath(session.plan.folder) + os.sep
        self._apart = os.path.join(session.plan.child_output, FOLDER)
        self._moved: dict[str, str] = {}
        self._own: set[str] = set()
        self._cleared: set[str] = set()  # folders that the script believes it has removed
        self._told = 0
        self._open = io.open  # not the guarded one: that reads what is copied where it goes to

    def target(self, path: Any, *, always: bool = False) -> Any:
        """Where to write what is meant for `path`: `path` itself unless it is kept.

        always: whatever its name, once the loop runs.
        """
        name = _absolute(path)
        if name is None or name.startswith(self._run):
            return path
        if name in self._moved:
            return self._moved[name]
        trains = self._session.stage == "train"
        is_new_model = trains and (always or name.endswith(MODEL_FILES))
        if self.is_kept(name):
            self._tell("%s is not overwritten" % path)
        elif is_new_model and name not in self._own:
            self._tell("%s is not written" % path)
        else:
            if not os.path.exists(name):
                self._own.add(name)  # made by this very process: not of an earlier training
            return path
        return self._move(name)

    def source(self, path: Any) -> Any:
        """Where to read `path`."""
        if not self._moved:
            return path
        name = _absolute(path)
        return path if name is None else self._moved.get(name, path)

    def is_kept(self, name: str) -> bool:
        """Whether this is a file of an earlier training, by its absolute path."""
        if name.startswith(self._run) or name in self._own or not os.path.isfile(name):
            return False
        return name.endswith(MODEL_FILES) or is_output(os.path.dirname(name))

    def opening(self, real: Any) -> Any:
        """For `open`."""

        @functools.wraps(real)
        def guarded_open(file: Any, mode: Any = "r", *args: Any, **kwargs: Any) -> Any:
            if isinstance(mode, str) and not isinstance(file, int):
                if mode[:1] in "rU" and "+" not in mode:
                    file = self.source(file)
                elif "x" not in mode:
                    earlier, file = file, self.target(file)
                    if file is not earlier and "w" not in mode and not os.path.exists(file):
                        self._copy(earlier, file)
            return real(file, mode, *args, **kwargs)

        return guarded_open

    def saving(self, real: Any) -> Any:
        """For `torch.save`."""

        @functools.wraps(real)
        def guarded_save(obj: Any, f: Any, *args: Any, **kwargs: Any) -> Any:
            return real(obj, self.target(f, always=True), *args, **kwargs)

        return guarded_save

    def loading(self, real: Any) -> Any:
        """For `torch.load`, which may map a file by its path."""

        @functools.wraps(real)
        def guarded_load(f: Any, *args: Any, **kwargs: Any) -> Any:
            return real(self.source(f), *args, **kwargs)

        return guarded_load

    def looking(self, real: Any) -> Any:
        """For `os.stat`, by which `os.path` and `pathlib` tell whether a file is there."""

        @functools.wraps(real)
        def guarded_stat(path: Any, **kwargs: Any) -> Any:
            return real(path if isinstance(path, int) else self.source(path), **kwargs)

        return guarded_stat

    def removing(self, real: Any) -> Any:
        """For `os.remove`."""

        @functools.wraps(real)
        def guarded_remove(path: Any, **kwargs: Any) -> None:
            name = None if kwargs else _absolute(path)
            if name is not None and name in self._moved:
                real(self._moved.pop(name))
            elif name is not None and self.is_kept(name):
                self._tell("%s is not removed" % path)
            else:
                real(path, **kwargs)

        return guarded_remove

    def renaming(self, real: Any) -> Any:
        """For `os.rename` and `os.replace`, by which files are put in place of others."""

        @functools.wraps(real)
        def guarded_rename(src: Any, dst: Any, **kwargs: Any) -> None:
            begin, end = _absolute(src), _absolute(dst)
            if kwargs or begin is None or end is None:
                real(src, dst, **kwargs)
            elif begin in self._moved:
                now = self._moved.pop(begin)
                real(now, self._moved.get(end) or self._move(end))
            elif self.is_kept(begin):
                self._tell("%s is not renamed" % src)
                self._copy(begin, self._moved.get(end) or self._move(end))
            else:
                real(src, self.target(dst))

        return guarded_rename

    def removing_tree(self, real: Any) -> Any:
        """For `shutil.rmtree`."""

        @functools.wraps(real)
        def guarded_rmtree(path: Any, *args: Any, **kwargs: Any) -> None:
            name = None if "dir_fd" in kwargs else _absolute(path)
            if name is not None and not self._is_ours(name) and self._holds_models(name):
                self._tell("%s is not removed" % path)
                self._cleared.update(place for place, _, _ in os.walk(name))
            else:
                real(path, *args, **kwargs)

        return guarded_rmtree

    def making(self, real: Any) -> Any:
        """For `os.mkdir`: a folder that was to be removed may be made anew, once."""

        @functools.wraps(real)
        def guarded_mkdir(path: Any, *args: Any, **kwargs: Any) -> None:
            name = None if "dir_fd" in kwargs else _absolute(path)
            if name is not None and name in self._cleared:
                self._cleared.discard(name)
            else:
                real(path, *args, **kwargs)

        return guarded_mkdir

    def _copy(self, source: Any, target: str) -> None:
        with self._open(source, "rb") as file, self._open(target, "wb") as copy:
            shutil.copyfileobj(file, copy)

    def _is_ours(self, folder: str) -> bool:
        return (folder + os.sep).startswith(self._run)

    def _holds_models(self, folder: str) -> bool:
        """Whether a folder or one below it holds files that are kept."""
        seen = 0
        for place, _, names in os.walk(folder):
            if self._is_ours(place):
                continue
            seen += 1 + len(names)
            if any(self.is_kept(os.path.join(place, n)) for n in names if _is_telling(n)):
                return True
            if seen > SEARCHED:
                return False
        return False

    def _move(self, name: str) -> str:
        os.makedirs(self._apart, exist_ok=True)
        taken = set(self._moved.values())
        target = os.path.join(self._apart, os.path.basename(name))
        number = 1
        while target in taken:
            number += 1
            target = os.path.join(self._apart, "%d-%s" % (number, os.path.basename(name)))
        self._moved[name] = target
        return target

    def _tell(self, what: str) -> None:
        self._told += 1
        if self._told <= TOLD:
            self._session.neutralised("files: " + what)
        elif self._told == TOLD + 1:
            self._session.neutralised("files: and more")


def is_output(folder: str) -> bool:
    """Whether a training has written its results here.

    Model files alone do not tell it of the folder that a script lies or works in: all that it
    needs may lie there beside them.
    """
    try:
        with os.scandir(folder) as entries:
            names = {entry.name for entry in entries}
    except OSError:
        return False
    if not names.isdisjoint(_MARKS):
        return True
    workplaces = (os.getcwd(), os.path.abspath(os.path.dirname(sys.argv[0])))
    return folder not in workplaces and any(_is_telling(name) for name in names)


def _is_telling(name: str) -> bool:
    return name in _MARKS or name.endswith(MODEL_FILES)


def _absolute(path: Any) -> str | None:
    """The absolute path that a text or path object names; None for anything else."""
    if isinstance(path, (str, os.PathLike)):
        path = os.fspath(path)
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    return os.path.abspath(path) if isinstance(path, str) else None
