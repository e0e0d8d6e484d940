"""Lines of a log, in one pass, to the starts that wrote them. Every line is counted once."""

from __future__ import annotations

import math
import re
from array import array
from dataclasses import replace

from d2check.sources._unpack import Readable, Unpacked
from d2check.sources.log_txt import bare_errors, blocks, chatter, messages, raw, tidy
from d2check.sources.log_txt.counts import LineCounts, Malformed
from d2check.sources.log_txt.metric_line import MARK, LineParser, MetricLine, parse_metric_line
from d2check.sources.log_txt.stamps import Clock
from d2check.sources.log_txt.start import Start
from d2check.sources.log_txt.starts import Starts
from d2check.sources.log_txt.stream import batches, unpacked
from d2check.sources.log_txt.table import Table, table_of
from d2check.sources.log_txt.tracebacks import MAX_LINES, crash_of, cut_crash, is_frame, is_head
from d2check.sources.log_txt.wrapped import WrappedRow

_MAX_LISTED = 100

_LOGGED = "Exception during training"
_MAX_METRIC_BYTES = 256 * 1024  # a row of a thousand metrics has 30 KB


class Reader:
    """The state between two lines."""

    def __init__(self, name: str) -> None:
        self._starts = Starts(name)
        self.counts = LineCounts()
        self.malformed: list[Malformed] = []
        self.size_bytes = 0
        self.damage: str | None = None  # of a packed file: what stopped the reading
        self._clock = Clock()
        self._parser = LineParser()
        self._block: str | None = None
        self._traceback: list[str] | None = None
        self._traceback_line = 0
        self._traceback_logged = False
        self._held = WrappedRow()
        self._near = b""  # the lines that are being read
        self._quiet: bool | None = None  # whether none of them tells of an end
        self._metric = self._known = self._other = self._malformed = self._blank = 0

    @property
    def starts(self) -> list[Start]:
        """All starts so far, in file order."""
        return self._starts.all

    @property
    def lines(self) -> int:
        """How many lines were read."""
        return self._starts.line

    # ------------------------------------------------------------------------------- lines

    def read(self, stream: Readable) -> None:
        """All lines of the stream."""
        content = unpacked(stream)
        for batch in batches(content):
            self.size_bytes += len(batch)
            spoilt = b"\x00" in batch or b"\r" in batch
            for block in tidy.blocks_of(batch):
                if spoilt or MARK not in block or not self._rows_at_once(block):
                    self._each(block, spoilt=spoilt)
        self.damage = content.damage if isinstance(content, Unpacked) else None
        self._flush_held()
        self._end_traceback()
        self.counts = LineCounts(
            self._metric, self._known, self._other, self._malformed, self._blank
        )

    def _each(self, block: bytes, *, spoilt: bool = False) -> None:
        """Line by line. spoilt: some of the lines hold NULs or carriage returns."""
        self._near, self._quiet = block, None
        for line in block.split(b"\n"):
            self._starts.line += 1
            if spoilt and b"\x00" in line:
                self._damaged(line)
                continue
            if spoilt and b"\r" in line:  # a progress bar: only its last state stays on the screen
                line = line.rpartition(b"\r")[2] if MARK not in line else line
            if self._held.text is not None and self._joins(line):
                continue
            if MARK in line:
                self._metric_line(line, self._starts.line)
            else:
                self._text_line(line)

    def _rows_at_once(self, block: bytes) -> bool:
        """Read a block of rows as a table, but for its first line. False when it is none."""
        if self._held.text is not None or self._held.width:
            return False
        first, _, rest = block.partition(b"\n")
        table = table_of(rest, self._parser) if MARK in first else None
        if table is None or not self._held.is_whole(table.ends_in):
            return False
        self._each(first)
        start = self._starts.current()
        goes_on = not start.is_over and not start.waiting and self._held.text is None
        if goes_on and start.last_iteration is not None:
            if start.last_iteration < table.iterations[0]:
                self._table(start, table)
                return True
        self._each(rest)
        return True

    def _table(self, start: Start, table: Table) -> None:
        self._held.learn(table.names)
        count = len(table.iterations)
        if table.prefixes:
            clocks = self._clock.read_all(table.prefixes)
        else:
            clocks = array("d", [math.nan]) * count
        start.add_all(table, clocks)
        start.heard_at(clocks[-1])
        self._starts.line += count
        self._metric += count
        start.last_line = self._starts.line

    def _damaged(self, line: bytes) -> None:
        """A line with NULs, which a machine that lost its power leaves: read, counted as lost."""
        self._flush_held()
        counts = (self._metric, self._known, self._other, self._blank)
        bare = line.replace(b"\x00", b"")
        if MARK in bare:
            self._metric_line(bare, self._starts.line)
            self._flush_held()
        else:
            self._text_line(bare)
        self._metric, self._known, self._other, self._blank = counts
        self._lost(line)

    def _lost(self, line: bytes, number: int | None = None) -> None:
        if len(self.malformed) < _MAX_LISTED:
            text = line[:80].decode("utf-8", "replace")
            self.malformed.append(Malformed(number or self._starts.line, text))
        self._malformed += 1
        self._starts.current().malformed += 1

    # ------------------------------------------------------------------------- metric lines

    def _metric_line(self, line: bytes, number: int) -> None:
        row = self._parser.parse(line) if len(line) <= _MAX_METRIC_BYTES else None
        if row is None:
            self._text_line(line)
            return
        if self._held.may_go_on(line):
            self._held.hold(line, number)
            return
        self._metric += 1
        self._row(row, line, number)

    def _joins(self, line: bytes) -> bool:
        """Whether the line is the rest of the row before it, or a part of the rest."""
        if not self._held.join(line):
            self._flush_held()
            return False
        if self._held.is_last(line):
            self._flush_held()
        return True

    def _flush_held(self) -> None:
        text, self._held.text = self._held.text, None
        if text is None:
            return
        row, lines = parse_metric_line(text), self._held.lines
        if row is None:
            self._other += lines
        elif self._held.is_cut(row, text):
            self._lost(text, self._held.number)
            self._metric += lines - 1
        else:
            self._metric += lines
            self._row(row, text, self._held.number)

    def _row(self, row: MetricLine, line: bytes, number: int) -> None:
        self._end_block()
        moment = self._clock.read(line)
        start = self._starts.current(number)
        last = start.last_iteration
        self._held.learn(row.names)
        if start.is_over and start.stale_iteration is None and row.iteration >= (last or 0):
            # The writers are flushed once more after the loop: medians of rows already printed.
            start.stale_iteration = row.iteration
            text = f"the row of iteration {row.iteration} was printed after the loop was left"
            start.event("stale-row", text, number, row.iteration)
            return
        if last is not None and row.iteration <= last:
            if start.printed(row.iteration, moment):
                start.event("second-writer", "another process printed the same iteration", number)
                return
            start = self._starts.next(number)
        start.last_line = number
        start.heard_at(moment)
        if start.crashes and row.has_loss:
            start.crashes = [replace(crash, survived=True) for crash in start.crashes]
        if last is None and not row.iteration and not row.has_loss and "lr" not in row.names:
            return  # `iter: 0  lr: N/A`: a loop that never finished an iteration
        start.add(row, moment)

    # --------------------------------------------------------------------------- other lines

    def _text_line(self, line: bytes) -> None:
        if self._is_idle(line):
            self._other += 1
            return
        bare = line.strip()
        if not bare or bare == b"```":
            self._blank += 1
            if self._traceback is not None:
                self._traceback.append("")
            return
        line, text = tidy.bare(line)
        found = messages.PREFIX.match(text)
        if found is None and self._traceback is None:
            # Behind a progress bar that was not ended by a newline, or quoted in prose.
            text, found = tidy.from_stamp(text)
        if found:
            self._message(text[found.end() :].strip(), line, found)
            return
        if self._traceback is not None and len(self._traceback) < MAX_LINES:
            if not raw.tells_of_an_end(
                self._starts.current(), text, self._starts.line, in_traceback=True
            ):
                self._traceback.append(text)
            self._known += 1
            return
        if is_head(text) or is_frame(text):
            self._open_traceback(text)
            self._known += 1
            return
        if self._block is not None and blocks.feed(self._starts.current(), self._block, text):
            self._known += 1
            return
        # A console whose prefix was cut off, or a project that prints without one.
        self._block = None
        start = self._starts.current()
        known, block = messages.take(start, text.strip(), self._starts.line)
        known = known or raw.tells_of_an_end(start, text, self._starts.line, in_traceback=False)
        known = known or self._bare_error(start, text)
        self._block = block
        self._known += known
        self._other += not known

    def _is_idle(self, line: bytes) -> bool:
        """Whether the line tells nothing; what it ends, and when it was, is noted."""
        if chatter.is_idle_message(line):
            self._end_block()
            self._stamp(line)
            return True
        if self._traceback is not None or self._block is not None:
            return False
        if not chatter.is_idle_text(line):
            return False
        if self._quiet is None:
            self._quiet = chatter.is_quiet(self._near)
        if not self._quiet and not chatter.is_quiet(line):
            return False
        self._starts.current()
        return True

    def _message(self, text: str, line: bytes, found: re.Match[str]) -> None:
        self._end_block()
        word = text.partition(" ")[0]
        self._starts.heard(word, text)
        start = self._stamp(line)
        known, self._block = messages.take(start, text, self._starts.line)
        if start.began_line == self._starts.line:
            start.began_s = start.last_s
        if text.startswith(_LOGGED):
            self._traceback_logged = True
            known = True
        self._known += known
        self._other += not known

    def _stamp(self, line: bytes) -> Start:
        """Note where and when the current start was last heard of."""
        start = self._starts.current()
        start.last_line = self._starts.line
        moment = self._clock.read(line)
        if moment != start.last_s:  # most lines are of the same second
            start.heard_at(moment)
        return start

    def _bare_error(self, start: Start, text: str) -> bool:
        last = start.crashes[-1] if start.crashes else None
        if last is not None and last.line == self._starts.line - 1 and bare_errors.goes_on(text):
            start.crashes[-1] = replace(last, message=f"{last.message}\n{text.strip()}")
            return True
        crash = bare_errors.error_of(text, self._starts.line)
        if crash is not None:
            start.crashes.append(crash)
        return crash is not None

    # ------------------------------------------------------------------------------ blocks

    def _open_traceback(self, text: str) -> None:
        self._block = None
        self._traceback = [text]
        self._traceback_line = self._starts.line

    def _end_block(self) -> None:
        self._block = None
        self._end_traceback()

    def _end_traceback(self) -> None:
        lines, self._traceback = self._traceback, None
        if lines is None:
            return
        logged, self._traceback_logged = self._traceback_logged, False
        crash = crash_of(lines, self._traceback_line, logged=logged)
        if crash is None and logged:
            crash = cut_crash(lines, self._traceback_line)
        if crash is not None:
            self._starts.current().crashes.append(crash)
