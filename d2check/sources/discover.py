"""From paths as users name them to outputs that can be read, one by one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from d2check.errors import InputError
from d2check.model import Unreadable

_EXPECTED = "an output folder, a run folder, a metrics.json, a log.txt, or folders of these"


@dataclass(frozen=True)
class Marks:
    """How outputs are recognised.

    is_output: whether a folder is one. stands_alone: whether a file is one, told if it lies in an
    output folder. first_files: names of files that make a folder an output; opaque: those of them
    whose folder holds nothing but itself.
    """

    is_output: Callable[[Path], bool]
    stands_alone: Callable[[Path, bool], bool]
    first_files: frozenset[str]
    opaque: frozenset[str]


def walk(paths: Sequence[Path], marks: Marks) -> Iterator[Path | Unreadable]:
    """Every output below the paths, in the order of the paths and then of names.

    A file that is named is yielded as it is, and no output twice. Links that lead out of a named
    folder are not followed, hidden files and folders are left out, and a folder without rights is
    told as Unreadable; so is a path below which nothing was found.
    """
    seen: set[Path] = set()
    for path in paths:
        found = False
        for item in _below(path, marks):
            found = True
            if isinstance(item, Path):
                whole = item.resolve()
                if whole in seen:
                    continue
                seen.add(whole)
            yield item
        if not found:
            yield _unreadable(path, "nothing in it that can be audited", "Check the path")


def _below(path: Path, marks: Marks) -> Iterator[Path | Unreadable]:
    if not path.exists():
        yield _unreadable(path, "no such file or folder", "Check the path")
        return
    if not path.is_dir():
        yield path
        return
    root = path.resolve()
    problems: list[OSError] = []
    for folder, folders, files in os.walk(path, onerror=problems.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        here = Path(folder)
        escapes = any(name in marks.first_files and not _stays(here / name, root) for name in files)
        output = not escapes and marks.is_output(here)
        if output:
            yield here
        if not marks.opaque.isdisjoint(files):
            folders.clear()
            continue
        for name in sorted(files):
            one = here / name
            if name.startswith(".") or not _stays(one, root) or not one.is_file():
                continue
            if marks.stands_alone(one, output):
                yield one
    for problem in problems:
        where = Path(str(problem.filename or path))
        yield _unreadable(where, f"it cannot be read ({problem.strerror})", "Check its rights")


def _stays(path: Path, root: Path) -> bool:
    """Whether a file, links followed, lies below the root."""
    try:
        return path.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a link to itself
        return False


def _unreadable(path: Path, found: str, todo: str) -> Unreadable:
    return Unreadable(str(path), str(InputError(str(path), found, _EXPECTED, todo)))
