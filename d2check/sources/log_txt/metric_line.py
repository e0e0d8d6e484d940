"""One line of Detectron2's CommonMetricPrinter, or of a fork's, to numbers.

Fields are `key: number` pairs joined by two spaces since v0.1. Copies in issues and chats lose
spaces, forks add pairs `median (mean)`, an epoch, a total; the second way of reading takes those.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import NamedTuple

MARK = b"iter: "

_NUMBER = rb"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|nan|inf(?:inity)?)"
_PAIR = re.compile(
    rb"(?P<key>max mem|[A-Za-z_\[][^\s:,;|`\"'()]{0,200}):[ \t]*"
    rb"(?P<value>(?:\d+ days?,? *)?\d+:\d\d:\d\d(?!\d)|N/A|None|" + _NUMBER + rb")"
    rb"(?P<rest>/\d+|[MG]i?B?\b)?(?:[ \t]*\((?P<mean>" + _NUMBER + rb")\))?(?=[\s,;|`\"'<)\\]|$)",
    re.IGNORECASE,
)
_WHOLE = re.compile(rb"\d+")
_DURATION = re.compile(rb"(?:(\d+) days?,? *)?(\d+):(\d\d):(\d\d)")
_WIDE_GAP = re.compile(rb" {3,}")
# A terminal breaks a row at its width, and copying it leaves the next line's indent in the break.
_TORN_NAME = re.compile(rb"(  [A-Za-z_]\w*) {8,}(\w*: )")
_TORN_NUMBER = re.compile(rb"(: [\d.]+) {8,}([\d.]+(?:e[-+]\d+)?)(?=  |$)")
_KEY = re.compile(rb"[A-Za-z_\[][^\s:,;|`\"']*")
# maskrcnn_benchmark's words for what Detectron2 prints.
_SAME = {"loss": "total_loss", "data": "data_time", "max mem": "max_mem"}
_MAX_LAYOUTS = 512
_NO_MEANS: dict[str, float] = {}


class MetricLine(NamedTuple):
    """The numbers of one printed row.

    values: in the order of names; `eta_s` (seconds) and `max_mem` (MiB) among them. has_loss: of
    some loss. means: of forks that print `median (mean)`, by name. total: the length in
    `iter: 20/90000`. unread: fields without a number, as `lr: N/A`.
    """

    iteration: int
    names: tuple[str, ...]
    values: list[float]
    has_loss: bool
    means: dict[str, float]
    total: int | None = None
    unread: tuple[str, ...] = ()

    @property
    def numbers(self) -> dict[str, float]:
        """name -> value."""
        return dict(zip(self.names, self.values, strict=True))


@dataclass(frozen=True)
class Layout:
    """The fields of a row that the fast way reads. keys: as printed, `iter` among them; names:
    without it, in the same order, `eta_s` for `eta`. iter_at: of keys; eta_at, mem_at: of names,
    -1 where there is none. has_loss: of some loss.
    """

    keys: tuple[bytes, ...]
    names: tuple[str, ...]
    iter_at: int
    eta_at: int
    mem_at: int
    has_loss: bool


class LineParser:
    """Reads lines of a log whose neighbours have the same fields, hence fast."""

    def __init__(self) -> None:
        self._layouts: dict[tuple[bytes, ...], Layout | None] = {}
        self._last: Layout | None = None
        self._used: Layout | None = None
        self._last_keys: list[bytes] = []

    def parse(self, line: bytes) -> MetricLine | None:
        """The row of a line that contains `iter: `; None when it is about something else."""
        found = self._fast(line)
        return found if found is not None else parse_metric_line(line)

    def layout(self, line: bytes) -> Layout | None:
        """The fields of a row, if it is one that the fast way reads."""
        return self._used if self._fast(line) is not None else None

    def _fast(self, line: bytes) -> MetricLine | None:
        begin = line.find(MARK)
        eta = line.find(b"eta: ", 0, begin)
        begin = begin if eta < 0 else eta
        if begin and line[begin - 1 : begin] not in b" \t:":
            return None  # `epoch/iter: ` and the like
        body = line[begin:].strip()
        parts = body.replace(b"  ", b": ").split(b": ")
        # Nearly every row has the fields of the row before it, and lists compare in no time.
        layout = self._last
        if parts[::2] != self._last_keys:
            parts, layout = self._newly(body, parts)
        self._used = layout
        if layout is None or len(parts) % 2:
            return None
        texts = parts[1::2]
        try:
            iteration = int(texts.pop(layout.iter_at))
            eta_s = 0.0
            if layout.eta_at >= 0:
                eta_s = eta_seconds(texts[layout.eta_at])
                texts[layout.eta_at] = b"0"
            if layout.mem_at >= 0:
                texts[layout.mem_at] = texts[layout.mem_at].removesuffix(b"M")
            values = list(map(float, texts))
        except ValueError:
            return None
        if iteration < 0:
            return None
        if layout.eta_at >= 0:
            values[layout.eta_at] = eta_s
        return MetricLine(iteration, layout.names, values, layout.has_loss, _NO_MEANS)

    def _newly(self, body: bytes, parts: list[bytes]) -> tuple[list[bytes], Layout | None]:
        """The parts of a row with other fields than the last one, and their layout if it has one.

        Where a field is missing, and before `lr` since 2023, there are more than two spaces.
        """
        raw = parts
        if b"   " in body:
            parts = _WIDE_GAP.sub(b"  ", body).replace(b"  ", b": ").split(b": ")
        keys = tuple(parts[::2])
        if keys not in self._layouts:
            if len(parts) % 2 or len(self._layouts) >= _MAX_LAYOUTS:
                return parts, None
            self._layouts[keys] = _layout_of(keys)
        layout = self._layouts[keys]
        if layout is not None and parts[1::2] == raw[1::2]:
            self._last, self._last_keys = layout, raw[::2]
        return parts, layout


def eta_seconds(text: bytes) -> float:
    """Seconds of an eta as Detectron2 prints it. Raises ValueError for anything else."""
    days = 0
    if b"d" in text:
        head, _, text = text.partition(b", ")
        days = int(head.partition(b" ")[0])
    hours, minutes, seconds = text.split(b":")
    return 86400.0 * days + 3600 * int(hours) + 60 * int(minutes) + int(seconds)


def duration_s(text: bytes) -> int:
    """Seconds of a printed timedelta, `1 day, 13:15:24`. Raises ValueError for anything else."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError("not a duration")
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def parse_metric_line(line: bytes) -> MetricLine | None:
    """The row of one line of any shape; None if it has no iteration or no other field.

    A number that is cut off, or glued to something else, is no field.
    """
    iteration, total = None, None
    numbers: dict[str, float] = {}
    means: dict[str, float] = {}
    unread: list[str] = []
    if b"        " in line:
        line = _TORN_NUMBER.sub(rb"\1\2", _TORN_NAME.sub(rb"\1\2", line))
    for found in _PAIR.finditer(line, _begin(line)):
        key = found["key"].decode("utf-8", "replace")
        value, rest, mean = found["value"], found["rest"] or b"", found["mean"]
        if key.lower() in ("iter", "epoch/iter"):
            if iteration is not None or not _WHOLE.fullmatch(value):
                continue
            # `epoch/iter: 3/199` ends in the iteration, `iter: 20/90000` in the length.
            first, last = int(value), int(rest[1:]) if rest[:1] == b"/" else None
            if last is not None and "/" in key:
                first, last = last, None
            iteration, total = first, last
            continue
        name = _SAME.get(key, key)
        number = _number(name, value, rest)
        if number is None:
            unread.append(name)
        elif name not in numbers:
            numbers[name if name != "eta" else "eta_s"] = number
            if mean is not None:
                means[name] = float(mean)
    if iteration is None or iteration >= 2**53 or not (numbers or unread):
        return None
    if means and "total_loss" not in means:
        means = {}
    has_loss = any("loss" in name for name in numbers)
    values = list(numbers.values())
    return MetricLine(iteration, tuple(numbers), values, has_loss, means, total, tuple(unread))


