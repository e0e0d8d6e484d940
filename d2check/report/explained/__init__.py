"""A training line in plain words: what each field means, says here, should be, and hides."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from d2check.explain import (
    Eta,
    Explanation,
    Layers,
    Loss,
    Memory,
    Progress,
    Rate,
    Reading,
    Time,
    Total,
)
from d2check.report._text import clean
from d2check.report.explained import losses, numbers
from d2check.report.explained.field import ExplainedField

__all__ = ["ExplainedField", "render", "words"]

_INDENT, _LABEL = 2, 9
_STYLES = {"field": "1", "label": "2"}


def words(explanation: Explanation) -> tuple[ExplainedField, ...]:
    """The fields of the line, in its order."""
    return tuple(_words(reading, explanation) for reading in explanation.readings)


def render(explanation: Explanation, *, width: int, colour: bool = False) -> str:
    """The explanation as text of that width, ending with a line break."""

    def paint(text: str, style: str) -> str:
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if colour else text

    lines: list[str] = []
    for one in words(explanation):
        lines.append(f"{paint(clean(one.field), 'field')}  {clean(one.value)}")
        for label, text in _rows(one):
            # A no-break space keeps `6 %` together.
            rows = textwrap.wrap(
                clean(text).replace(" %", "\u00a0%"),
                max(width - _INDENT - _LABEL, 30),
                break_long_words=False,
                break_on_hyphens=False,
            )
            for number, row in enumerate(rows):
                head = paint(f"{label if not number else '':<{_LABEL}}", "label")
                lines.append(" " * _INDENT + head + row.replace("\u00a0", " "))
        lines.append("")
    return "\n".join(lines)


def _rows(one: ExplainedField) -> Iterator[tuple[str, str]]:
    for label, text in (
        ("means", one.means),
        ("here", one.here),
        ("normal", one.normal),
        ("watch", one.watch),
    ):
        if text:
            yield label, text


def _words(reading: Reading, explanation: Explanation) -> ExplainedField:
    if isinstance(reading, Total):
        return losses.total_words(reading, explanation)
    if isinstance(reading, Loss):
        return losses.loss_words(reading, explanation)
    if isinstance(reading, Layers):
        return losses.layers_words(reading)
    if isinstance(reading, Eta):
        return numbers.eta_words(reading)
    if isinstance(reading, Progress):
        return numbers.progress_words(reading)
    if isinstance(reading, Time):
        return numbers.time_words(reading)
    if isinstance(reading, Rate):
        return numbers.rate_words(reading)
    if isinstance(reading, Memory):
        return numbers.memory_words(reading)
    return numbers.other_words(reading)
