"""An output folder of Detectron2, or one of its files: what they tell, as one Run per training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING

from d2check.errors import InputError, refused
from d2check.model import Event, Run
from d2check.sources._foreign import archive, instead_of_rows
from d2check.sources.folder import beside, files
from d2check.sources.folder.beside import is_of_output_above
from d2check.sources.folder.clocks import with_clocks
from d2check.sources.folder.configs import config_in
from d2check.sources.folder.contents import EXPECTED, contents_of
from d2check.sources.folder.files import LOGS, METRICS, is_output_folder, may_tell
from d2check.sources.folder.fusing import fused
from d2check.sources.folder.pairing import pair
from d2check.sources.metrics_json import MetricsFile, read_metrics_stream

if TYPE_CHECKING:
    from d2check.sources.folder.contents import Contents
    from d2check.sources.folder.ranks import RankLog
    from d2check.sources.tfevents import EventsSegment

__all__ = [
    "EXPECTED",
    "LOGS",
    "METRICS",
    "captures_in",
    "is_of_output_above",
    "is_output_folder",
    "may_tell",
    "read_file",
    "read_folder",
    "read_stream",
    "stands_alone",
]

_NO_CONFIG_BESIDE_FILE = (
    "the run's config is not known; name the output folder, so that its config.yaml is read too"
)
_EMPTY = "the file is empty"  # as the readers of rows and of logs say
_NO_CONFIG_IN_TEXT = "the run's config is not known"


def read_folder(path: Path) -> tuple[Run, ...]:
    """One Run per training that wrote into an OUTPUT_DIR, from all of its files together.

    Raises InputError when no file in it can be read. A file that cannot is told as an event where
    others can; a config.yaml that cannot is no obstacle to rules that do not need it.
    """
    try:
        found = contents_of(path)
    except OSError as error:
        raise refused(path, error, EXPECTED) from error
    if found.metrics is None and not found.logs and not any(one.rows for one in found.events):
        if found.ranks:
            return _of_ranks_alone(path, found.ranks)
        if found.setups:
            where = found.setups[-1].read_from
            raise InputError(
                str(path),
                f"no training in it: {where} tells of a set-up only",
                EXPECTED,
                f"Name {where} itself, and what it tells is judged",
            )
        if found.problems:
            raise _all_empty(path, found) or found.problems[0]
        raise InputError(
            str(path),
            _no_losses(found.events) if found.events else "no metrics and no log in it",
            EXPECTED,
            "Name the folder that the config calls OUTPUT_DIR",
        )
    if found.metrics is None and not (found.events or found.ranks or found.has_main_log):
        return _of_captures(path, found)
    config, reason = config_in(path)
    segments = with_clocks(found.metrics.segments if found.metrics else (), found.events)
    failed = any(e.kind == "failed-start" for log in found.logs for e in log.events)
    runs = fused(
        pair(segments, found.logs),
        str(found.sources[0]),
        config,
        no_config=reason,
        other_ranks=found.ranks,
        starts=len(found.logs) if found.logs and not failed else None,
    )
    told = tuple(_unread(one, found) for one in found.problems)
    events = (*runs[-1].events, *told, *found.unread)
    return (*runs[:-1], replace(runs[-1], events=events))


def _of_captures(path: Path, found: Contents) -> tuple[Run, ...]:
    """The trainings of logs under names of their own, which may be of one or of many.

    Those of which one tells of another are read together, each other one by itself.
    """
    from d2check.sources.folder.resumes import with_resumes

    groups: list[set[str]] = []
    for log in (one for one in with_resumes(found.logs) if one is not None):
        mine = set(log.files)
        for other in [group for group in groups if group & mine]:
            groups.remove(other)
            mine |= other
        groups.append(mine)
    runs: list[Run] = []
    for group in groups:
        logs = [log for log in found.logs if group & set(log.files)]
        source = str(path / logs[0].read_from)
        runs += fused(pair((), logs), source, None, no_config=_NO_CONFIG_BESIDE_FILE)
    told = tuple(_unread(one, found) for one in found.problems)
    return (*runs[:-1], replace(runs[-1], events=(*runs[-1].events, *told)))


def _all_empty(path: Path, found: Contents) -> InputError | None:
    """The error for a folder of empty files, which says nothing of the training; else None."""
    if len(found.problems) < 2 or any(one.found != _EMPTY for one in found.problems):
        return None
    names = ", ".join(Path(one.where).name for one in found.problems)
    todo = "The disk was full, or they were not copied whole: copy them again"
    return InputError(str(path), f"its files are empty ({names})", EXPECTED, todo)


def _unread(problem: InputError, found: Contents) -> Event:
    """What to tell of a file that could not be read, where others of the folder could."""
    text = str(problem)
    if problem.found == _EMPTY:
        others = ", ".join(one.name for one in found.sources)
        text = f"{problem.where} is empty; what follows is from {others}"
    return Event("unreadable", text, read_from=problem.where)


def _of_ranks_alone(path: Path, ranks: Sequence[RankLog]) -> tuple[Run, ...]:
    """A training of which only logs of ranks above 0 are left: how it ended, if they tell."""
    from d2check.sources.folder.ranks import crashed

    bad = crashed(ranks)
    if bad is None:
        raise InputError(
            str(path),
            "only logs of ranks above 0 in it, which hold no metrics, and no error in them",
            EXPECTED,
            "Add log.txt or metrics.json, which rank 0 writes",
        )
    others = [one for one in ranks if one is not bad]
    source = str(path / bad.log.read_from)
    return fused(
        pair((), (bad.log,)), source, None, no_config=_NO_CONFIG_IN_TEXT, other_ranks=others
    )


def stands_alone(path: Path, *, in_output: bool) -> bool:
    """Whether a file is an output by itself: rows under another name, or a log outside of one.

    in_output: it lies in an output folder, whose other logs are read with it, and copies of its
    rows too. Raises OSError for a file that its name makes a candidate and that cannot be opened.
    """
    alone = files.stands_alone(path, in_output=in_output)
    return alone and not (in_output and files.named_like_rows(path.name) and beside.is_copy(path))


def captures_in(path: Path) -> list[Path]:
    """Files of a folder that by their names may be captures of a console. Raises OSError."""
    return files.other_logs(path, files.names_in(path))


def read_file(path: Path) -> tuple[Run, ...]:
    """One Run per training of a file named by itself, whatever its name. Nothing beside it is read.

    Raises InputError as `read_metrics_json` and `read_log`.
    """
    try:
        with files.opened(path) as stream:
            return read_stream(stream, path, no_config=_NO_CONFIG_BESIDE_FILE)
    except OSError as error:
        raise refused(path, error, EXPECTED) from error


def _no_losses(segments: Sequence[EventsSegment]) -> str:
    """What event files without rows of a training hold instead, some scalars by name."""
    held = sorted({name for segment in segments for name in segment.series})
    if not held:
        return "no losses of a training in it"
    some = ", ".join(held[:3]) + (f" and {len(held) - 3} more" if len(held) > 3 else "")
    return f"no total_loss in its events, which hold {some}"


def read_stream(
    stream: BufferedReader, path: Path, *, no_config: str = _NO_CONFIG_IN_TEXT
) -> tuple[Run, ...]:
    """One Run per training in a stream of rows, log lines or events, told by how it begins."""
    start = files.beginning(stream)
    if foreign := archive(start):
        raise InputError(str(path), foreign[0], EXPECTED, foreign[1])
    if files.looks_like_events(start):
        from d2check.sources.tfevents import read_events_stream

        events = read_events_stream(stream, path.name)
        if not any(one.rows for one in events.segments):
            found = events.damaged or _no_losses(events.segments)
            raise InputError(str(path), found, EXPECTED, "Name the output folder that it is of")
        rows = with_clocks((), events.segments)
        return fused(pair(rows, ()), str(path), None, no_config=no_config)
    if files.begins_with_a_row(start) or not files.may_be_log(start):
        segments = _rows_in(stream, path, start).segments
        return fused(pair(segments, ()), str(path), None, no_config=no_config)
    from d2check.sources.log_txt import nothing_in, read_log_stream

    log = read_log_stream(stream, path.name)
    told = log.segments or ((log.setup,) if log.setup else ())
    if not told:
        if known := instead_of_rows(start, path.name):
            raise InputError(str(path), known[0], EXPECTED, known[1])
        raise nothing_in(log, str(path), start)
    return fused(pair((), told), str(path), None, no_config=no_config)


def _rows_in(stream: BufferedReader, path: Path, start: bytes) -> MetricsFile:
    try:
        return read_metrics_stream(stream, path)
    except InputError as error:
        if known := instead_of_rows(start, path.name):
            raise InputError(str(path), known[0], error.expected, known[1]) from error
        raise
