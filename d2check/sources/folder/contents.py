"""All that the files of an output folder hold, each read by its reader."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from d2check.errors import InputError, refused
from d2check.model import Event
from d2check.sources._foreign import instead_of_rows
from d2check.sources._links import not_followed
from d2check.sources.folder import beside, files
from d2check.sources.metrics_json import MetricsFile, read_metrics_json

# The readers of logs and of event files take longer to load than rows to be read, so each is
# imported where there is something for it.
if TYPE_CHECKING:
    from d2check.sources.folder.ranks import RankLog
    from d2check.sources.log_txt import LogSegment
    from d2check.sources.tfevents import EventsSegment

EXPECTED = "an output folder of Detectron2 (metrics.json, log.txt) or a run folder (records.jsonl)"
# Event files are read at a few MB a second. Beside rows and a log, which has a clock of its own,
# they add little.
_SMALL_BYTES = 4 * 2**20

_T = TypeVar("_T")


@dataclass
class Contents:
    """What a folder holds.

    logs: of rank 0, those of rotated files first. setups: what logs without a training tell of one
    that was set up. ranks: the starts in the logs of other ranks. sources: the files that
    were read, the main one first. problems: files that could not be read, and why. unread: files
    left out by choice. has_main_log: there is a log.txt.
    """

    metrics: MetricsFile | None = None
    logs: list[LogSegment] = field(default_factory=list)
    events: list[EventsSegment] = field(default_factory=list)
    setups: list[LogSegment] = field(default_factory=list)
    ranks: list[RankLog] = field(default_factory=list)
    sources: list[Path] = field(default_factory=list)
    problems: list[InputError] = field(default_factory=list)
    unread: list[Event] = field(default_factory=list)
    has_main_log: bool = False


def contents_of(folder: Path) -> Contents:
    """Everything in a folder that can be read. Raises OSError where it cannot be listed."""
    found = Contents()
    names = files.names_in(folder)
    links = list(files.links_out(folder, names))
    found.problems += [not_followed(path, EXPECTED) for path in links]
    own = files.named(folder, names, files.METRICS)
    renamed = [] if own else beside.renamed_rows(folder, names)
    copies = beside.copies_of_rows(folder, names) if own else renamed[1:]
    for path in _longest_first(own, copies) if own else renamed[:1]:
        if found.metrics is None and path not in links:
            found.metrics = _tried(read_metrics_json, path, found)
            found.sources += [path] if found.metrics else []
    for path in copies:
        main = (own or renamed)[0].name
        text = f"{path.name} holds the same rows as {main}, as far as both go"
        found.unread.append(Event("fused", text, read_from=path.name))
    _add_logs(folder, names, links, found)
    _add_events(folder, names, found)
    return found


def _longest_first(metrics: Sequence[Path], copies: Sequence[Path]) -> list[Path]:
    """The files of rows in the order in which they are tried: a copy first that goes further."""
    longer = [c for c in copies if c.stat().st_size > metrics[0].stat().st_size] if metrics else []
    return [*sorted(longer, key=lambda path: -path.stat().st_size), *metrics]


def _tried(read: Callable[[Path], _T], path: Path, found: Contents) -> _T | None:
    """What a reader makes of a file; None, and a problem more, where it cannot be read."""
    try:
        return read(path)
    except InputError as error:
        found.problems.append(_named_for_what_it_is(path, error))
    except OSError as error:
        found.problems.append(refused(path, error, EXPECTED))
    return None


def _named_for_what_it_is(path: Path, error: InputError) -> InputError:
    """The error in the words for what the file is, where that is known."""
    try:
        known = instead_of_rows(files.beginning_of(path), path.name)
    except OSError:
        return error
    return InputError(error.where, known[0], error.expected, known[1]) if known else error


def _add_logs(folder: Path, names: Sequence[str], links: Sequence[Path], found: Contents) -> None:
    mains = [path for path in files.named(folder, names, files.LOGS) if path not in links]
    others = [path for path in files.other_logs(folder, names) if path not in links]
    others = [path for path in others if _tried(_is_log, path, found)]
    found.has_main_log = bool(mains)
    if not mains and not others:
        return
    from d2check.sources.folder.captures import together
    from d2check.sources.folder.ranks import RankLog
    from d2check.sources.log_txt import read_log

    rotated = [path for path in others if files.age(path.name)]
    read: list[Path] = []
    for path in (*rotated, *mains, *(p for p in others if p not in rotated)):
        log = _tried(read_log, path, found)
        if log is None:
            continue
        if ".rank" in path.name:
            rank = files.rank_of(path.name)
            found.ranks += [RankLog(rank, one) for one in log.segments]
            continue
        found.logs += log.segments
        found.setups += [log.setup] if log.setup else []
        read.append(path)
    ends = [path.name for path in others if files.ended_in_training(files.beginning_of(path))]
    found.logs = together(found.logs, ends)
    found.sources += sorted(read, key=lambda path: files.age(path.name))


def _is_log(path: Path) -> bool:
    start = files.beginning_of(path)
    return files.looks_like_log(start) or files.is_of_scheduler(start)


def _add_events(folder: Path, names: Sequence[str], found: Contents) -> None:
    paths = [*files.event_files(folder, names), *beside.events_below(folder, names)]
    size = sum(path.stat().st_size for path in paths)
    if found.metrics is not None and found.logs and size > _SMALL_BYTES and not _has_gaps(found):
        text = (
            f"{len(paths)} TensorBoard event file{'s' if len(paths) > 1 else ''} of "
            f"{size / 2**20:,.0f} MiB not read: metrics.json and a log tell the same and a clock"
        )
        found.unread.append(Event("not-read", text, read_from=str(paths[0])))
        return
    if not paths:
        return
    from d2check.sources.tfevents import read_events

    for path in paths:
        events = _tried(read_events, path, found)
        if events is not None:
            found.events += events.segments
            found.sources.append(path)


def _has_gaps(found: Contents) -> bool:
    """Whether rows were lost that an event file may hold."""
    segments = found.metrics.segments if found.metrics else ()
    return any(one.lost or any(e.kind == "rows-missing" for e in one.events) for one in segments)
