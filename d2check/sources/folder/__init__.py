"""An output folder of Detectron2, or one of its files: what they tell, as one Run per training."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BufferedReader, FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from d2check.errors import InputError
from d2check.model import Event, Run
from d2check.sources.folder.clocks import with_clocks
from d2check.sources.folder.configs import config_in
from d2check.sources.folder.fusing import fused
from d2check.sources.folder.pairing import pair
from d2check.sources.metrics_json import MetricsFile, read_metrics_json, read_metrics_stream

# The readers of logs and of event files take longer to load than rows to be read, so each is
# imported where there is something for it.
if TYPE_CHECKING:
    from d2check.sources.log_txt import LogSegment
    from d2check.sources.tfevents import EventsSegment

__all__ = [
    "LOGS",
    "METRICS",
    "is_output_folder",
    "read_file",
    "read_folder",
    "read_stream",
    "stands_alone",
]

METRICS = ("metrics.json", "metrics.json.gz")
LOGS = ("log.txt", "log.txt.gz")

_EXPECTED = "an output folder of Detectron2 (metrics.json, log.txt) or a run folder (records.jsonl)"
_NO_CONFIG_BESIDE_FILE = (
    "the run's config is not known; name the output folder, so that its config.yaml is read too"
)
_NO_CONFIG_IN_TEXT = "the run's config is not known"
# Endings of names under which people keep what the console printed.
_MAYBE_LOGS = (".txt", ".log", ".out", ".err", ".txt.gz", ".log.gz", ".out.gz")
_MAYBE_ROWS = (".json", ".jsonl", ".ndjson", ".json.gz", ".jsonl.gz")
_ITERATION = re.compile(rb'"iteration"\s*:\s*\d')
_EVENT_FILES = "events.out.tfevents.*"
_EVENT_FILE, _EVENT_FILE_WITHIN = b"brain.Event:", 64  # the version that each of them begins with
# Event files are read at a few MB a second. Beside rows and a log, which has a clock of its own,
# they add little.
_SMALL_BYTES = 4 * 2**20
_SNIFF_BYTES = 256 * 1024


@dataclass(frozen=True, eq=False)
class _Found:
    """What a folder holds. problems: files that could not be read, and why. unread: by choice."""

    metrics: MetricsFile | None
    logs: tuple[LogSegment, ...]
    events: tuple[EventsSegment, ...]
    ranks: tuple[LogSegment, ...]
    sources: tuple[Path, ...]
    problems: tuple[InputError, ...]
    unread: tuple[Event, ...] = ()


def is_output_folder(path: Path) -> bool:
    """Whether the folder holds rows, a log or events of Detectron2 under their own names."""
    own = any((path / name).is_file() for name in (*METRICS, *LOGS))
    return own or next(path.glob(_EVENT_FILES), None) is not None


def stands_alone(path: Path, *, in_output: bool) -> bool:
    """Whether a file is an output by itself: rows under another name, or a log outside of one.

    in_output: it lies in an output folder, whose other logs are read with it.
    """
    if path.name in (*METRICS, *LOGS) and in_output:
        return False
    if path.name.endswith(_MAYBE_ROWS):
        return _looks_like_rows(path)
    return not in_output and path.name.endswith(_MAYBE_LOGS) and _is_log(path)


def read_folder(path: Path) -> tuple[Run, ...]:
    """One Run per training that wrote into an OUTPUT_DIR, from all of its files together.

    Raises InputError when no file in it can be read. A file that cannot is told as an event where
    others can; a config.yaml that cannot is no obstacle to rules that do not need it.
    """
    found = _found(path)
    if found.metrics is None and not found.logs and not any(one.rows for one in found.events):
        if found.problems:
            raise found.problems[0]
        raise InputError(
            str(path),
            "no metrics and no log in it",
            _EXPECTED,
            "Name the folder that the config calls OUTPUT_DIR",
        )
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
    told = tuple(Event("unreadable", str(one), read_from=one.where) for one in found.problems)
    events = (*runs[-1].events, *told, *found.unread)
    return (*runs[:-1], replace(runs[-1], events=events))


def read_file(path: Path) -> tuple[Run, ...]:
    """One Run per training of a file named by itself, whatever its name. Nothing beside it is read.

    Raises InputError as `read_metrics_json` and `read_log`.
    """
    try:
        with _opened(path) as stream:
            return read_stream(stream, path, no_config=_NO_CONFIG_BESIDE_FILE)
    except OSError as error:
        raise InputError(
            str(path), f"it cannot be read ({error.strerror})", _EXPECTED, "Check its rights"
        ) from error


def read_stream(
    stream: BufferedReader, path: Path, *, no_config: str = _NO_CONFIG_IN_TEXT
) -> tuple[Run, ...]:
    """One Run per training in a stream of rows, log lines or events, told by how it begins."""
    start = _beginning(stream)
    if _EVENT_FILE in start[:_EVENT_FILE_WITHIN]:
        from d2check.sources.tfevents import read_events_stream

        events = read_events_stream(stream, path.name)
        if not any(one.rows for one in events.segments):
            found = events.damaged or "no losses of a training in it"
            raise InputError(str(path), found, _EXPECTED, "Name the output folder that it is of")
        rows = with_clocks((), events.segments)
        return fused(pair(rows, ()), str(path), None, no_config=no_config)
    if _begins_with_a_row(start) or not _looks_like_log(start):
        segments = read_metrics_stream(stream, path).segments
        return fused(pair(segments, ()), str(path), None, no_config=no_config)
    from d2check.sources.log_txt import read_log_stream

    log = read_log_stream(stream, path.name)
    if not log.segments:
        raise InputError(
            str(path), "no training in it", _EXPECTED, "Name a log of a training, or its folder"
        )
    return fused(pair((), log.segments), str(path), None, no_config=no_config)


# ------------------------------------------------------------------------------------ the files


def _found(folder: Path) -> _Found:
    problems: list[InputError] = []
    sources: list[Path] = []
    metrics = None
    for name in METRICS:
        if metrics is None and (folder / name).is_file():
            try:
                metrics = read_metrics_json(folder / name)
                sources.append(folder / name)
            except InputError as error:
                problems.append(error)
    logs: list[LogSegment] = []
    ranks: list[LogSegment] = []
    log_files = _log_files(folder)
    if log_files:
        from d2check.sources.log_txt import read_log
    for path in log_files:
        earlier = tuple(logs)
        try:
            segments = read_log(path).segments
        except InputError as error:
            problems.append(error)
            continue
        if ".rank" in path.name:
            ranks += segments[-1:]
            continue
        logs += [one for one in segments if not _repeats(one, earlier)]
        sources.append(path)
    event_files = _event_files(folder)
    unread: tuple[Event, ...] = ()
    size = sum(path.stat().st_size for path in event_files)
    if metrics is not None and logs and size > _SMALL_BYTES:
        unread = (_not_read(event_files, size),)
        event_files = []
    events: list[EventsSegment] = []
    if event_files:
        from d2check.sources.tfevents import read_events
    for path in event_files:
        try:
            events += read_events(path).segments
            sources.append(path)
        except InputError as error:
            problems.append(error)
    return _Found(
        metrics, tuple(logs), tuple(events), tuple(ranks), tuple(sources), tuple(problems), unread
    )


def _not_read(files: Sequence[Path], size: int) -> Event:
    text = (
        f"{len(files)} TensorBoard event file{'s' if len(files) > 1 else ''} of "
        f"{size / 2**20:,.0f} MiB not read: metrics.json and a log tell the same and a clock"
    )
    return Event("not-read", text, read_from=str(files[0]))


def _event_files(folder: Path) -> list[Path]:
    """The event files, oldest first."""
    root = folder.resolve()
    return [
        path
        for path in sorted(folder.glob(_EVENT_FILES))
        if path.is_file() and path.resolve().is_relative_to(root)
    ]


def _log_files(folder: Path) -> list[Path]:
    """log.txt first, then other captures of the console, each of which looks like one."""
    named = [folder / name for name in LOGS if (folder / name).is_file()]
    root = folder.resolve()
    others = [
        path
        for path in sorted(folder.iterdir())
        if path not in named
        and (path.name.endswith(_MAYBE_LOGS) or path.name.startswith("log.txt.rank"))
        and not path.name.startswith(".")
        and path.is_file()
        and path.resolve().is_relative_to(root)
        and _is_log(path)
    ]
    return named + others


def _is_log(path: Path) -> bool:
    return _looks_like_log(_beginning_of(path))


def _looks_like_log(start: bytes) -> bool:
    from d2check.sources.log_txt import looks_like_log

    return looks_like_log(start)


def _looks_like_rows(path: Path) -> bool:
    start = _without_blanks(_beginning_of(path))
    return start.startswith(b"{") and _ITERATION.search(start) is not None


def _begins_with_a_row(start: bytes) -> bool:
    """Whether the first line is a row: then console lines further on are what broke into it."""
    line = _without_blanks(start).partition(b"\n")[0]
    return line.startswith(b"{") and _ITERATION.search(line) is not None


def _without_blanks(start: bytes) -> bytes:
    return start.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n\x00")


def _beginning_of(path: Path) -> bytes:
    try:
        with _opened(path) as stream:
            return _beginning(stream)
    except OSError:
        return b""


def _repeats(log: LogSegment, known: Sequence[LogSegment]) -> bool:
    """Whether a training, or a failed start, of another capture is in the list already."""
    loss = log.series.get("total_loss")
    for other in known:
        same = other.series.get("total_loss")
        if loss is None and same is None:
            mine, theirs = log.ending(None), other.ending(None)
            if (mine.error, mine.message) == (theirs.error, theirs.message):
                return True
        elif loss is not None and same is not None and loss.iterations[0] == same.iterations[0]:
            rows = min(len(loss), len(same))
            if (loss.values[:rows] == same.values[:rows]).all():
                return True
    return False


def _opened(path: Path) -> BufferedReader:
    return BufferedReader(FileIO(path), _SNIFF_BYTES)


def _beginning(stream: BufferedReader) -> bytes:
    """The first bytes, unpacked, without moving the stream: a pipe cannot go back."""
    start = stream.peek(_SNIFF_BYTES)
    if not start.startswith(b"\x1f\x8b"):
        return start
    try:
        return zlib.decompressobj(wbits=31).decompress(start, _SNIFF_BYTES)
    except zlib.error:
        return b""
