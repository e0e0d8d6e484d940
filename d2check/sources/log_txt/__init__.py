"""log.txt, console output and pasted lines of Detectron2 and its forks, split into trainings."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from d2check.errors import InputError
from d2check.sources.log_txt.metric_line import MetricLine, parse_metric_line
from d2check.sources.log_txt.reader import LineCounts, Malformed, Reader
from d2check.sources.log_txt.segments import LogSegment, segments_of
from d2check.sources.log_txt.stream import Readable, plain

__all__ = [
    "LineCounts",
    "LogFile",
    "LogSegment",
    "Malformed",
    "MetricLine",
    "looks_like_log",
    "parse_metric_line",
    "plain",
    "read_log",
    "read_log_bytes",
    "read_log_stream",
]

_EXPECTED = "a log.txt of Detectron2, its console output, or lines copied from it"
_SNIFF_BYTES = 256 * 1024
_SIGNS = (b"iter: ", b"d2.engine", b"detectron2", b"fvcore", b"Rank of current process")


@dataclass(frozen=True, eq=False)
class LogFile:
    """All trainings of one log, in file order. malformed: the first hundred such lines."""

    segments: tuple[LogSegment, ...]
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
        raise InputError(
            str(path),
            f"it cannot be read ({error.strerror})",
            _EXPECTED,
            "Check the path and its rights",
        ) from error
    counts = log.counts
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
    return LogFile(
        segments_of(reader.starts), reader.counts, tuple(reader.malformed), reader.size_bytes
    )


def read_log_bytes(data: bytes, name: str = "pasted text") -> LogFile:
    """The same for text at hand: a paste, one line."""
    return read_log_stream(io.BytesIO(data), name)


def looks_like_log(start: bytes) -> bool:
    """Whether the first bytes of a file are those of such a log (UTF-8 or plain ASCII)."""
    return any(sign in start[:_SNIFF_BYTES] for sign in _SIGNS)
