"""The bytes of a log to whole lines of plain text, whatever a terminal or an editor did to them."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

from d2check.sources._unpack import MAGIC, Readable, Unpacked

CHUNK_BYTES = 1024 * 1024
_MAX_LINE_BYTES = 8 * CHUNK_BYTES

# The escape itself, and what it becomes when text is copied out of an editor or a web page.
_ESCAPES = re.compile(
    rb"(?:\x1b|\xe2\x90\x9b|\^\[|\\x1b|\\033|\\u001b)"
    rb"(?:\[[0-9;?]*[A-Za-z]|\][^\x07\x1b\n]{0,200}(?:\x07|\x1b\\)|[()][AB0])"
)
_BARE_COLOURS = re.compile(rb"\[(?:\d{1,3};)*\d{1,3}m")
# Text that was coloured is set back by one of these. Single bytes are looked for first: that is
# ten times as fast, and most logs have none of them.
_BARE_RESETS = (b"[0m", b"[39m")
_HINTS = ((b"\x1b", b"\x1b"), (b"\xe2", b"\xe2\x90\x9b"), (b"^", b"^[["), (b"\\", b"\\x1b["),
          (b"\\", b"\\033["), (b"\\", b"\\u001b["))  # fmt: skip


class _Begun:
    """A stream of which the beginning was read already."""

    def __init__(self, first: bytes, rest: Readable) -> None:
        self._first = first
        self._rest = rest

    def read(self, size: int, /) -> bytes:
        first, self._first = self._first, b""
        return first or self._rest.read(size)


def unpacked(stream: Readable) -> Readable:
    """The content of the stream, an `Unpacked` if it is packed by gzip."""
    first = stream.read(CHUNK_BYTES)
    return Unpacked(stream, first) if first.startswith(MAGIC) else _Begun(first, stream)


def batches(stream: Readable) -> Iterator[bytes]:
    """Whole lines of the stream, many at a time, each batch without its last newline.

    Colours are gone, CRLF is LF, UTF-16 (a log redirected by PowerShell) is
    UTF-8; NUL bytes stay, so that the lines that hold them can be counted as damaged.
    """
    first = stream.read(CHUNK_BYTES)
    source: Iterator[bytes] = _chunks(first, stream)
    if first[:2] in (b"\xff\xfe", b"\xfe\xff"):
        source = _decoded(source)
    rest = b""
    begun = False
    for data in source:
        if not begun:
            data = data.removeprefix(b"\xef\xbb\xbf")
            begun = True
        cut = data.rfind(b"\n")
        if cut < 0:
            # Memory stays bounded: of a line that has no end only its beginning is kept.
            rest = rest + data if len(rest) < _MAX_LINE_BYTES else rest
            continue
        yield _plain(rest + data[:cut] if rest else data[:cut])
        rest = data[cut + 1 :]
    if rest:
        yield _plain(rest)


def plain(text: bytes) -> bytes:
    """The text without colours and carriage returns before its newlines."""
    return _plain(text)


def _plain(data: bytes) -> bytes:
    if any(byte in data and hint in data for byte, hint in _HINTS):
        data = _ESCAPES.sub(b"", data)
    if any(reset in data for reset in _BARE_RESETS):
        data = _BARE_COLOURS.sub(b"", data)
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
        data = data.removesuffix(b"\r")
    return data


def _chunks(first: bytes, stream: Readable) -> Iterator[bytes]:
    data = first
    while data:
        yield data
        data = stream.read(CHUNK_BYTES)


def _decoded(source: Iterator[bytes]) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder("utf-16")("replace")
    for data in source:
        yield decoder.decode(data).encode("utf-8", "replace")
