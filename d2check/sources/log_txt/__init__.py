"""log.txt, console output and pasted lines of Detectron2 and its forks, split into trainings."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, replace
from pathlib import Path

from d2check.errors import InputError, refused
from d2check.model import Event
from d2check.sources._unpack import Readable
from d2check.sources.log_txt.counts import LineCounts, Malformed
from d2check.sources.log_txt.metric_line import MetricLine, parse_metric_line
from d2check.sources.log_txt.reader import Reader
from d2check.sources.log_txt.segments import LogSegment, segments_of, setup_of
from d2check.sources.log_txt.stream import plain

__all__ = [
    "LineCounts",
    "LogFile",
    "LogSegment",
    "Malformed",
    "MetricLine",
    "looks_like_log",
    "nothing_in",
    "parse_metric_line",
    "plain",
    "read_log",
    "read_log_bytes",
    "read_log_stream",
]

_EXPECTED = "a log.txt of Detectron2, its console output, or lines copied from it"
_LOSSES = re.compile(rb"\btotal_loss: +[\d.]")
# Programs whose lines look alike and mean other things.
_OTHERS = {
    "MMDetection or a sibling": re.compile(
        rb" - mm\w+ - [A-Z]+ - |\bEpoch(?:\(train\))? ?\[\d+\]\["
    ),
    "torchvision's reference scripts": re.compile(rb"\bEpoch: \[\d+\] +\[ *\d+/\d+\]"),
    "Detectron, the first": re.compile(rb"\bjson_stats: \{"),
}
_SNIFF_BYTES = 256 * 1024
_SIGNS = (b"iter: ", b"d2.engine", b"detectron2", b"fvcore", b"Rank of current process")


@dataclass(frozen=True, eq=False)
class LogFile:
    """All trainings of one log, in file order. malformed: the first hundred such lines.

    setup: where there is none, what the lines tell of one all the same: its data, its weights.
    damage: what stopped the unpacking of a packed file; an event of the last training as well.
    """

    segments: tuple[LogSegment, ...]
    setup: LogSegment | None
    damage: str | None
    counts: LineCounts
    malformed: tuple[Malformed, ...]
    size_bytes: int


def read_log(path: Path) -> LogFile:
    """The trainings of a log file, packed (`.gz`) or not.

    Raises InputError for a file that cannot be opened, is empty, or in which not one line is of
    Detectron2 or a fork. Memory is bounded by the numbers, not by the text.
    """
    try:
        with path.open("rb") as stream:
            log = read_log_stream(stream, path.name)
    except OSError as error:
        raise refused(path, error, _EXPECTED) from error
    counts = log.counts
    if log.damage and not log.segments:
        found = f"it cannot be unpacked ({log.damage})"
        raise InputError(str(path), found, _EXPECTED, "Copy the file again")
    if not log.size_bytes:
        raise InputError(str(path), "the file is empty", _EXPECTED, "Check the path")
    if not counts.metric and not counts.known:
        found = f"none of its {counts.total:,} lines is of a training by Detectron2"
        raise InputError(str(path), found, _EXPECTED, "Name a log.txt or an output folder")
    return log


def read_log_stream(stream: Readable, name: str) -> LogFile:
    """The trainings in a stream of bytes. Never raises for what the bytes hold."""
    reader = Reader(name)
    reader.read(stream)
    segments = segments_of(reader.starts)
    setup = None if segments else setup_of(reader.starts)
    if segments and reader.damage:
        last = segments[-1]
        text = f"the packed file is damaged ({reader.damage}), what follows its last line is lost"
        event = Event("damaged", text, last.last_training, f"{name}:{reader.lines}")
        segments = (*segments[:-1], replace(last, events=(*last.events, event)))
    malformed = tuple(reader.malformed)
    return LogFile(segments, setup, reader.damage, reader.counts, malformed, reader.size_bytes)


def read_log_bytes(data: bytes, name: str = "pasted text") -> LogFile:
    """The same for text at hand: a paste, one line."""
    return read_log_stream(io.BytesIO(data), name)


def nothing_in(log: LogFile, name: str, start: bytes) -> InputError:
    """Why text has no training in it. start: its first bytes."""
    lines = f"{log.counts.total:,} line{'s' if log.counts.total > 1 else ''}"
    found = f"no training in its {lines}"
    do = "Name an output folder, a metrics.json or a log, or paste lines of the training's console"
    for program, sign in _OTHERS.items():
        if sign.search(start[:_SNIFF_BYTES]):
            found, do = f"lines of {program}, which Detectron2 does not print", "Name other lines"
    if _LOSSES.search(start[:_SNIFF_BYTES]):
        found = f"losses, but no iteration in its {lines}"
        do = "Paste whole lines, `iter: ` included; d2check explain reads these"
    return InputError(name, found, _EXPECTED, do)


def looks_like_log(start: bytes) -> bool:
    """Whether the first bytes of a file are those of such a log (UTF-8 or plain ASCII)."""
    return any(sign in start[:_SNIFF_BYTES] for sign in _SIGNS)
