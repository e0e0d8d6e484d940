"""What a long audit shows while it goes on: a line on a terminal, nothing in a pipe."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TextIO

from d2check.model import RunReport, Unreadable, Verdict
from d2check.report._text import clean

if TYPE_CHECKING:
    from rich.status import Status

_QUIET_S = 1.0  # an audit that is over by then needs no progress
_REDRAW_S = 0.2


class AuditProgress:
    """One line that counts runs, failures and paths that could not be read, gone at the end."""

    def __init__(self, stream: TextIO, *, quiet_s: float = _QUIET_S) -> None:
        """stream: a terminal. Nothing is written to it before `quiet_s` seconds have passed."""
        self._stream = stream
        self._started = time.monotonic()
        self._next = self._started + quiet_s
        self._runs = self._failed = self._unreadable = 0
        self._status: Status | None = None

    def judged(self, item: RunReport | Unreadable) -> None:
        """Count one more; the line is redrawn a few times a second."""
        if isinstance(item, Unreadable):
            self._unreadable += 1
            path = item.path
        else:
            self._runs += 1
            self._failed += any(f.verdict is Verdict.FAIL for f in item.findings)
            path = item.run.source
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _REDRAW_S
        if self._status is None:
            self._status = self._begin()
        self._status.update(clean(self._line(path, now - self._started)))

    def close(self) -> None:
        """Give the line back."""
        if self._status is not None:
            self._status.stop()

    def _begin(self) -> Status:
        from rich.console import Console

        console = Console(file=self._stream, highlight=False, markup=False, emoji=False)
        status = console.status("", spinner="line")
        status.start()
        return status

    def _line(self, path: str, seconds: float) -> str:
        words = [f"{self._runs:,} runs judged, {self._failed:,} with a failure"]
        if self._unreadable:
            words.append(f"{self._unreadable:,} could not be read")
        words.append(f"{self._runs / max(seconds, 1e-3):.0f} a second")
        return f"{', '.join(words)}; {path}"
