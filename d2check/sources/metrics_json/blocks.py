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


def columns_of(keys: tuple[str, ...], blocks: list[Block]) -> Iterator[tuple[str, Column]]:
    """The columns of all blocks of one layout. Empties the list, to hold the values only once."""
    count = sum(len(block) for _, block in blocks)
    rows = np.empty(count, np.int64)
    table = np.empty((len(keys), count), np.float64)
    end = count
    while blocks:
        first, block = blocks.pop()
        start = end - len(block)
        rows[start:end] = np.arange(first, first + len(block))
        table[:, start:end] = block.T
        end = start
    for key, values in zip(keys, table, strict=True):
        here = values != ABSENT
        if here.all():
            yield key, Column(rows, values)
        elif here.any():
            yield key, Column(rows[here], values[here])


def joined(pieces: Sequence[Column]) -> Column:
    """One column of several, in the order of their rows."""
    if len(pieces) == 1:
        return pieces[0]
    rows = np.concatenate([piece.rows for piece in pieces])
    values = np.concatenate([piece.values for piece in pieces])
    order = np.argsort(rows, kind="stable")
    return Column(rows[order], values[order])
