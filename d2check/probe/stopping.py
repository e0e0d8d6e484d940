"""When the loop ends, and how it is left without checkpoint, evaluation or traceback."""

from __future__ import annotations

import json
import os
import time
from typing import Any

CHECK_STOP_FILE_EVERY_S = 0.2
VERDICT = "verdict"  # why a loop ended whose stop file says what is certain by now


class LoopEnded(BaseException):
    """Leaves the training loop. No Exception, so that Detectron2 neither logs nor handles it."""


class LeaveScript(LoopEnded, SystemExit):
    """The same in a user's own script or in a rank that `launch` spawned: a clean exit, status 0.

    In a spawned process any other BaseException would print tracebacks.
    """


class StopRule:
    """Ends the loop after so many iterations, after so many seconds, or on the stop file.

    With several ranks all must stop at the same iteration, or the others hang in a collective
    operation. Rank 0 decides, and writes the iteration, two ahead, to `stop-at`: a rank that has
    finished an iteration has seen a gradient exchange that rank 0 entered after it wrote.
    """

    def __init__(
        self,
        stop_file: str,
        iterations: int | None,
        budget_s: float | None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """`iterations` is counted from the first one, `budget_s` from the first `reason()`."""
        self.certain: dict[str, Any] | None = None  # what the stop file tells, on rank 0
        self._stop_file = stop_file
        self._stop_at_file = stop_file + "-at"
        self._iterations = iterations
        self._budget_s = budget_s
        self._rank = rank
        self._world_size = world_size
        self._done = 0
        self._started_s = time.perf_counter()
        self._next_look_s = 0.0
        self._agreed: tuple[int, str] | None = None

    def reason(self, iteration: int) -> str | None:
        """Why the loop shall end after this iteration, or None.

        The reasons: iterations, budget, stop-file, and verdict for a stop file that tells of one.
        """
        self._done += 1
        if self._iterations is not None and self._done >= self._iterations:
            return "iterations"
        if self._world_size == 1:
            return self._own_reason()
        return self._common_reason(iteration)

    def _own_reason(self) -> str | None:
        now_s = time.perf_counter()
        if self._budget_s is not None and now_s - self._started_s >= self._budget_s:
            return "budget"
        if now_s >= self._next_look_s:
            self._next_look_s = now_s + CHECK_STOP_FILE_EVERY_S
            if os.path.exists(self._stop_file):
                self.certain = _told(self._stop_file)
                return "stop-file" if self.certain is None else VERDICT
        return None

    def _common_reason(self, iteration: int) -> str | None:
        if self._agreed is None:
            if self._rank == 0:
                reason = self._own_reason()
                if reason is not None:
                    self._agreed = (iteration + 2, reason)
                    temporary = self._stop_at_file + ".new"
                    with open(temporary, "w") as file:
                        file.write("%d %s" % self._agreed)
                    os.replace(temporary, self._stop_at_file)
            elif os.path.exists(self._stop_at_file):
                with open(self._stop_at_file) as file:
                    at, reason = file.read().split()
                self._agreed = (int(at), reason)
        if self._agreed is not None and iteration >= self._agreed[0]:
            return self._agreed[1]
        return None


def _told(stop_file: str) -> dict[str, Any] | None:
    """What is certain by now, and from which iteration on; None where only an end is asked for."""
    try:
        with open(stop_file, encoding="utf-8") as file:
            told = json.load(file)
    except (OSError, ValueError):
        return None
    return told if isinstance(told, dict) and "why" in told else None
