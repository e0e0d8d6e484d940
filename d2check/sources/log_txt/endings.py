"""How a training ended, from what its log says."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from d2check.model import Ending, EndingKind
from d2check.sources.log_txt.start import Start
from d2check.sources.log_txt.tracebacks import SIGNAL, Crash

# FloatingPointError of train_loop: "Loss became infinite or NaN at iteration=27!"
_NAMED_ITERATION = re.compile(r"infinite or NaN at iteration=(\d{1,15})\b")
# IterationTimer leaves out its first iterations (engine/hooks.py, warmup_iter).
_NOT_TIMED = 3
_LAST_ROWS = 25  # a row is printed every 20 iterations and after the last one


@dataclass(frozen=True)
class LastSeen:
    """What is known of the end of one start.

    from_start: its first messages are there. loop_iteration: where the loop stood when its whole
    time was told; the planned length if it finished. eta_s, iteration_s: of the last row.
    """

    name: str
    last_line: int
    from_start: bool
    began: bool
    last_iteration: int | None
    loop_iteration: int | None
    total_line: int | None
    final_save_line: int | None
    stale_iteration: int | None
    crash: Crash | None
    killed: tuple[str, str, int] | None
    interrupted_line: int | None
    eta_s: float
    iteration_s: float

    @property
    def torn_out(self) -> bool:
        """Whether neither the start nor the end is there: rows that were copied out of a log."""
        return not self.from_start and self.total_line is None

    @property
    def nearly_done(self) -> bool:
        """Whether the last printed eta left no more than the rows between two prints."""
        if math.isnan(self.eta_s):
            return False
        if math.isnan(self.iteration_s):
            return self.eta_s == 0
        return self.eta_s <= _LAST_ROWS * self.iteration_s

    def finished(self, planned: int | None) -> bool:
        """Whether it reached its planned length (None: nobody knows)."""
        reached = max((i for i in (self.loop_iteration, self.last_iteration) if i is not None),
                      default=None)  # fmt: skip
        if planned is not None and reached is not None:
            return reached >= planned - 1 and not (self.crash and self.crash.logged)
        if self.crash is not None and self.crash.logged:
            return False
        if self.final_save_line is not None or self.eta_s == 0:
            return True
        left = self.total_line is not None and self.stale_iteration is None
        return left and self.nearly_done

    def ending(self, planned: int | None) -> Ending:
        """How it ended, when this many iterations were planned (None: nobody knows)."""
        if self.finished(planned):
            line = self.total_line or self.final_save_line or self.last_line
            last = planned - 1 if planned is not None else self.last_iteration
            return Ending(EndingKind.FINISHED, last, read_from=self._at(line))
        where = self._iteration()
        if self.crash is not None:
            signal = None
            if self.crash.kind == EndingKind.KILLED:
                signal = SIGNAL.search(self.crash.message or "")
            return Ending(
                self.crash.kind,
                where,
                error=signal[1] if signal else self.crash.error,
                message=self.crash.message,
                traceback=self.crash.frames,
                read_from=self._at(self.crash.line),
                stage=self._stage(),
            )
        if self.killed is not None:
            name, text, line = self.killed
            return Ending(EndingKind.KILLED, where, name or None, text, read_from=self._at(line))
        if self.interrupted_line is not None:
            at = self._at(self.interrupted_line)
            return Ending(EndingKind.INTERRUPTED, where, "KeyboardInterrupt", read_from=at)
        return self._silent(planned, where)

    def _silent(self, planned: int | None, where: int | None) -> Ending:
        of = f" of {planned}" if planned is not None else ""
        told = planned is not None or self.eta_s > 0 or self.stale_iteration is not None
        if not self.began and self.total_line is None:
            return Ending(read_from=self._at(self.last_line))  # no loop was seen to run
        line = self.total_line or self.last_line
        if self.total_line is not None and told:
            at = f"at iteration {where}{of}" if where is not None else "before its first row"
            text = f"the loop was left {at} without an error in the log: Ctrl-C, or an early stop"
        elif self.began and self.total_line is None and where is None:
            text = "the log stops before the first row of losses"
        elif told:
            text = f"the log stops at iteration {where}{of}"
        else:
            return Ending(EndingKind.UNKNOWN, where, read_from=self._at(line))
        return Ending(EndingKind.TRUNCATED, where, message=text, read_from=self._at(line))

    def _iteration(self) -> int | None:
        named = _NAMED_ITERATION.search(self.crash.message or "") if self.crash else None
        if named:
            return int(named[1])
        if self.stale_iteration is not None:
            return self.stale_iteration
        if self.loop_iteration is not None:
            return self.loop_iteration
        return self.last_iteration

    def _stage(self) -> str | None:
        """Where it crashed; None for lines that begin somewhere in the middle."""
        if self.began or self.stale_iteration is not None or self._iteration() is not None:
            return "train"
        return "setup" if self.from_start else None

    def _at(self, line: int) -> str:
        return f"{self.name}:{line}"


def last_seen(start: Start, eta_s: float, iteration_s: float) -> LastSeen:
    """The end of a start. eta_s, iteration_s: of its last row, NaN where none was printed."""
    loop = None
    if start.timed_iterations is not None:
        loop = (start.start_iteration or 0) + start.timed_iterations + _NOT_TIMED - 1
    return LastSeen(
        name=start.name,
        last_line=start.last_line or start.line,
        from_start=bool(start.headings or start.ranks),
        began=start.began_line is not None or start.last_iteration is not None,
        last_iteration=start.last_iteration,
        loop_iteration=loop,
        total_line=start.total_line,
        final_save_line=start.final_save_line,
        stale_iteration=start.stale_iteration,
        crash=_deciding(start.crashes),
        killed=start.killed,
        interrupted_line=start.interrupted_line,
        eta_s=eta_s,
        iteration_s=iteration_s,
    )


def _deciding(crashes: list[Crash]) -> Crash | None:
    ended = [crash for crash in crashes if not crash.survived]
    logged = [crash for crash in ended if crash.logged]
    # The same exception is printed again by the interpreter, after the loop has logged it.
    if logged:
        return logged[-1]
    return ended[0] if ended else None
