"""How many lines of a log were what."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LineCounts:
    """How many lines were what. known: messages and blocks that were understood."""

    metric: int = 0
    known: int = 0
    other: int = 0
    malformed: int = 0
    blank: int = 0

    @property
    def total(self) -> int:
        """All lines of the file."""
        return self.metric + self.known + self.other + self.malformed + self.blank


@dataclass(frozen=True)
class Malformed:
    """A line of which something was lost. line counts from 1."""

    line: int
    start: str
