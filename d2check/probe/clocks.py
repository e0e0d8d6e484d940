"""Where the time of one iteration goes, by the marks that are set along its way.

On a GPU work is asynchronous: the processor is past a mark long before the GPU is. There a CUDA
event goes with each mark, and is read once the GPU has passed it; nothing ever waits for it.
"""

from __future__ import annotations

from time import perf_counter as _now_s
from typing import Any

# What the time after a mark is spent on, until the next mark.
ITERATION, RUN, FETCH, FETCHED, FORWARD, FORWARD_DONE, METRICS, OPTIMIZER, OPTIMIZER_DONE = range(9)
AFTER_RUN, DONE = 9, 10
_SPENT_ON = {
    ITERATION: "hooks_s",  # before_step of the hooks
    RUN: "other_s",
    FETCH: "data_s",
    FETCHED: "other_s",
    FORWARD: "forward_s",
    FORWARD_DONE: "backward_s",
    METRICS: "other_s",  # the losses are read: Detectron2 waits for the GPU here
    OPTIMIZER: "optimizer_s",
    OPTIMIZER_DONE: "other_s",
    AFTER_RUN: "hooks_s",  # after_step of the hooks
    DONE: "other_s",  # the probe itself, and what Detectron2 does between two iterations
}


class Lap:
    """The marks of one iteration: (code, processor time in seconds, CUDA event or None)."""

    __slots__ = ("fetches_seen", "marks")

    def __init__(self, first: tuple[int, float, Any], *, fetches_seen: bool) -> None:
        """Begin where the lap before ended."""
        self.marks = [first]
        self.fetches_seen = fetches_seen

    def passed(self) -> bool:
        """Whether the GPU has passed all marks: those of a user's own stream too."""
        if self.marks[-1][2] is None:
            return True
        return all(event.query() for _, _, event in reversed(self.marks))

    def split(self, *, by_events: bool = True) -> dict[str, float]:
        """Seconds by phase, which add up to `total_s`; phases that were not seen are absent."""
        spent = {"other_s": 0.0, "hooks_s": 0.0}
        use_events = by_events and self.marks[-1][2] is not None
        between_s = self._by_gpu() if use_events else self._by_processor()
        if min(between_s, default=0.0) < 0:
            between_s = self._by_processor()  # marks in streams that run beside each other
        for (code, _, _), seconds in zip(self.marks, between_s):
            phase = _SPENT_ON[code]
            if code == RUN and not self.fetches_seen:
                phase = "data_s"  # a trainer with its own iterator: all until the forward pass
            spent[phase] = spent.get(phase, 0.0) + seconds
        spent = {phase: round(seconds, 7) for phase, seconds in spent.items()}
        spent["total_s"] = round(sum(spent.values()), 7)
        return spent

    def _by_gpu(self) -> list[float]:
        events = [event for _, _, event in self.marks]
        return [a.elapsed_time(b) * 1e-3 for a, b in zip(events, events[1:])]

    def _by_processor(self) -> list[float]:
        times_s = [time_s for _, time_s, _ in self.marks]
        return [b - a for a, b in zip(times_s, times_s[1:])]

    def used_events(self) -> list[Any]:
        """Its events but the last, which the next lap begins with."""
        return [event for _, _, event in self.marks[:-1] if event is not None]


class Stopwatch:
    """Sets marks. With `cuda` (the module torch.cuda) each mark is an event too.

    Events are those of the model's GPU, whichever one torch uses when none is named: a model may
    be on `cuda:1` in a process whose current GPU is the first one.
    """

    def __init__(self, cuda: Any = None, device: Any = None) -> None:
        """`cuda` is None where the model is on the processor. `device`: the model's GPU."""
        self._cuda = cuda
        self._device = device
        # Not in torch 1.10, whose graphs are captured by no public function.
        self._is_captured = getattr(cuda, "is_current_stream_capturing", None)
        self._spare: list[Any] = []
        self._lap: Lap | None = None
        self.fetches_seen = False

    def mark(self, code: int) -> None:
        """Something begins, see the codes above."""
        if self._is_captured is not None and self._is_captured():
            return  # an event would become a part of the user's CUDA graph, and could not be read
        made = (code, _now_s(), None if self._cuda is None else self._event())
        if self._lap is None:
            self._lap = Lap(made, fetches_seen=self.fetches_seen)
        else:
            self._lap.marks.append(made)

    def finish(self) -> Lap:
        """The lap that ends now. The next one begins at the same moment."""
        self.mark(DONE)
        lap = self._lap
        assert lap is not None
        lap.fetches_seen = self.fetches_seen
        self._lap = Lap(lap.marks[-1], fetches_seen=self.fetches_seen)
        return lap

    def restart(self) -> None:
        """Let the lap that has just begun begin now."""
        if self._lap is not None:
            # The event of the old mark is also the last one of the lap before: not to be reused.
            event = None if self._cuda is None else self._event()
            self._lap.marks = [(self._lap.marks[0][0], _now_s(), event)]

    def reuse(self, lap: Lap) -> None:
        """Take back the events of a lap that has been read."""
        if self._cuda is not None:
            self._spare.extend(lap.used_events())

    def _event(self) -> Any:
        event = self._spare.pop() if self._spare else self._cuda.Event(enable_timing=True)
        event.record(self._cuda.current_stream(self._device))
        return event
