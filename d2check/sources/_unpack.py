"""A gzip file that may be damaged."""

from __future__ import annotations

import codecs
import zlib
from typing import Protocol

MAGIC = b"\x1f\x8b"
_PACKED_BYTES = 64 * 1024


class Readable(Protocol):
    """What gives bytes on demand, none at its end."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes."""


UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # its byte order marks, as PowerShell writes them


class Decoded:
    """UTF-16 text as UTF-8."""

    def __init__(self, raw: Readable) -> None:
        """Decode from where the raw stream stands, at its byte order mark."""
        self._raw = raw
        self._decoder = codecs.getincrementaldecoder("utf-16")("replace")

    def read(self, size: int, /) -> bytes:
        """About `size` bytes; none at the end."""
        while data := self._raw.read(size):
            text = self._decoder.decode(data)
            if text:
                return text.encode("utf-8", "replace")
        return b""


class Unpacked:
    """The content of a gzip file as far as it can be unpacked, and what stopped it.

    Python's gzip module throws away what it had before the damage.
    """

    def __init__(self, raw: Readable, begun: bytes = b"") -> None:
        """Unpack from where the raw stream stands. begun: what was read of it already."""
        self._raw = raw
        self._packed = begun
        self._member = zlib.decompressobj(wbits=31)
        self.damage: str | None = None

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end and from the damage on."""
        while not self.damage:
            self._packed = self._packed or self._raw.read(_PACKED_BYTES)
            if not self._packed:
                if not self._member.eof:
                    self.damage = "it ends early"
                break
            if self._member.eof and not self._packed.strip(b"\x00"):
                self._packed = b""  # padding of tapes and block devices
                continue
            if self._member.eof:
                self._member = zlib.decompressobj(wbits=31)
            try:
                data = self._member.decompress(self._packed, size)
            except zlib.error as error:
                self.damage = str(error)
                break
            self._packed = self._member.unconsumed_tail or self._member.unused_data
            if data:
                return data
        return b""
