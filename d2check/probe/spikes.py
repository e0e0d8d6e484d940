"""Names the images of a batch whose loss stands far above those before."""

from __future__ import annotations

import collections
import math
import os
import statistics
from typing import Any, Callable

FACTOR = 3.0  # one crowded image moves the total by up to 2.5 times
USUAL = 20  # iterations whose median is what is usual
NOTED = 20  # a training that only leaps need not be told more often


class SpikeWatch:
    """Writes a note for each leap of `total_loss`."""

    def __init__(self, recorder: Any) -> None:
        """Nothing is usual yet."""
        self._recorder = recorder
        self._recent: collections.deque[float] = collections.deque(maxlen=USUAL)
        self._noted = 0

    def look(self, iteration: int, total: float | None, files: Callable[[], list[str]]) -> None:
        """An iteration's loss; `files()` tells the images of its batch."""
        if total is None or not math.isfinite(total):
            return
        recent = self._recent
        if len(recent) == USUAL and total > FACTOR * min(recent) and self._noted < NOTED:
            usual = statistics.median(recent)
            # A loss that leaps again at once diverges: its first leap tells the batch.
            if total > FACTOR * usual and recent[-1] <= FACTOR * usual:
                self._noted += 1
                named = files()
                short = ", ".join(os.path.basename(name) for name in named)
                self._recorder.note(
                    "spike",
                    "total_loss %.3g, usually %.3g: %s" % (total, usual, short),
                    i=iteration,
                    batch_files=named,
                )
        recent.append(total)
