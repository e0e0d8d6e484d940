"""Reads the records that the probe has written so far, while it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from d2check.probe import wire

READ_BYTES = 1 << 20
# No record is as long as this: what is, is no record and is skipped up to the next line end.
LONGEST_RECORD_BYTES = 16 << 20


class RecordTail:
    """The complete lines of a growing record file. A partial last line waits for its rest."""

    def __init__(self, path: Path) -> None:
        """The file need not exist yet."""
        self._path = path
        self._offset = 0
        self._partial = b""
        self._skipping = False

    def poll(self) -> list[dict[str, Any]]:
        """The records that were completed since the last call; what is no record is left out.

        `sources` counts malformed lines when the run is judged.
        """
        records: list[dict[str, Any]] = []
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                while chunk := file.read(READ_BYTES):
                    self._offset += len(chunk)
                    self._take(chunk, records)
        except OSError:  # not there yet, or the disk fails; what was read stays valid
            pass
        return records

    def _take(self, chunk: bytes, records: list[dict[str, Any]]) -> None:
        *lines, self._partial = (self._partial + chunk).split(b"\n")
        for line in lines:
            if not self._skipping:
                record = _decode(line)
                if record is not None:
                    records.append(record)
            self._skipping = False
        if len(self._partial) > LONGEST_RECORD_BYTES:
            self._partial, self._skipping = b"", True


def _decode(line: bytes) -> dict[str, Any] | None:
    try:
        return wire.decode(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
