"""From paths as users name them to outputs that can be read, one by one."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from d2check.errors import InputError
from d2check.model import Unreadable

_EXPECTED = "an output folder of Detectron2, a run folder, a metrics.json, or folders of these"

# Endings of files that may hold rows under another name than Detectron2's.
_MAYBE_ROWS = (".json", ".jsonl", ".ndjson", ".json.gz", ".jsonl.gz")
_SNIFF_BYTES = 64 * 1024
_ITERATION = re.compile(rb'"iteration"\s*:\s*\d')


def walk(
    paths: Sequence[Path],
    is_output: Callable[[Path], bool],
    standard: frozenset[str],
    opaque: frozenset[str],
) -> Iterator[Path | Unreadable]:
    """Every output below the paths, in the order of the paths and then of names.

    is_output tells whether a folder is one. standard: file names that are read with their
    folder. opaque: a folder with one of these holds nothing but itself. A file that is named is
    yielded as it is, and no output twice. Links that lead out of a named folder are not followed,
    hidden files and folders are left out, and a folder without rights is told as Unreadable; so
    is a path below which nothing was found.
    """
    seen: set[Path] = set()
    for path in paths:
        found = False
        for item in _below(path, is_output, standard, opaque):
            found = True
            if isinstance(item, Path):
                whole = item.resolve()
                if whole in seen:
                    continue
                seen.add(whole)
            yield item
        if not found:
            yield _unreadable(path, "nothing in it that can be audited", "Check the path")


def looks_like_rows(path: Path) -> bool:
    """Whether the file begins with JSON objects that carry an iteration."""
    try:
        with path.open("rb") as stream:
            start = stream.read(_SNIFF_BYTES)
    except OSError:
        return False
    if start[:2] == b"\x1f\x8b":
        return path.name.startswith("metrics")
    start = start.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n\x00")
    return start.startswith(b"{") and _ITERATION.search(start) is not None


def _below(
    path: Path, is_output: Callable[[Path], bool], standard: frozenset[str], opaque: frozenset[str]
) -> Iterator[Path | Unreadable]:
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
        escapes = any(name in standard and not _stays(here / name, root) for name in files)
        output = not escapes and is_output(here)
        if output:
            yield here
        if not opaque.isdisjoint(files):
            folders.clear()
            continue
        for name in sorted(files):
            one = here / name
            known = output and name in standard
            if name.startswith(".") or known or not name.endswith(_MAYBE_ROWS):
                continue
            if _stays(one, root) and one.is_file() and looks_like_rows(one):
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
