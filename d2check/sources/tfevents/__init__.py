"""TensorBoard event files of Detectron2: scalars and, alone among its outputs, a wall clock."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2check.errors import InputError, refused
from d2check.model import Event, Series
from d2check.sources._every import every_of
from d2check.sources._unpack import Readable
from d2check.sources.tfevents.wire import Records, scalars_of

__all__ = ["EventsFile", "EventsSegment", "read_events", "read_events_stream"]

WINDOW = 20  # TensorboardXWriter(window_size=20), utils/events.py
_RAW = ("lr", "eta_seconds", "kpts_num_skipped_batches")
_TASKS = {"bbox", "segm", "keypoints", "box_proposals", "sem_seg", "panoptic_seg", "densepose"}
_TRAINING = "total_loss"
_EXPECTED = "an event file that TensorboardXWriter wrote"
_MAX_STEP = 2**53


@dataclass(frozen=True, eq=False)
class EventsSegment:
    """One training of an event file.

    series: scalars by their tags, as metrics.json has them (medians of 20 where Detectron2
    smooths). clock: seconds since 1970 at each step that was written; the moment of writing, so
    that evaluations and checkpoints between two rows are part of the time between them. events,
    malformed_records: what was lost of the file, told with its last training.
    """

    series: Mapping[str, Series]
    clock: Series
    rows: int
    period: int
    last_training: int | None
    events: tuple[Event, ...]
    malformed_records: int
    read_from: str


@dataclass(frozen=True, eq=False)
class EventsFile:
    """All trainings of one file. damaged: what was lost of it, in words; None when it is whole."""

    segments: tuple[EventsSegment, ...]
    records: int
    scalars: int
    malformed_records: int
    damaged: str | None


def read_events(path: Path) -> EventsFile:
    """The scalars of an event file, packed (`.gz`) or not. One without scalars has no segments.

    Raises InputError for a file that cannot be opened or whose beginning is no record. A cut or
    broken record costs itself: what stands behind it is found by its checksum.
    """
    try:
        with path.open("rb") as stream:
            found = read_events_stream(stream, path.name)
    except OSError as error:
        raise refused(path, error, _EXPECTED) from error
    if not found.records and found.damaged:
        raise InputError(str(path), found.damaged, _EXPECTED, "Check the path")
    return found


def read_events_stream(stream: Readable, name: str) -> EventsFile:
    """The same from a stream of bytes. Never raises for what the bytes hold."""
    columns: dict[bytes, tuple[array[int], array[float], array[float]]] = {}
    records = Records(stream)
    malformed = scalars = 0
    for record in records:
        try:
            found = list(scalars_of(record))
        except ValueError:
            malformed += 1
            continue
        for tag, step, wall_s, value in found:
            if not 0 <= step < _MAX_STEP:
                malformed += 1
                continue
            column = columns.get(tag)
            if column is None:
                column = columns[tag] = (array("q"), array("d"), array("d"))
            column[0].append(step)
            column[1].append(wall_s)
            column[2].append(value)
            scalars += 1
    lost, damaged = malformed + records.broken, _damage(records)
    segments = _segments(columns, name)
    if segments:
        last = replace(segments[-1], malformed_records=lost)
        if damaged and not _only_cut(records):
            last = replace(last, events=(Event("damaged", damaged, last.last_training, name),))
        segments = (*segments[:-1], last)
    return EventsFile(segments, records.records, scalars, lost, damaged)


def _only_cut(records: Records) -> bool:
    packed = records.unpacked
    return records.truncated and not records.broken and not (packed and packed.damage)


def _damage(records: Records) -> str | None:
    """What was lost, in words. The last record of a training that still writes is cut as well."""
    if records.unpacked is not None and records.unpacked.damage:
        return f"the packed file is damaged ({records.unpacked.damage}), its end is lost"
    if records.broken and not records.records:
        return "it holds no records of an event file"
    if records.broken:
        places = "1 place" if records.broken == 1 else f"{records.broken} places"
        return f"broken in {places}, {records.lost_bytes:,} bytes are lost"
    if records.truncated and not records.records:
        return "its first record is cut" if records.size_bytes else None
    return "its last record is cut" if records.truncated else None


_Column = tuple["array[int]", "array[float]", "array[float]"]


def _segments(columns: Mapping[bytes, _Column], name: str) -> tuple[EventsSegment, ...]:
    if not columns:
        return ()
    guide = columns.get(_TRAINING.encode()) or max(columns.values(), key=lambda c: len(c[0]))
    steps = np.array(guide[0], np.int64)
    moments = np.array(guide[1], np.float64)
    # A second training of one process may go on in the same file, from a lower step.
    back = np.flatnonzero(np.diff(steps) < 0) + 1
    begins = [-np.inf, *moments[back].tolist()]
    ends = [*moments[back].tolist(), np.inf]
    found = []
    for begin, end in zip(begins, ends, strict=True):
        segment = _segment(columns, begin, end, name)
        if segment is not None:
            found.append(segment)
    return tuple(found)


def _segment(
    columns: Mapping[bytes, _Column], begin: float, end: float, name: str
) -> EventsSegment | None:
    parts: dict[str, tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]] = {}
    for tag, (steps, moments, values) in columns.items():
        wall = np.array(moments, np.float64)
        mine = (wall >= begin) & (wall < end)
        if mine.any():
            at = np.array(steps, np.int64)[mine]
            parts[tag.decode("utf-8", "replace")] = (
                at,
                wall[mine],
                np.array(values, np.float64)[mine],
            )
    if not parts:
        return None
    training = parts.get(_TRAINING)
    rows = len(training[0]) if training else 0
    period = _every(training[0]) if training and rows > 1 else WINDOW
    series = {tag: _series(tag, at, values, period, rows) for tag, (at, _, values) in parts.items()}
    clock_at, clock = _last_of_each(
        np.concatenate([at for at, _, _ in parts.values()]),
        np.concatenate([wall for _, wall, _ in parts.values()]),
    )
    return EventsSegment(
        series=series,
        clock=Series("clock", clock_at, clock, _every(clock_at)),
        rows=rows,
        period=period,
        last_training=int(training[0].max()) if training else None,
        events=(),
        malformed_records=0,
        read_from=name,
    )


def _series(
    tag: str, steps: NDArray[np.int64], values: NDArray[np.float64], period: int, rows: int
) -> Series:
    at, kept = _last_of_each(steps, values)
    every = _every(at) if len(at) > 1 else period
    rare = rows and len(at) < 0.34 * rows
    raw = tag in _RAW or not _TASKS.isdisjoint(tag.split("/")[:-1])
    if raw or (rare and "/" in tag and "loss" not in tag):
        return Series(tag, at, kept, every)
    return Series(tag, at, kept, every, WINDOW, "median")


def _last_of_each(
    steps: NDArray[np.int64], values: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Steps in rising order, each once, with the value that was written last."""
    order = np.argsort(steps, kind="stable")
    steps, values = steps[order], values[order]
    keep = np.append(steps[1:] != steps[:-1], True)
    return steps[keep], values[keep]


def _every(steps: NDArray[np.int64] | Sequence[int]) -> int:
    return max(every_of(steps), 1)
