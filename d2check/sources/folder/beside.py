"""Files that tell of a folder's training under another name, or from a folder below it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from io import BufferedReader, BytesIO, FileIO
from pathlib import Path

import numpy as np

from d2check.errors import InputError
from d2check.model import Series
from d2check.sources.folder import files
from d2check.sources.folder.agreeing import same_numbers

# Folders in which people let TensorBoard's writer put its files, below an OUTPUT_DIR.
EVENT_FOLDERS = frozenset({
    "tb", "tblog", "tblogs", "tb_log", "tb_logs", "tensorboard", "tensorboard_log",
    "tensorboard_logs", "tensorboardx", "tf_logs", "tflogs", "events", "event", "runs", "summary",
    "summaries", "tfevents", "tf_events",
})  # fmt: skip
_ROW_BYTES = 4096  # the first ones, which differ where two trainings do
_CHUNK = 2**20
_EVENT_BYTES, _TOLD_BYTES = 2**20, 16 * 2**20  # of an event file, and of the rows or the log above
_FEWEST_ROWS = 3
_SAME_SHARE = 0.95
_LOSS = "total_loss"


def copies_of_rows(folder: Path, names: Sequence[str]) -> list[Path]:
    """Files beside metrics.json that hold its rows as well: it, and as much of it as there was.

    Or more of it, as a later copy does: one is a copy of the other where the shorter is the
    beginning of the longer, byte for byte, and more than one row. Raises OSError.
    """
    if files.METRICS[0] not in names:
        return []
    main = folder / files.METRICS[0]
    others = [folder / name for name in names if files.named_like_rows(name)]
    return [path for path in others if path != main and _one_begins_the_other(main, path)]


def renamed_rows(folder: Path, names: Sequence[str]) -> list[Path]:
    """Files with the rows of a log.txt that lies there without a metrics.json, the longest first.

    None where two of them hold different rows, or none what the log printed. Raises OSError.
    """
    if not set(files.METRICS).isdisjoint(names) or set(files.LOGS).isdisjoint(names):
        return []
    found = [folder / name for name in names if files.named_like_rows(name)]
    found = [one for one in found if files.is_own_file(one) and _holds_rows(one)]
    found.sort(key=lambda path: -path.stat().st_size)
    if not found or not all(_one_begins_the_other(found[0], one) for one in found[1:]):
        return []
    printed = [mine for mine, _ in _told_in(folder)]
    same = any(_same_rows(a, b, True) for a in printed for b in _losses_of_rows(found[0]))
    return found if same else []


def is_copy(path: Path) -> bool:
    """Whether a file of rows beside an output's own files is of that output. Raises OSError."""
    if (path.parent / files.METRICS[0]).is_file():
        return bool(copies_of_rows(path.parent, [files.METRICS[0], path.name]))
    return path in renamed_rows(path.parent, files.names_in(path.parent))


def events_below(folder: Path, names: Sequence[str]) -> list[Path]:
    """Event files in a folder of their own below an output that show the same losses."""
    found = []
    for name in names:
        if name.lower() in EVENT_FOLDERS and not os.path.islink(folder / name):
            found += _own_events(folder, folder / name)
    beside = {path.name for path in files.event_files(folder, names)} if found else set()
    return [path for path in found if path.name not in beside]


def is_of_output_above(folder: Path) -> bool:
    """Whether a folder holds nothing but events of the output that it lies in. Raises OSError."""
    return folder.name.lower() in EVENT_FOLDERS and bool(_own_events(folder.parent, folder))


def _own_events(output: Path, below: Path) -> list[Path]:
    if not below.is_dir():
        return []
    names = files.names_in(below)
    events = files.event_files(below, names)
    if not events or any(files.may_tell(name) for name in names if below / name not in events):
        return []
    told = list(_told_in(output))
    return events if any(_shows(path, told) for path in events) else []


def _told_in(output: Path) -> Iterator[tuple[Series, bool]]:
    """The losses of an output's rows, else of its log, and whether they were printed."""
    names = files.names_in(output)
    for path in files.named(output, names, files.METRICS):
        losses = _losses_of_rows(path)
        if losses:
            yield from ((one, False) for one in losses)
            return
    for path in files.named(output, names, files.LOGS):
        from d2check.sources.log_txt import read_log_stream

        log = read_log_stream(_first(path, _TOLD_BYTES), path.name)
        yield from ((one.series[_LOSS], True) for one in log.segments if _LOSS in one.series)


def _holds_rows(path: Path) -> bool:
    return files.looks_like_rows(files.beginning_of(path))


def _losses_of_rows(path: Path) -> list[Series]:
    from d2check.sources.metrics_json import read_metrics_stream

    try:
        rows = read_metrics_stream(_first(path, _TOLD_BYTES), path)
    except InputError:
        return []
    return [one.series[_LOSS] for one in rows.segments if _LOSS in one.series]


def _shows(path: Path, told: Sequence[tuple[Series, bool]]) -> bool:
    from d2check.sources.tfevents import read_events_stream

    found = read_events_stream(_first(path, _EVENT_BYTES), path.name)
    losses = [one.series[_LOSS] for one in found.segments if _LOSS in one.series]
    return any(_same_rows(mine, shown, printed) for mine, printed in told for shown in losses)


def _same_rows(mine: Series, shown: Series, printed: bool) -> bool:
    _, here, there = np.intersect1d(
        mine.iterations, shown.iterations, assume_unique=True, return_indices=True
    )
    if len(here) < min(_FEWEST_ROWS, len(shown)) or not len(here):
        return False
    told, seen = mine.values[here], shown.values[there]
    exact, rounded = (seen, told) if printed else (told, seen)
    return float(same_numbers(exact, rounded, printed=printed).mean()) >= _SAME_SHARE


def _first(path: Path, size: int) -> BufferedReader:
    with FileIO(path) as file:
        start = BytesIO(file.read(size))
    return BufferedReader(start, files.SNIFF_BYTES)


def _one_begins_the_other(one: Path, other: Path) -> bool:
    """Whether the shorter of two files is the beginning of the longer, and more than a row."""
    if not files.is_own_file(one) or not files.is_own_file(other):
        return False
    size = min(one.stat().st_size, other.stat().st_size)
    rows = 0
    with FileIO(one) as a, FileIO(other) as b:
        mine, theirs = a.read(min(size, _ROW_BYTES)), b.read(min(size, _ROW_BYTES))
        left = size
        while mine and mine == theirs:
            rows += mine.count(b"\n")
            left -= len(mine)
            mine, theirs = a.read(min(left, _CHUNK)), b.read(min(left, _CHUNK))
        whole = left == 0 and mine == theirs
    return whole and (rows > 1 or one.stat().st_size == other.stat().st_size > 0)
