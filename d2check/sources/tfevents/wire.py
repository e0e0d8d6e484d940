"""The bytes of a TensorBoard event file: records, and the few protobuf fields that scalars need.

A record is its length (u64), the masked CRC-32C of the length (u32), the data, the masked CRC of
the data (u32), all little-endian. TensorBoard's own reader takes 40 us an event, this one 3.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from d2check.sources._unpack import MAGIC, Readable, Unpacked

_HEADER = struct.Struct("<QI")
_DOUBLE = struct.Struct("<d")
_FLOAT = struct.Struct("<f")
_CRC_BYTES = 4
_CHUNK_BYTES = 1024 * 1024
_MAX_RECORD_BYTES = 1 << 30  # images of a visualisation are megabytes
# A length below 4 GiB and not zero, and four bytes of its checksum.
_LIKE_HEADER = re.compile(rb"(?=(?!\0{4}).{4}\0{4}.{4})", re.DOTALL)

_FLOAT_TYPES = {1: "f", 2: "d", 3: "i", 9: "q"}  # DataType of tensor.proto
_MASK_DELTA = 0xA282EAD8


class Scalar(NamedTuple):
    """One value of one tag. wall_s: seconds since 1970."""

    tag: bytes
    step: int
    wall_s: float
    value: float


class Records:
    """The records of a stream, over what is broken in it.

    records: how many were read. broken: how many places had to be skipped. truncated: the last
    record is cut, as while a training still writes or after it was killed. unpacked: the gzip
    file around them, if there is one. size_bytes: of all that came (unpacked); lost_bytes: of what
    belongs to no record that was read.
    """

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._data = b""
        self._at = 0
        self.records = 0
        self.broken = 0
        self.truncated = False
        self.size_bytes = 0
        self._sound_bytes = 0
        self.unpacked: Unpacked | None = None

    def __iter__(self) -> Iterator[bytes]:
        while self._fill(_HEADER.size):
            length, crc = _HEADER.unpack_from(self._data, self._at)
            odd = length > _MAX_RECORD_BYTES
            if not odd and not self._fill(_HEADER.size + length + _CRC_BYTES):
                odd = masked_crc(self._data[self._at : self._at + 8]) != crc
                if not odd:
                    self.truncated = True
                    return
            if odd and not self._resynchronise():
                return
            if odd:
                continue
            begin = self._at + _HEADER.size
            record = self._data[begin : begin + length]
            if record[:1] != b"\x09" and masked_crc(self._data[self._at : self._at + 8]) != crc:
                if not self._resynchronise():
                    return
                continue
            self._at = begin + length + _CRC_BYTES
            self.records += 1
            self._sound_bytes += _HEADER.size + length + _CRC_BYTES
            yield record
        self.truncated = self._at < len(self._data)

    @property
    def lost_bytes(self) -> int:
        """Bytes of no record; final once all records have been read."""
        return self.size_bytes - self._sound_bytes

    def _fill(self, count: int) -> bool:
        """Have `count` bytes at hand from here on; False where the stream ends before."""
        while len(self._data) - self._at < count:
            more = self._stream.read(max(_CHUNK_BYTES, count))
            if not self.size_bytes and more.startswith(MAGIC):  # no first record is so long
                self._stream = self.unpacked = Unpacked(self._stream, more)
                more = self._stream.read(_CHUNK_BYTES)
            if not more:
                return False
            self._data = self._data[self._at :] + more
            self._at = 0
            self.size_bytes += len(more)
        return True

    def _resynchronise(self) -> bool:
        """Go to the next place whose header is sound. False when there is none near."""
        self.broken += 1
        self._at += 1
        while self._fill(_HEADER.size):
            for found in _LIKE_HEADER.finditer(self._data, self._at):
                at = found.start()
                length, crc = _HEADER.unpack_from(self._data, at)
                if length <= _MAX_RECORD_BYTES and masked_crc(self._data[at : at + 8]) == crc:
                    self._at = at
                    return True
            self._at = len(self._data) - _HEADER.size + 1
        return False


def scalars_of(record: bytes) -> Iterator[Scalar]:
    """The scalars of one record. Raises ValueError for bytes that are no event."""
    wall_s, step, summary = 0.0, 0, None
    try:
        for field, kind, value in _fields(record, 0, len(record)):
            if field == 1 and kind == 1 and not isinstance(value, tuple):
                wall_s = value
            elif field == 2 and kind == 0 and not isinstance(value, tuple):
                step = int(value)
            elif field == 5 and kind == 2 and isinstance(value, tuple):
                summary = value
        if summary is None:
            return
        for field, kind, value in _fields(record, *summary):
            if field == 1 and kind == 2 and isinstance(value, tuple):
                one = _value(record, *value)
                if one is not None:
                    yield Scalar(one[0], step, wall_s, one[1])
    except (IndexError, struct.error) as error:
        raise ValueError("a record that is no event") from error


def _value(data: bytes, at: int, end: int) -> tuple[bytes, float] | None:
    tag, number = b"", None
    for field, kind, value in _fields(data, at, end):
        if field == 1 and kind == 2 and isinstance(value, tuple):
            tag = data[value[0] : value[1]]
        elif field == 2 and kind == 5:
            number = float(value) if not isinstance(value, tuple) else None
        elif field == 8 and kind == 2 and isinstance(value, tuple):
            number = _tensor(data, *value)
    return (tag, number) if tag and number is not None else None


def _tensor(data: bytes, at: int, end: int) -> float | None:
    """The number of a tensor that holds one; None for histograms and the like."""
    data_type, content = 0, b""
    listed: list[float] = []
    for field, kind, value in _fields(data, at, end):
        if field == 1 and kind == 0:
            data_type = int(value) if not isinstance(value, tuple) else 0
        elif field == 4 and isinstance(value, tuple):
            content = data[value[0] : value[1]]
        elif field in (5, 6) and isinstance(value, tuple):
            packed = data[value[0] : value[1]]
            letter = "f" if field == 5 else "d"
            if len(packed) % struct.calcsize(letter) == 0:
                listed += struct.unpack(
                    f"<{len(packed) // struct.calcsize(letter)}{letter}", packed
                )
        elif field in (5, 6, 7, 10) and not isinstance(value, tuple):
            listed.append(float(value))
    letter = _FLOAT_TYPES.get(data_type, "")
    if letter and len(content) == struct.calcsize(f"<{letter}"):
        return float(struct.unpack(f"<{letter}", content)[0])
    return float(listed[0]) if len(listed) == 1 else None


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, float | tuple[int, int]]]:
    """(number, wire type, value) of a message; a length-delimited value is its (begin, end)."""
    while at < end:
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 2:
            size, at = _varint(data, at)
            if at + size > end:
                raise ValueError("a field longer than its message")
            yield key >> 3, kind, (at, at + size)
            at += size
        elif kind == 5:
            yield key >> 3, kind, _FLOAT.unpack_from(data, at)[0]
            at += 4
        elif kind == 1:
            yield key >> 3, kind, _DOUBLE.unpack_from(data, at)[0]
            at += 8
        elif kind == 0:
            number, at = _varint(data, at)
            yield key >> 3, kind, number if number < 1 << 63 else number - (1 << 64)
        else:
            raise ValueError(f"a wire type that no event has ({kind})")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    byte = data[at]
    at += 1
    if byte < 128:
        return byte, at
    number, shift = byte & 127, 7
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_TABLE = _crc_table()


def masked_crc(data: bytes) -> int:
    """CRC-32C (Castagnoli), rotated and shifted as TensorFlow's record files have it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF
