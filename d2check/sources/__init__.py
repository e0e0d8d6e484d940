"""What users have on disk, read into Runs: one entry for each output, whatever its format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from io import BufferedReader
from pathlib import Path

from d2check.errors import InputError, refused
from d2check.model import Ending, EndingKind, Run, Unreadable
from d2check.sources import _links, _writers, folder, run_folder
from d2check.sources import discover as _discover
from d2check.sources.folder.configs import with_config
from d2check.sources.run_folder import GrowingRun

__all__ = ["GrowingRun", "discover", "is_written", "read", "read_text", "so_far"]


_READ_IN_RUN_FOLDERS = (".json", ".jsonl", ".yaml")


def read(path: Path) -> tuple[Run, ...]:
    """All trainings of one output: a run folder, an OUTPUT_DIR, a file of rows, a log.

    What a file is, is told by its content and not by its name. A link that is named is followed,
    a link that leads out of a named folder is not. Raises InputError for a path that holds nothing
    readable; anything in it that is lost is counted in the Run.
    """
    try:
        return _read(path)
    except OSError as error:
        raise refused(path, error, folder.EXPECTED) from error


def _read(path: Path) -> tuple[Run, ...]:
    if not path.exists():
        raise InputError(
            str(path), "no such file or folder", "something to audit", "Check the path"
        )
    if not path.is_dir():
        return _still_running(folder.read_file(path), path)
    if run_folder.is_run_folder(path):
        _refuse_links(path)
        runs = tuple(_own_config(run) for run in run_folder.read_run_folder(path))
        return _still_running(runs, path)
    return _still_running(folder.read_folder(path), path)


def is_written(path: Path) -> bool:
    """Whether a process of this machine is seen to hold the files of an output open to write."""
    if not path.is_dir():
        return _writers.is_written([path])
    own = run_folder.is_run_folder(path)
    names = run_folder.FIRST_FILES if own else (*folder.METRICS, *folder.LOGS)
    others = [] if own else folder.captures_in(path)
    return _writers.is_written([*(path / name for name in names), *others])


def so_far(growing: GrowingRun) -> Run:
    """The run of a folder that is being written, as `read` would find it at this moment."""
    return _own_config(growing.run())


def discover(
    paths: Sequence[Path], on_link: Callable[[Path], None] = lambda link: None
) -> Iterator[Path | Unreadable]:
    """Every output below the paths, for `read`. A folder without rights is told, not fatal.

    on_link: told of each link that leads out of a named folder, and might lead to an output.
    """
    own = frozenset(run_folder.FIRST_FILES)
    marks = _discover.Marks(
        is_output=_is_output,
        is_part=folder.is_of_output_above,
        stands_alone=lambda path, in_output: folder.stands_alone(path, in_output=in_output),
        may_tell=folder.may_tell,
        opaque=own,
    )
    return _discover.walk(paths, marks, on_link)


def read_text(stream: BufferedReader, name: str) -> tuple[Run, ...]:
    """All trainings in rows or log lines that come from a stream, such as standard input."""
    return folder.read_stream(stream, Path(name))


def _is_output(path: Path) -> bool:
    return run_folder.is_run_folder(path) or folder.is_output_folder(path)


def _refuse_links(path: Path) -> None:
    """`d2check run` makes no links: a folder with one in the place of its records is not read.

    Links of other names are the trained script's own, which nothing here reads.
    """
    root = path.resolve()
    for one in sorted(path.iterdir()):
        own = one.suffix in _READ_IN_RUN_FOLDERS
        if own and _links.leads_out(one, root):
            raise _links.not_followed(one, "a run folder as `d2check run` left it")


def _still_running(runs: tuple[Run, ...], path: Path) -> tuple[Run, ...]:
    """The last training of an output is no truncated one while its files are being written."""
    open_ends = (EndingKind.TRUNCATED, EndingKind.UNKNOWN)
    if not runs or runs[-1].ending.kind not in open_ends or not is_written(path):
        return runs
    running = Ending(EndingKind.RUNNING, message="a process still writes its files")
    return (*runs[:-1], replace(runs[-1], ending=running))


def _own_config(run: Run) -> Run:
    """The run with its config, which the probe itself wrote: it is that of these rows."""
    if run.config is not None:
        run = replace(run, config=replace(run.config, matches_run=True))
    return with_config(run)
