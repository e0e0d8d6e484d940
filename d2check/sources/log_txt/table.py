"""Many rows at once: consecutive lines that print the same fields, as columns.

Nearly all bytes of a long log are such rows. One split of the whole text and one conversion of
each column take a third of the time that a line at a time does.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from d2check.sources.log_txt.metric_line import MARK, Layout, LineParser, eta_seconds

FEWEST_LINES = 8  # fewer are read one by one
_GAP = b": "
_CLOCK = {b"%02d:%02d" % (m, s): 60.0 * m + s for m in range(60) for s in range(60)}


@dataclass(frozen=True)
class Table:
    """Rows of one layout with rising iterations. columns: float64, in the order of names.

    prefixes: what stands before the fields of each line; empty where nothing does.
    """

    names: tuple[str, ...]
    iterations: array[int]
    columns: tuple[array[float], ...]
    prefixes: list[bytes]
    has_loss: bool
    ends_in: str


def table_of(text: bytes, parser: LineParser) -> Table | None:
    """The rows of whole lines, if every one is a row with the very same fields; else None.

    Exactly what `parser` gives line by line: the fields' names are compared in every line, and a
    number that is none, or an iteration that does not rise, leaves the text to it.
    """
    count = text.count(b"\n") + 1
    if count < FEWEST_LINES or text.count(MARK) != count:
        return None
    layout = parser.layout(text[: text.find(b"\n")])
    if layout is None:
        return None
    tokens = text.replace(b"  ", _GAP).replace(b"\n", _GAP).split(_GAP)
    width, rest = divmod(len(tokens), count)
    if rest:
        return None
    at = _places(tokens[:width], layout)
    if at is None or at[0] > 1:
        return None
    values = {place + 1 for place in at}
    for place in range(at[0], width):
        if place not in values and tokens[place::width].count(tokens[place]) != count:
            return None
    try:
        iterations, columns = _numbers(tokens, width, at, layout)
    except ValueError:
        return None
    if columns is None or iterations[0] < 0 or not _rises(iterations):
        return None
    prefixes = tokens[0::width] if at[0] else []
    ends_in = layout.keys[-1].decode("utf-8", "replace")
    return Table(layout.names, iterations, columns, prefixes, layout.has_loss, ends_in)


def _places(line: list[bytes], layout: Layout) -> list[int] | None:
    """Where the names of the fields stand among the pieces of a line, in their order."""
    found: list[int] = []
    bare = [piece.strip() for piece in line]
    for key in layout.keys:
        start = found[-1] + 2 if found else 0
        if key not in bare[start:]:
            return None
        found.append(bare.index(key, start))
    return found if found[-1] + 1 < len(line) else None


def _numbers(
    tokens: list[bytes], width: int, at: list[int], layout: Layout
) -> tuple[array[int], tuple[array[float], ...] | None]:
    """Iterations and columns; no columns where a memory has no unit. Raises ValueError."""
    texts = [tokens[place + 1 :: width] for place in at]
    iterations = array("q", map(int, texts.pop(layout.iter_at)))
    columns = []
    for number, column in enumerate(texts):
        if number == layout.eta_at:
            columns.append(_etas(column))
            continue
        if number == layout.mem_at:
            if b"".join(column).count(b"M") != len(column):
                return iterations, None
            column = [text[:-1] for text in column]
        columns.append(_floats(column))
    return iterations, tuple(columns)


def _floats(texts: list[bytes]) -> array[float]:
    """The numbers. Raises ValueError. A rate stays the same for thousands of rows."""
    if texts[0] == texts[-1] and texts.count(texts[0]) == len(texts):
        return array("d", (float(texts[0]),)) * len(texts)
    return array("d", map(float, texts))


def _etas(texts: list[bytes]) -> array[float]:
    """Seconds of each eta. Raises ValueError for one that is none."""
    hours: dict[bytes, float] = {}
    for head in {text[:-5] for text in texts}:
        hours[head] = eta_seconds(head + b"00:00")
    try:
        return array("d", [hours[text[:-5]] + _CLOCK[text[-5:]] for text in texts])
    except KeyError as error:
        raise ValueError("not a duration") from error


def _rises(numbers: array[int]) -> bool:
    return all(map(int.__lt__, numbers, numbers[1:]))
