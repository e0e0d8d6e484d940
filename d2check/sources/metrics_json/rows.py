"""Lines of flat JSON objects to columns: fast where the file is sound, line by line where not.

Detectron2's JSONWriter appends one object a line. The fast way decodes whole chunks into a
generated struct whose fields are the keys that the rows have had so far; whatever it refuses
(another layout, text, `null`, half a line) is read again line by line with the standard library,
so that both ways give the same rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from d2check.sources._unpack import Readable
from d2check.sources.metrics_json.blocks import (
    ABSENT,
    Column,
    Gathered,
    Joiner,
    Layout,
    can_be_in_layout,
    layout_of,
)
from d2check.sources.metrics_json.lines import ITERATION, numbers_of, objects_of
from d2check.sources.metrics_json.words import has_word, restore, swapped, unswapped

# 64 KiB to 1 MiB decode equally fast; from 4 MiB on the chunk leaves the processor's cache.
CHUNK_BYTES = 256 * 1024

_ROW_OF_ERROR = re.compile(r"at `\$\[(\d+)\]")
_BYTE_OF_ERROR = re.compile(r"\(byte (\d+)\)")
_MAX_WIDENED = 256  # keys; wider rows (AP per class of LVIS) are cheaper one at a time
_MAX_PLAIN = 64  # keys; up to so many a rare key costs less than looking for it
_MAX_LISTED = 100
_NEWLINE, _CARRIAGE_RETURN, _BRACE = b"\n\r}"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Malformed:
    """A line of which something was lost. line counts from 1; saved_rows were still read."""

    line: int
    saved_rows: int
    start: str


@dataclass(frozen=True, eq=False)
class Table:
    """All rows of a file, in file order.

    iteration: int64[rows]. columns: every other key that held a number at least once.
    not_numbers: key -> how often it held text, null or a structure instead. malformed: the first
    hundred lines of which something was lost; lost_before: int64[malformed lines], how many rows
    stand before each. lines: lines of the file, blank ones included.
    """

    iteration: NDArray[np.int64]
    columns: Mapping[str, Column]
    not_numbers: Mapping[str, int] = field(default_factory=dict)
    malformed: tuple[Malformed, ...] = ()
    lost_before: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    lines: int = 0
    size_bytes: int = 0

    @property
    def malformed_lines(self) -> int:
        """Lines of which something was lost."""
        return len(self.lost_before)

    def __len__(self) -> int:
        return len(self.iteration)


def read_table(stream: Readable, *, fast: bool = True) -> Table:
    """All rows of a binary stream, in memory bounded by the numbers: eight bytes each.

    Never raises for what the bytes hold: each line gives rows, is blank, or is counted in
    `malformed_lines`. An unterminated last line counts like any other. fast=False reads every
    line with the standard library and gives the same table.
    """
    reader = _Reader(fast=fast)
    rest = b""
    wanted = CHUNK_BYTES
    while data := stream.read(wanted):
        if not reader.size_bytes and not rest:
            data = data.removeprefix(_BYTE_ORDER_MARK)
        cut = data.rfind(b"\n") + 1
        if not cut:
            rest += data
            wanted = max(CHUNK_BYTES, len(rest))  # doubling, so that one huge line stays linear
            continue
        reader.take(rest + data[:cut] if rest else data[:cut])
        rest = data[cut:]
        wanted = CHUNK_BYTES
    if rest:
        reader.take(rest)
    return reader.table()


class _Reader:
    """The columns gathered so far, and the layout that the next rows probably have."""

    def __init__(self, *, fast: bool) -> None:
        self.fast = fast
        self.layout: Layout | None = None
        self.odd_keys: tuple[str, ...] = ()
        self.swapping = False
        self.rows = 0
        self.lines = 0
        self.size_bytes = 0
        self.blocks: dict[tuple[str, ...], Gathered] = {}
        self.pieces: dict[str, list[Column]] = {}
        self.not_numbers: dict[str, int] = {}
        self.malformed: list[Malformed] = []
        self.lost_before: list[int] = []

    def take(self, chunk: bytes) -> None:
        """Read whole lines; only the last one of a file may lack its newline."""
        self.size_bytes += len(chunk)
        if not self.fast:
            self._by_line(chunk)
            return
        self._read(swapped(chunk) if self.swapping else chunk)

    def _read(self, chunk: bytes) -> None:
        start = 0
        while start < len(chunk):
            start = self._by_layout(chunk, start)
            if start == len(chunk):
                break
            end = chunk.find(b"\n", start) + 1 or len(chunk)
            if not self.swapping and has_word(chunk[start:end]):
                self.swapping = True
                chunk, start = swapped(chunk[start:]), 0
                continue
            if not self._learn(chunk[start:end]):
                self._by_line(chunk[start:end])
                start = end

    def _by_layout(self, chunk: bytes, start: int) -> int:
        """Read on from `start` while the rows fit; where it stopped, at a line that does not."""
        if self.layout is None:
            return start
        with memoryview(chunk) as view:
            try:
                rows = self.layout.decode_lines(view[start:])
                stop = len(chunk)
            except (msgspec.MsgspecError, RecursionError) as error:
                stop = _start_of_bad_line(chunk, start, error)
                rows = _decoded_or_none(self.layout, view[start:stop])
        if stop == start:
            return start
        if rows is not None and _one_object_a_line(chunk, start, stop, len(rows)):
            self._add_block(self.layout, rows, chunk, start)
            return stop
        # Blank lines, two rows on one line, one row on two: narrow it down.
        half = chunk.find(b"\n", (start + stop) // 2, stop - 1) + 1
        if not half:
            self._by_line(chunk[start:stop])
        else:
            self._read(chunk[start:half])
            self._read(chunk[half:stop])
        return stop

    def _learn(self, line: bytes) -> bool:
        """Let the layout cover the keys of a line that it refused; whether that changed it."""
        objects, whole = objects_of(unswapped(line) if self.swapping else line)
        keys = tuple(objects[0]) if whole and len(objects) == 1 else ()
        numbers = numbers_of(objects[0]) if keys else None
        if numbers is None or len(numbers) < len(keys) or not all(map(can_be_in_layout, keys)):
            return False
        known = self.layout.keys if self.layout else ()
        union = tuple(dict.fromkeys(chain(known, keys)))
        if len(union) == len(known):
            return False
        before, self.odd_keys = self.odd_keys, keys
        if len(union) <= max(2 * len(known), _MAX_WIDENED):
            self.layout = layout_of(union)
        elif not known or keys == before:
            self.layout = layout_of(keys)
        else:
            return False
        return True

    def _add_block(self, layout: Layout, rows: Sequence[Any], chunk: bytes, start: int) -> None:
        """Keep decoded rows that stand one a line from `start` on."""
        block = layout.block(rows)
        if self.swapping:
            restore(block)
        at = block[:, layout.iteration_at]
        good = (at >= 0) & (at < 2**53) & (at == np.floor(at))
        if not good.all():
            lines = chunk[start:].split(b"\n")
            for index in np.flatnonzero(~good).tolist():
                row = self.rows + int(np.count_nonzero(good[:index]))
                text = unswapped(lines[index]) if self.swapping else lines[index]
                self._lost(self.lines + index + 1, row, 0, text)
            block = block[good]
        self.lines += len(rows)
        if not len(block):
            return
        if layout.keys not in self.blocks:
            self.blocks[layout.keys] = Gathered(layout.keys)
        self.blocks[layout.keys].add(self.rows, block)
        self.rows += len(block)
        if len(layout.keys) > _MAX_PLAIN:
            self._narrow(layout, block)

    def _narrow(self, layout: Layout, block: NDArray[np.float64]) -> None:
        """Forget keys that are rare: one wide row (an evaluation) must not slow all that follow."""
        share = (block != ABSENT).mean(axis=0)
        if len(block) > 10 and share.mean() < 0.25:
            often = [key for key, one in zip(layout.keys, share, strict=True) if one >= 0.1]
            self.layout = layout_of(tuple(often))

    def _by_line(self, data: bytes) -> None:
        kept: list[Mapping[str, float]] = []
        for line in data.removesuffix(b"\n").split(b"\n"):
            self.lines += 1
            original = unswapped(line) if self.swapping else line
            objects, whole = objects_of(original)
            saved = 0
            for row in objects:
                numbers = numbers_of(row)
                if numbers is None:
                    continue
                saved += 1
                kept.append(numbers)
                for key in row.keys() - numbers.keys():
                    self.not_numbers[key] = self.not_numbers.get(key, 0) + 1
            if not whole or saved < len(objects):
                self._lost(self.lines, self.rows + len(kept) - saved, saved, original)
        self._add_rows(kept)

    def _add_rows(self, rows: Sequence[Mapping[str, float]]) -> None:
        gathered: dict[str, tuple[list[int], list[float]]] = {}
        for number, row in enumerate(rows, self.rows):
            for key, value in row.items():
                where, values = gathered.setdefault(key, ([], []))
                where.append(number)
                values.append(value)
        for key, (where, values) in gathered.items():
            column = Column(np.array(where, np.int64), np.array(values, np.float64))
            self.pieces.setdefault(key, []).append(column)
        self.rows += len(rows)

    def _lost(self, line: int, row: int, saved_rows: int, text: bytes) -> None:
        self.lost_before.append(row)
        if len(self.malformed) < _MAX_LISTED:
            start = text[:80].decode("utf-8", "replace")
            self.malformed.append(Malformed(line, saved_rows, start))

    def table(self) -> Table:
        """All that was read; the reader is empty afterwards."""
        for keys in list(self.blocks):
            for key, column in self.blocks.pop(keys).columns():
                self.pieces.setdefault(key, []).append(column)
        joiner = Joiner()
        columns = {key: joiner.join(self.pieces.pop(key)) for key in list(self.pieces)}
        iteration = columns.pop(ITERATION, None)
        return Table(
            np.empty(0, np.int64) if iteration is None else iteration.values.astype(np.int64),
            columns,
            self.not_numbers,
            tuple(self.malformed),
            np.array(self.lost_before, np.int64),
            self.lines,
            self.size_bytes,
        )


def _decoded_or_none(layout: Layout, data: memoryview) -> Sequence[Any] | None:
    try:
        rows: Sequence[Any] = layout.decode_lines(data)
    except (msgspec.MsgspecError, RecursionError):
        return None
    return rows


def _start_of_bad_line(chunk: bytes, start: int, error: Exception) -> int:
    """Where the line begins that made the decoder raise, as far as the error tells."""
    if row := _ROW_OF_ERROR.search(str(error)):
        for _ in range(int(row.group(1))):
            following = chunk.find(b"\n", start) + 1
            if not following:
                break
            start = following
    elif byte := _BYTE_OF_ERROR.search(str(error)):
        start = chunk.rfind(b"\n", start, start + int(byte.group(1))) + 1 or start
    else:  # the data ended within a row
        start = chunk.rfind(b"\n", start, len(chunk) - 1) + 1 or start
    return start


def _one_object_a_line(chunk: bytes, start: int, stop: int, rows: int) -> bool:
    """Whether these flat objects, already decoded, stand one on each line.

    As many lines as rows is not enough: two rows on one line may make up for a blank one.
    """
    data = np.frombuffer(chunk, np.uint8, stop - start, start)
    ends = np.flatnonzero(data == _NEWLINE)  # four times as fast as bytes.count
    if data[-1] != _NEWLINE:
        ends = np.append(ends, len(data))
    if len(ends) != rows or ends[0] == 0:
        return False
    last = data[ends - 1]
    carriage = last == _CARRIAGE_RETURN
    last[carriage] = data[np.maximum(ends[carriage] - 2, 0)]
    return bool((last == _BRACE).all())
