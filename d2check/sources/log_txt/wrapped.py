"""Rows that a terminal has broken at its width, put together again."""

from __future__ import annotations

import re
from collections.abc import Sequence

from d2check.sources.log_txt import messages
from d2check.sources.log_txt.metric_line import MARK, MetricLine, parse_metric_line

_MAX_LINES = 60  # physical lines of one row; deep supervision fills twenty
_MIN_WIDTH = 40  # columns; no terminal is narrower
_TRAILING_BLANKS = 3  # that a capture may drop where a line was broken
_FRAGMENT = 12  # characters of the last number, without a name
_MEMORY_ENDS = re.compile(rb"max_mem: +\d+M\W*$")
_RATE_ENDS = re.compile(rb"(?:max_mem: +\d+M|lr: +\S+)\W*$")
_WHOLE_MEMORY = re.compile(rb"max_mem: +\d+[MG]")


class WrappedRow:
    """A row whose end may stand in the next lines.

    text: what there is of it so far, None when no row is held. lines: how many lines that is;
    number: of its first line. width: of the terminal, as far as broken rows have shown it.
    last_field: what every row so far ended in, `max_mem` or `lr`.
    """

    def __init__(self) -> None:
        self.text: bytes | None = None
        self.lines = 0
        self.number = 0
        self.width = 0
        self.last_field: str | None = None

    def learn(self, names: Sequence[str]) -> None:
        """Note what rows of this log end in."""
        if self.last_field != "max_mem":
            self.last_field = next((n for n in ("max_mem", "lr") if n in names), None)

    def is_whole(self, last: str) -> bool:
        """Whether no row that ends in this field was broken, as `may_go_on` would say of each."""
        return not self.width and (
            last == "max_mem" or (last == "lr" and self.last_field != "max_mem")
        )

    def may_go_on(self, line: bytes) -> bool:
        """Whether a row may have been broken at the end of this line."""
        if not self.width and line.endswith(b"M"):
            return False  # the last field, max_mem, is whole
        size = len(line)
        if size < _MIN_WIDTH:
            return False
        if self.width and self.width - _TRAILING_BLANKS <= size <= self.width:
            return True
        ends = _MEMORY_ENDS if self.last_field == "max_mem" else _RATE_ENDS
        return ends.search(line[-40:]) is None

    def hold(self, line: bytes, number: int) -> None:
        """Begin with this line."""
        self.text, self.lines, self.number = line, 1, number

    def join(self, line: bytes) -> bool:
        """Add the next line if the row goes on in it."""
        held = self.text
        assert held is not None
        width = max(len(held), self.width) if self.lines == 1 else self.width
        fits = len(line) <= width and self.lines < _MAX_LINES
        if not fits or not line.strip() or MARK in line:
            return False
        if messages.PREFIX.match(line.decode("utf-8", "replace")):
            return False
        # Blanks at the break are cut by some captures: only the width tells that they were there.
        short = -len(held) % width
        joined = held + b" " * (short if short <= _TRAILING_BLANKS else 0) + line
        if not _is_one_row(held, joined):
            return False
        self.text, self.width = joined, width
        self.lines += 1
        return True

    def is_last(self, line: bytes) -> bool:
        """Whether the row ends in this line, because it does not reach the terminal's edge."""
        return len(line) < self.width - _TRAILING_BLANKS

    def is_cut(self, row: MetricLine, text: bytes) -> bool:
        """Whether the end of the row is missing: the field that all rows before it ended in."""
        last = self.last_field
        if last is not None and last not in row.names and last not in row.unread:
            return True
        return b"max_mem: " in text and not _WHOLE_MEMORY.search(text)


def _is_one_row(held: bytes, joined: bytes) -> bool:
    """Whether the joined line reads as one row that has more in it than the held part."""
    before, after = parse_metric_line(held), parse_metric_line(joined)
    if after is None:
        return False
    if before is None:
        return True
    rest = joined[len(held) :]
    return len(after.names) > len(before.names) or b":" in rest or len(rest.strip()) <= _FRAGMENT
