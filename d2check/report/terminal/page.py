"""A page of text of a given width, with or without colour."""

from __future__ import annotations

import textwrap

from d2check.model import Verdict

_STYLES = {
    "good": "32",
    "bad": "1;31",
    "warn": "33",
    "quiet": "2",
    "strong": "1",
    "broken": "1;35",
    "paste": "36",
}
VERDICT_STYLES = {
    Verdict.PASS: "good",
    Verdict.FAIL: "bad",
    Verdict.WARN: "warn",
    Verdict.SKIP: "quiet",
    Verdict.ERROR: "broken",
}
# What an old console or a C locale cannot show.
_PLAIN = str.maketrans(
    {"…": "...", "×": "x", "–": "-", "—": "-", "·": "-", "→": "->", "≈": "~", "≥": ">=", "≤": "<="}
)
LABEL = 11


class Page:
    """Lines that grow; all text given to it must be clean already."""

    def __init__(self, width: int, *, colour: bool, ascii_only: bool) -> None:
        """Width in columns; below 40 nothing readable fits, so that is the least."""
        self.width = max(40, width)
        self.colour = colour
        self.ascii_only = ascii_only
        self._lines: list[str] = []

    def text(self) -> str:
        """Everything so far, ending with a line break."""
        text = "".join(f"{line.rstrip()}\n" for line in self._lines)
        if not self.ascii_only:
            return text
        return text.translate(_PLAIN).encode("ascii", "backslashreplace").decode()

    def paint(self, text: str, style: str | None) -> str:
        """The text in a style; without colour the text itself."""
        if not self.colour or style is None or not text:
            return text
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"

    def line(self, text: str = "", style: str | None = None) -> None:
        """One line as it is, however long: something to paste, or already fitted."""
        self._lines.append(self.paint(text, style))

    def heading(self, title: str, fill: str, style: str | None = None) -> None:
        """A title in the middle of a rule across the page."""
        self.line(f" {title} ".center(self.width, fill).strip(), style)

    def wrapped(
        self, text: str, *, first: str | None = None, indent: str = "", style: str | None = None
    ) -> None:
        """A paragraph within the width. Paths and overrides are never broken in two.

        first: what stands in place of the first line's indent, as wide as that.
        """
        for number, row in enumerate(self._fold(text, self.width - len(indent))):
            lead = indent if number or first is None else first
            self.line(lead + self.paint(row, style))

    def field(self, label: str, text: str, style: str | None = None) -> None:
        """`label      text`, continued under the text."""
        rows = self._fold(text, self.width - LABEL)
        if not rows:
            self.line(label, "quiet")
            return
        self.line(self.paint(f"{label:<{LABEL}}", "quiet") + self.paint(rows[0], style))
        for row in rows[1:]:
            self.line(" " * LABEL + self.paint(row, style))

    @staticmethod
    def _fold(text: str, width: int) -> list[str]:
        return textwrap.wrap(text, max(20, width), break_long_words=False, break_on_hyphens=False)
