"""Copies what the child prints into the run folder: redacted, in bounded memory, whatever it is."""

from __future__ import annotations

import codecs
import os
import re
import threading
from collections import deque
from pathlib import Path
from typing import IO

from d2check.harness.redact import Redactor

READ_BYTES = 65536
# A longer line is passed on in pieces, cut where no secret is likely to be cut in two.
LONGEST_LINE_CHARS = 65536
KEPT_LINES = 600
KEPT_LINE_CHARS = 2000
RECORDING_STOPPED = "d2check: recording stopped: "

_ENDS = re.compile(r"\r\n|\n|\r")
_SEPARATORS = " \t,;|\"'"


class OutputCopy(threading.Thread):
    """Copies one stream of the child to a file, line by line.

    tail: the last lines, redacted and cut to KEPT_LINE_CHARS. new_lines: the same, waiting for
    `launch` to show them; the oldest go when nobody takes them. failed: why the file could not be
    written; the stream is then still drained, because a full pipe would stop the child.
    """

    def __init__(self, stream: IO[bytes], path: Path, redact: Redactor) -> None:
        """Open the file; where that fails, only the memory of the last lines is kept."""
        super().__init__(name=f"d2check-{path.stem}", daemon=True)
        self.tail: deque[str] = deque(maxlen=KEPT_LINES)
        self.new_lines: deque[str] = deque(maxlen=1000)
        self.failed: str | None = None
        self.recording_failed: str | None = None
        self._stream = stream
        self._path = path
        self._redact = redact
        self._file: IO[bytes] | None = None
        try:
            self._file = open(path, "wb", buffering=0)  # noqa: SIM115 - closed by run
        except OSError as error:
            self.failed = f"{path.name}: {error.strerror or error}"

    def take(self) -> list[str]:
        """The new lines since the last call."""
        return [self.new_lines.popleft() for _ in range(len(self.new_lines))]

    def run(self) -> None:
        """Copy until every holder of the stream's other end is gone."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        pending = ""
        while True:
            chunk = os.read(self._stream.fileno(), READ_BYTES)
            pending += decoder.decode(chunk, final=not chunk)
            if not chunk:
                break
            pending = self._pass_lines(pending)
        self._pass(pending)
        self._stream.close()
        if self._file is not None:
            self._file.close()

    def _pass_lines(self, text: str) -> str:
        """Pass all complete lines on and return the rest."""
        cut = max(text.rfind("\n"), text.rfind("\r", 0, len(text) - 1)) + 1
        if cut:
            self._pass(text[:cut])
            text = text[cut:]
        while len(text) > LONGEST_LINE_CHARS:
            first, last = LONGEST_LINE_CHARS // 2, LONGEST_LINE_CHARS
            cut = max(text.rfind(mark, first, last) for mark in _SEPARATORS) + 1 or last
            self._pass(text[:cut])
            text = text[cut:]
        return text

    def _pass(self, text: str) -> None:
        if not text:
            return
        text = self._redact.text(text)
        self._write(text)
        for line in _ENDS.split(text):
            if line.startswith(RECORDING_STOPPED):
                self.recording_failed = line[len(RECORDING_STOPPED) :].strip()
            if line:
                self.tail.append(line[:KEPT_LINE_CHARS])
                self.new_lines.append(line[:KEPT_LINE_CHARS])

    def _write(self, text: str) -> None:
        if self._file is None:
            return
        data = text.encode("utf-8", "replace")
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            self.failed = f"{self._path.name}: {error.strerror or error}"
            self._file.close()
            self._file = None
