"""Words and numbers as every report writes them, and the cleaning of text that is not ours.

Paths, metric names, messages and tracebacks come from users, their data and their libraries. They
may hold escape sequences that repaint a terminal, or bytes that no XML file can hold.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence

from d2check.model import Proof

# CSI, OSC and the other escape sequences of ECMA-48, so that "\x1b[31m" goes as a whole.
_ESCAPE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f]).*?(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[@-Z\\-_]?",
    re.DOTALL,
)
_OTHER_SPACES = frozenset("\u00a0\u2003\u2009\u202f\u3000")
_SPACES = re.compile(r"\s+")
_BARS = "▁▂▃▄▅▆▇█"
_ASCII_BARS = "_.-~=+*#"


def clean(text: object) -> str:
    """One line of printable text: escape sequences and control characters gone."""
    return _SPACES.sub(" ", clean_block(text)).strip()


def clean_block(text: object) -> str:
    """The same with line breaks and tabs kept, for tracebacks and logs."""
    bare = _ESCAPE.sub("", str(text)).replace("\r\n", "\n").replace("\r", "\n")
    # Not printable are also lone surrogates, which no encoding can write, and the bidirectional
    # overrides, which make a line read as another.
    return "".join(c for c in bare if c.isprintable() or c in "\n\t" or c in _OTHER_SPACES)


def shortened(text: str, width: int) -> str:
    """At most `width` characters, cut between words where that is near."""
    if len(text) <= width:
        return text
    if width < 2:
        return ""
    cut = text[: width - 1]
    head, space, _ = cut.rpartition(" ")
    return (head if space and len(head) >= 0.6 * len(cut) else cut).rstrip(" ,;:") + "…"


def proof_words(proof: Proof) -> str:
    """`proven: with the change ...; without it ...`."""
    return f"{proof.outcome}: " + "; ".join(filter(None, (proof.after, proof.control)))


def count(number: int, noun: str, plural: str | None = None) -> str:
    """`1 run`, `10,000 runs`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def listed(items: Sequence[str], most: int) -> str:
    """`a, b, c and 4 more`."""
    text = ", ".join(items[:most])
    return text if len(items) <= most else f"{text} and {len(items) - most:,} more"


def figure(value: float) -> str:
    """Three significant digits for a reader, whole numbers whole."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e8:
        return f"{int(value):,}"
    if 1000 <= abs(value) < 1e8:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def quantity(value: float | None, unit: str) -> str:
    """A measured number with its unit: `11 %`, `0.083 s`, `7.2 GiB`, `1.50x`, `3.2`.

    Nothing for a yes or no, which a verdict says already, and nothing for an infinity.
    """
    unit = clean(unit)
    if value is None or unit == "yes/no" or math.isinf(value):
        return ""
    if unit == "ratio":
        return f"{value:.2f}x" if abs(value) < 10 else f"{figure(value)}x"
    if unit == "MiB" and abs(value) >= 1024:
        return f"{value / 1024:.3g} GiB"
    if unit in ("share", "fraction"):
        return f"{figure(100 * value)} %"
    return f"{figure(value)} {_singular(unit) if value == 1 else unit}".strip()


def _singular(unit: str) -> str:
    """`epochs` of one is `epoch`, `classes` a `class`; `samples per image` keep their measure."""
    noun, space, rest = unit.partition(" ")
    plain = noun[:-1] if noun.endswith("s") and not noun.endswith("ss") and len(noun) > 2 else noun
    plain = plain[:-1] if plain.endswith("sse") else plain
    return f"{plain}{space}{rest}"


def epochs(number: float) -> str:
    """`0.44`, `12.5`, `1,300`: as many digits as say something."""
    if number < 10:
        return f"{number:.2g}" if number < 0.01 else f"{number:.2f}"
    return f"{number:.1f}" if number < 100 else f"{number:,.0f}"


def duration(seconds: float) -> str:
    """`41 s`, `2 min 5 s`, `2 h 11 min`, `3 d 4 h`."""
    if not math.isfinite(seconds):
        return "unknown"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    for size, name, small_size, small_name in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            big, rest = divmod(whole, size)
            small = rest // small_size
            return f"{big} {name} {small} {small_name}" if small else f"{big} {name}"
    raise AssertionError(whole)


def sparkline(values: Iterable[float], width: int, *, ascii_only: bool = False) -> str:
    """A curve in one line: at most `width` characters, each the mean of its share of the values.

    A share that holds a NaN or an infinity is `x`: those are what the reader looks for. The
    scale is linear from the lowest to the highest mean.
    """
    points = list(values)
    if not points or width < 1:
        return ""
    shares = min(width, len(points))
    edges = [round(i * len(points) / shares) for i in range(shares + 1)]
    means = [_mean(points[a:b]) for a, b in itertools.pairwise(edges)]
    finite = [m for m in means if math.isfinite(m)]
    if not finite:
        return "x" * shares
    low, high = min(finite), max(finite)
    bars = _ASCII_BARS if ascii_only else _BARS
    # Halved, so that the distance of two huge finite numbers stays finite.
    reach = high / 2 - low / 2

    def bar(mean: float) -> str:
        if not math.isfinite(mean):
            return "x"
        place = (mean / 2 - low / 2) / reach if reach > 0 else 0.5
        return bars[min(len(bars) - 1, int(place * len(bars)))]

    return "".join(map(bar, means))


def _mean(values: Sequence[float]) -> float:
    return (
        math.fsum(v / len(values) for v in values) if all(map(math.isfinite, values)) else math.nan
    )
