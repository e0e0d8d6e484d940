"""metrics.json of any Detectron2 version, split into its trainings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2check.errors import InputError, refused
from d2check.model import Ending, Event, Series
from d2check.sources._unpack import MAGIC, UTF_16, Decoded, Readable, Unpacked
from d2check.sources.metrics_json.meaning import Samples, is_raw_writer, samples_at, series_of
from d2check.sources.metrics_json.rows import Malformed, Table, read_table
from d2check.sources.metrics_json.segments import Segments, period_of, split
from d2check.sources.metrics_json.traces import (
    BrokenIteration,
    broken_iteration,
    ending_of,
    planned_from_eta,
    starts_of,
)

__all__ = [
    "MetricsFile",
    "MetricsSegment",
    "broken_iteration",
    "from_table",
    "period_of",
    "read_metrics_json",
    "read_metrics_stream",
    "segment_of_series",
    "starts_of",
]

_NO_END = 2**62
_EXPECTED = "rows of metrics.json, one JSON object with an iteration on each line"


@dataclass(frozen=True, eq=False)
class MetricsSegment:
    """One training of a metrics.json.

    series: every key by its name. rows: those of starts that failed after it included.
    planned_iterations: told by eta_seconds, None if it cannot be.
    last_training: iteration of its last row with losses. malformed_lines: those that follow its
    rows. lost: between which iterations of rows with losses they stand, these excluded.
    """

    series: Mapping[str, Series]
    rows: int
    period: int
    planned_iterations: int | None
    last_training: int | None
    last_row: int | None
    broken: BrokenIteration | None
    events: tuple[Event, ...]
    malformed_lines: int
    read_from: str
    lost: tuple[tuple[int, int], ...] = ()

    def ending(self, planned_iterations: int | None) -> Ending:
        """How it ended, when this many iterations were planned (None: nobody knows)."""
        return ending_of(
            planned=planned_iterations,
            last_training=self.last_training,
            last_row=self.last_row,
            broken=self.broken,
            read_from=self.read_from,
        )


@dataclass(frozen=True, eq=False)
class MetricsFile:
    """All trainings of one file, in the order of their first rows."""

    segments: tuple[MetricsSegment, ...]
    malformed: tuple[Malformed, ...]
    lines: int


def read_metrics_json(path: Path) -> MetricsFile:
    """The trainings of a metrics.json, or of a `.gz` of one.

    Raises InputError for a file that is empty, that cannot be opened, or of which no line is a
    row. Anything else is read as far as it goes; lost lines are counted.
    """
    try:
        with path.open("rb") as stream:
            return read_metrics_stream(stream, path)
    except OSError as error:
        raise refused(path, error, _EXPECTED) from error


def read_metrics_stream(stream: BufferedReader, path: Path) -> MetricsFile:
    """The same from an open stream, a pipe perhaps. path: to name it by. Raises OSError too."""
    start = stream.peek(2)
    unpacked = Unpacked(stream) if start.startswith(MAGIC) else None
    content: Readable = unpacked or (Decoded(stream) if start.startswith(UTF_16) else stream)
    table = read_table(content)
    damage = unpacked.damage if unpacked else None
    if damage and not len(table):
        raise InputError(
            str(path), f"it cannot be unpacked ({damage})", _EXPECTED, "Copy the file again"
        )
    if not len(table):
        raise _no_rows(path, table)
    file = from_table(table, path.name)
    if not damage:
        return file
    message = f"the packed file is damaged ({damage}), rows after its last one are lost"
    last = file.segments[-1]
    events = (*last.events, Event("damaged", message, last.last_row, path.name))
    return replace(file, segments=(*file.segments[:-1], replace(last, events=events)))


def from_table(table: Table, read_from: str) -> MetricsFile:
    """The trainings among rows that have been read already."""
    segments = split(table)
    # A lost line, and what a failed start left, count for the segment before them, or the first.
    lost = _owners(segments, table.lost_before - 1)
    strays = _owners(segments, np.flatnonzero(segments.labels < 0))
    return MetricsFile(
        tuple(
            _segment(
                table,
                segments,
                label,
                table.lost_before[lost == label],
                int((strays == label).sum()),
                read_from,
            )
            for label in range(len(segments))
        ),
        table.malformed,
        table.lines,
    )


def _owners(segments: Segments, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64[n]: the segment of each of these rows; that of the row before where it has none."""
    if not len(rows):
        return rows
    placed = np.flatnonzero(segments.labels >= 0)
    before = placed[np.clip(np.searchsorted(placed, rows, side="right") - 1, 0, None)]
    owners: NDArray[np.int64] = segments.labels[before]
    return owners


