"""Writes records.jsonl: one line per record, in the file the moment it is written."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

from . import wire

RECORDING_FAILED = "recording-failed"


class Recorder:
    """Appends records of one rank to the run folder until a write fails, then stays silent.

    A full disk must not end the training that is being watched: the first OSError stops the
    recording, says so on stderr, and leaves an (empty) file `recording-failed` for the checker.
    Only the process that opened it writes: loader workers inherit it by fork.
    """

    def __init__(self, folder: str, rank: int = 0) -> None:
        """Open, creating, the record file of `rank` in `folder`. Raises OSError."""
        self.rank = rank
        self.failed: str | None = None
        self.ended = False
        self._folder = folder
        self._pid = os.getpid()
        # Signal handlers run in the middle of a write of the same thread: hence reentrant.
        self._lock = threading.RLock()
        path = os.path.join(folder, wire.records_name(rank))
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, record: dict[str, Any]) -> None:
        """Append one record."""
        if self.failed is not None or os.getpid() != self._pid:
            return
        with self._lock:
            try:
                self._append(wire.encode(record).encode("ascii"))
            except OSError as problem:
                self._fail(problem)

    def note(self, kind: str, message: str, **more: Any) -> None:
        """Append a note: something that happened once."""
        self.write(dict({"t": "note", "kind": kind, "message": message}, **more))

    def end(self, kind: str, **more: Any) -> None:
        """Append the last record. Only the first call counts; tried even after a failed write."""
        if self.ended or os.getpid() != self._pid:
            return
        self.ended = True
        record = dict({"t": "end", "kind": kind, "clock": time.time()}, **more)
        if self.failed is None:
            self.write(record)
            return
        record["recording_failed"] = self.failed
        try:
            # A line may have been cut in the middle: begin a new one.
            self._append(b"\n" + wire.encode(record).encode("ascii"))
        except OSError:
            pass  # already told on stderr when the recording stopped

    def _append(self, line: bytes) -> None:
        while line:
            line = line[os.write(self._file, line) :]

    def _fail(self, problem: OSError) -> None:
        self.failed = str(problem)
        sys.stderr.write("d2check: recording stopped: %s\n" % problem)
        sys.stderr.flush()
        try:
            open(os.path.join(self._folder, RECORDING_FAILED), "w").close()
        except OSError:
            pass  # the line on stderr has told it
