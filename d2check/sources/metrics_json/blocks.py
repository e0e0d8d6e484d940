"""Rows of one layout decoded at once, and the columns that they become."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from d2check.sources.metrics_json.lines import ITERATION

_NO_FIELD = re.compile(r'[\x00-\x1f"\\\ud800-\udfff]')

_PIECE_BYTES = 40 * 2**20  # malloc gives back what is freed above 32 MiB, and keeps the rest
ABSENT = 1.3847562910473829e308  # no training produces it; NaN is a value of its own


@dataclass(frozen=True, eq=False)
class Column:
    """One key. rows: int64[n], strictly increasing row numbers; values: float64[n]."""

    rows: NDArray[np.int64]
    values: NDArray[np.float64]


# Number of its first row; float64[rows, keys].
Block = tuple[int, NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Layout:
    """Keys in the order of a block's columns, and the decoder for rows that have no others."""

    keys: tuple[str, ...]
    decode_lines: Any
    iteration_at: int

    def block(self, rows: Sequence[Any]) -> NDArray[np.float64]:
        """float64[rows, keys] of decoded rows, ABSENT where a row lacks the key."""
        width = len(self.keys)
        flat = chain.from_iterable(map(msgspec.structs.astuple, rows))
        return np.fromiter(flat, np.float64, count=width * len(rows)).reshape(-1, width)


def can_be_in_layout(key: str) -> bool:
    """Whether msgspec takes the key as a field's name."""
    return _NO_FIELD.search(key) is None


@lru_cache(maxsize=256)  # the files of one project share their layouts
def layout_of(keys: tuple[str, ...]) -> Layout:
    """The layout of these keys, `iteration` among them."""
    names = [f"f{i}" for i in range(len(keys))]
    row = msgspec.defstruct(
        "Row",
        [(name, float, ABSENT) for name in names],
        rename=dict(zip(names, keys, strict=True)),
        forbid_unknown_fields=True,
        gc=False,
    )
    return Layout(keys, msgspec.json.Decoder(row).decode_lines, keys.index(ITERATION))


class Gathered:
    """The blocks of one layout, held so that turning them into columns needs no second copy."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        """Nothing yet."""
        self._keys = keys
        self._blocks: list[Block] = []
        self._size_bytes = 0
        self._pieces: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []

    def add(self, first_row: int, block: NDArray[np.float64]) -> None:
        """Keep a block, float64[rows, keys], of rows that begin with number `first_row`."""
        self._blocks.append((first_row, block))
        self._size_bytes += block.nbytes
        if self._size_bytes >= _PIECE_BYTES:
            self._pack()

    def columns(self) -> Iterator[tuple[str, Column]]:
        """The columns; the blocks are gone afterwards."""
        self._pack()
        count = sum(len(rows) for rows, _ in self._pieces)
        all_rows = np.empty(count, np.int64)
        columns = [np.empty(count, np.float64) for _ in self._keys]
        end = count
        while self._pieces:
            rows, values = self._pieces.pop()
            start = end - len(rows)
            all_rows[start:end] = rows
            for column, part in zip(columns, values, strict=True):
                column[start:end] = part
            end = start
        del rows, values
        for key, column in zip(self._keys, columns, strict=True):
            here = column != ABSENT
            if here.all():
                yield key, Column(all_rows, column)
            elif here.any():
                yield key, Column(all_rows[here], column[here])

    def _pack(self) -> None:
        if self._blocks:
            rows = [np.arange(first, first + len(block)) for first, block in self._blocks]
            values = np.concatenate([block for _, block in self._blocks]).T
            self._pieces.append((np.concatenate(rows), np.ascontiguousarray(values)))
            self._blocks, self._size_bytes = [], 0


class Joiner:
    """Puts the pieces of keys together, each into one column in the order of its rows.

    Keys whose pieces stand in the very same rows share one array of row numbers.
    """

    def __init__(self) -> None:
        """Nothing yet."""
        self._known: dict[tuple[int, ...], tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        self._alive: list[NDArray[np.int64]] = []  # else an identity might be given away again

    def join(self, pieces: Sequence[Column]) -> Column:
        """One column."""
        if len(pieces) == 1:
            return pieces[0]
        where = tuple(id(piece.rows) for piece in pieces)
        if where not in self._known:
            self._alive += [piece.rows for piece in pieces]
            rows = np.concatenate([piece.rows for piece in pieces])
            order = np.argsort(rows, kind="stable")
            self._known[where] = rows[order], order
        rows, order = self._known[where]
        return Column(rows, np.concatenate([piece.values for piece in pieces])[order])
