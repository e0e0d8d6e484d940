"""From paths as users name them to outputs that can be read, one by one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from d2check.errors import InputError
from d2check.model import Unreadable
from d2check.sources._foreign import is_named_like_an_archive
from d2check.sources._links import leads_out

_EXPECTED = "an output folder, a run folder, a metrics.json, a log.txt, or folders of these"


@dataclass(frozen=True)
class Marks:
    """How outputs are recognised.

    is_output: whether a folder is one. is_part: whether such a folder is only a part of the output
    that it lies in. stands_alone: whether a file is one, told if it lies in an output folder. All
    three may raise OSError. may_tell: whether a file of this name may be of an output. opaque:
    names of files whose folder is an output that holds nothing but itself.
    """

    is_output: Callable[[Path], bool]
    is_part: Callable[[Path], bool]
    stands_alone: Callable[[Path, bool], bool]
    may_tell: Callable[[str], bool]
    opaque: frozenset[str]


OnLink = Callable[[Path], None]


def walk(paths: Sequence[Path], marks: Marks, on_link: OnLink) -> Iterator[Path | Unreadable]:
    """Every output below the paths, in the order of the paths and then of names.

    A file that is named is yielded as it is, a link that is named is followed, and no output comes
    twice. Links that lead out of a named folder are not followed; on_link is told of those that
    might have led to an output. Hidden files and folders are left out. What cannot be looked into
    is told as Unreadable; so is a path below which nothing was found.
    """
    seen: set[Path] = set()
    for path in paths:
        found = False
        links: list[Path] = []
        for item in _below(path, marks, links.append):
            found = True
            if isinstance(item, Path):
                whole = item.resolve()
                if whole in seen:
                    continue
                seen.add(whole)
            yield item
        for link in links:
            on_link(link)
        if not found:
            yield _nothing_in(path, links)


def _below(path: Path, marks: Marks, on_link: OnLink) -> Iterator[Path | Unreadable]:
    try:
        there, is_folder = path.exists(), path.is_dir()
    except (OSError, RuntimeError) as problem:
        yield _refused(path, problem)
        return
    if not there:
        dangling = os.path.islink(path)
        found = "a link that leads nowhere" if dangling else "no such file or folder"
        yield _unreadable(path, found, "Check the path")
        return
    if not is_folder:
        yield path
        return
    root = path.resolve()
    problems: list[OSError] = []
    for folder, folders, files in os.walk(path, onerror=problems.append):
        here = Path(folder)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            if leads_out(here / name, root):
                on_link(here / name)
        yield from _in_folder(here, files, root, marks, on_link)
        if not marks.opaque.isdisjoint(files):
            folders.clear()
    for refusal in problems:
        yield _refused(Path(str(refusal.filename or path)), refusal)


def _in_folder(
    here: Path, names: Sequence[str], root: Path, marks: Marks, on_link: OnLink
) -> Iterator[Path | Unreadable]:
    """The folder itself where it is an output, then its files that are some by themselves."""
    own = []
    for name in sorted(name for name in names if not name.startswith(".")):
        if not leads_out(here / name, root):
            if not _is_seen_elsewhere(here / name, root):
                own.append(name)
        elif name in marks.opaque or marks.may_tell(name):
            on_link(here / name)
    try:
        output = (marks.opaque.isdisjoint(names) or not marks.opaque.isdisjoint(own)) and (
            marks.is_output(here)
        )
        if output and marks.is_part(here) and here.resolve() != root:
            return
    except OSError as problem:
        yield _refused(here, problem)
        return
    if output:
        yield here
    if not marks.opaque.isdisjoint(names):
        return
    for name in own:
        try:
            alone = (here / name).is_file() and marks.stands_alone(here / name, output)
        except OSError as problem:
            yield _refused(here / name, problem)
            continue
        if alone:
            yield here / name


def _is_seen_elsewhere(path: Path, root: Path) -> bool:
    """Whether a path is a link to a place of the tree that the walk comes to, or has been at."""
    if not os.path.islink(path):
        return False
    return not any(part.startswith(".") for part in path.resolve().relative_to(root).parts)


def _nothing_in(path: Path, links: Sequence[Path]) -> Unreadable:
    if not links:
        return _unreadable(path, *_what_is_there(path))
    first, more = links[0].name, len(links) - 1
    others = f" and {more} more" if more else ""
    found = f"nothing in it but links that lead out of it and are not followed: {first}{others}"
    return _unreadable(path, found, "Name the link itself, or what it leads to")


def _what_is_there(path: Path) -> tuple[str, str]:
    """Why nothing of a folder can be audited, and what to do, by the names in it."""
    nothing = "nothing in it that can be audited"
    try:
        names = sorted(os.listdir(path)) if path.is_dir() else []
    except OSError:
        names = []
    packed = [name for name in names if is_named_like_an_archive(name)]
    if packed:
        return f"{nothing}, but an archive ({packed[0]})", "Unpack it, and name what comes of it"
    made = [name for name in names if name == "config.yaml" or name.endswith((".pth", ".ckpt"))]
    if made:
        return (
            f"{nothing}: {made[0]}, but no metrics.json and no log",
            "Detectron2 writes them where it runs, into OUTPUT_DIR: copy them too",
        )
    return nothing, "Check the path"


def _refused(path: Path, problem: OSError | RuntimeError) -> Unreadable:
    reason = getattr(problem, "strerror", None) or str(problem)
    return _unreadable(path, f"it cannot be read ({reason})", "Check its rights")


def _unreadable(path: Path, found: str, todo: str) -> Unreadable:
    return Unreadable(str(path), str(InputError(str(path), found, _EXPECTED, todo)))
