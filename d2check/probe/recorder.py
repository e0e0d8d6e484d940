"""Writes records.jsonl: one line per record, in the file the moment it is written."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any, Callable

from . import wire

RECORDING_FAILED = "recording-failed"


class Recorder:
    """Appends records of one rank to the run folder until a write fails, then stays silent.

    Records wait until `open` names the rank, which a process may learn late or never.

    A full disk must not end the training that is being watched: the first OSError stops the
    recording, says so on stderr, and leaves an (empty) file `recording-failed` for the checker.
    Only the process that opened it writes: loader workers inherit it by fork.
    """

    def __init__(self, folder: str) -> None:
        """`folder` is the run folder. Nothing is created yet."""
        self.rank = 0
        self.failed: str | None = None
        self.ended = False
        self.before_end: Callable[[], None] | None = None  # what has something to tell by then
        self._folder = folder
        self._pid: int | None = None
        self._file = -1
        self._early: list[dict[str, Any]] = []
        # Signal handlers run in the middle of a write of the same thread: hence reentrant.
        self._lock = threading.RLock()

    def open(self, rank: int) -> None:
        """Create the record file of `rank`, or go on with it, and write what has waited."""
        if self._pid == os.getpid():
            return
        self.rank = rank
        self._pid = os.getpid()
        path = os.path.join(self._folder, wire.records_name(rank))
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as problem:
            self._fail(problem)
        early, self._early = self._early, []
        for record in early:
            self.write(record)

    def write(self, record: dict[str, Any]) -> None:
        """Append one record."""
        if self._pid is None:
            self._early.append(record)
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
        if self.before_end is not None:
            self.before_end()
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
            os.close(
                os.open(os.path.join(self._folder, RECORDING_FAILED), os.O_WRONLY | os.O_CREAT)
            )
        except OSError:
            pass  # the line on stderr has told it


def first_of(found: list[str], most: int, between: str) -> str:
    """The first of some words for a record, and how many there are more."""
    more = " and %d more" % (len(found) - most) if len(found) > most else ""
    return between.join(found[:most]) + more