def _segment(
    table: Table,
    segments: Segments,
    label: int,
    lost_before: NDArray[np.int64],
    strays: int,
    read_from: str,
) -> MetricsSegment:
    mine = segments.labels == label
    where = np.flatnonzero(mine & segments.training)
    training = table.iteration[where]
    lost = len(lost_before)
    series = _series(table, segments, mine, max(len(training), 1))
    iterations = table.iteration[mine]
    lr = series.get("lr")
    events = starts_of(training, segments.period, lr, lost=lost, read_from=read_from)
    if strays:
        message = f"{strays} rows of starts that died before their first loss"
        events += (Event("failed-start", message, read_from=read_from),)
    if segments.interleaved:
        message = "two processes wrote into one file at the same time; their rows may be mixed up"
        events += (Event("two-writers", message, read_from=read_from),)
    return replace(
        segment_of_series(
            series,
            training,
            rows=int(mine.sum()) + strays,
            period=segments.period,
            read_from=read_from,
        ),
        last_row=int(iterations.max()) if len(iterations) else None,
        events=events,
        malformed_lines=lost,
        lost=_around(training, np.searchsorted(where, lost_before)),
    )


def _around(training: NDArray[np.int64], lost: NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    """The iterations of the training rows before and after each lost line.

    lost: int64[n], how many training rows stand before each.
    """
    if not len(lost):
        return ()
    edges = [-1, *training.tolist(), _NO_END]
    return tuple((edges[at], edges[at + 1]) for at in sorted(set(lost.tolist())))


def segment_of_series(
    series: Mapping[str, Series],
    training: NDArray[np.int64],
    *,
    rows: int,
    period: int,
    read_from: str,
) -> MetricsSegment:
    """A training by its series, wherever they were read. training: iterations with losses."""
    last = max((int(one.iterations[-1]) for one in series.values() if len(one)), default=None)
    return MetricsSegment(
        series=series,
        rows=rows,
        period=period,
        planned_iterations=planned_from_eta(series),
        last_training=int(training.max()) if len(training) else None,
        last_row=last,
        broken=broken_iteration(series, training),
        events=starts_of(training, period, series.get("lr"), lost=0, read_from=read_from),
        malformed_lines=0,
        read_from=read_from,
    )


def _series(
    table: Table, segments: Segments, mine: NDArray[np.bool_], training_rows: int
) -> dict[str, Series]:
    alone = bool(mine.all())
    loss = table.columns.get("total_loss")
    raw_writer = loss is not None and is_raw_writer(
        loss.values if alone else loss.values[mine[loss.rows]], segments.period
    )
    # Most keys come in every row and share the very same array of row numbers.
    shared: dict[int, tuple[NDArray[np.bool_] | None, Samples]] = {}
    series = {}
    for key, column in table.columns.items():
        if id(column.rows) not in shared:
            keep = None if alone else mine[column.rows]
            rows = column.rows if keep is None else column.rows[keep]
            at = samples_at(rows, table.iteration[rows], segments.period)
            shared[id(column.rows)] = keep, at
        keep, samples = shared[id(column.rows)]
        if len(samples.iterations):
            series[key] = series_of(
                key,
                samples,
                column.values if keep is None else column.values[keep],
                share_of_rows=len(samples.rows) / training_rows,
                raw_writer=raw_writer,
            )
    return series


def _no_rows(path: Path, table: Table) -> InputError:
    if not table.size_bytes:
        return InputError(
            str(path),
            "the file is empty",
            _EXPECTED,
            "The training wrote nothing: it failed before its first 20 iterations, see log.txt",
        )
    start = table.malformed[0].start if table.malformed else ""
    binary = any(ord(c) < 9 or c == "\ufffd" for c in start)
    found = "the file is binary" if binary else f"none of its {table.lines} lines is such a row"
    return InputError(
        str(path), found, _EXPECTED, "Name a metrics.json, an output folder or a run folder"
    )