def _begin(line: bytes) -> int:
    """Where the fields begin: behind the logger's prefix, which may look like fields."""
    mark = line.find(MARK)
    eta = line.find(b"eta: ", 0, max(mark, 0))
    return eta if eta >= 0 else max(line.rfind(b" ", 0, max(mark, 0)), 0)


def _layout_of(keys: tuple[bytes, ...]) -> Layout | None:
    if not all(_KEY.fullmatch(key) for key in keys) or keys.count(b"iter") != 1 or len(keys) < 2:
        return None
    at = keys.index(b"iter")
    names = [key.decode("utf-8", "replace") for key in keys]
    del names[at]
    if "loss" in names or len(set(names)) < len(names):
        return None
    eta = names.index("eta") if "eta" in names else -1
    memory = names.index("max_mem") if "max_mem" in names else -1
    if eta >= 0:
        names[eta] = "eta_s"
    return Layout(keys, tuple(names), at, eta, memory, any("loss" in name for name in names))


def _number(name: str, value: bytes, rest: bytes) -> float | None:
    if name == "eta" or b":" in value:
        try:
            return float(duration_s(value))
        except ValueError:
            return None
    try:
        number = float(value)
    except ValueError:
        return None
    if rest[:1] in (b"G", b"g"):
        number *= 1024.0
    return number if not math.isnan(number) or name != "eta" else None
