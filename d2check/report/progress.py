"""What a short run is doing, while it does it: a live screen on a terminal, lines in a pipe.

Both are fed the probe's records (docs/run-folder.md) and keep no more than they show.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from d2check.report._text import clean, count, duration, epochs, figure, quantity, sparkline

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

Record = Mapping[str, Any]

# Iterations that speak for the pace of now: enough to even out the loader's bursts.
_RECENT = 50
_CURVE_WIDTH = 24
PLAIN_EVERY_S = 10.0
ENDED_EARLY = "ended-early"  # the probe's note


class Progress(Protocol):
    """Takes records as they come, and lines of the child that the user wants to see."""

    def record(self, record: Record) -> None:
        """One record of the probe."""

    def line(self, text: str) -> None:
        """One line of the training's own output."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class NoProgress:
    """Shows nothing (-q)."""

    def record(self, record: Record) -> None:
        """Nothing."""

    def line(self, text: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


@dataclass
class Watch:
    """What the records have said so far.

    iterations: how many the check asks for, None for no such limit; by_phase: of these, how many a
    phase has that may be left out. budget_s: seconds of training that it may take. planned:
    SOLVER.MAX_ITER, once the training says so. memory_mib: reserved on the GPU; host_mib: resident
    in the host's memory.
    """

    iterations: int | None = None
    budget_s: float | None = None
    planned: int | None = None
    done: int = 0
    first_clock: float | None = None
    clock: float | None = None
    phase: str = ""
    memory_mib: float | None = None
    host_mib: float | None = None
    by_phase: Mapping[str, int] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    recent: deque[tuple[float, float | None]] = field(default_factory=lambda: deque(maxlen=_RECENT))

    def take(self, record: Record) -> None:
        """Learn from one record; types and keys that are not known are passed over."""
        kind = record.get("t")
        if kind in ("begin", "facts") and isinstance(record.get("facts"), Mapping):
            self.facts.update(record["facts"])
            self.planned = self._fact("planned_iterations") or self._fact("max_iter")
        elif kind == "phase":
            self.phase = clean(record.get("name", ""))
        elif kind == "note" and record.get("kind") == "phase-skipped":
            if self.iterations is not None:
                self.iterations -= self.by_phase.get(str(record.get("phase")), 0)
        elif kind == "note" and record.get("kind") == ENDED_EARLY:
            self.phase = "ended early"
            self.iterations = self.done
        elif kind == "iter":
            self._iteration(record)

    def _iteration(self, record: Record) -> None:
        self.done += 1
        self.clock = _number(record.get("clock"))
        if self.first_clock is None:
            self.first_clock = self.clock
        scalars = record.get("scalars") or {}
        loss = _number(scalars.get("total_loss"))
        if loss is not None:
            self.losses.append(loss)
            if len(self.losses) > 4000:
                self.losses = self.losses[::2]
        total = _number(record.get("total_s"))
        # The first iteration starts the loader and the kernels; no later one is like it.
        if total is not None and self.done > 1:
            self.recent.append((total, _number(record.get("data_s"))))
        memory = record.get("memory") or {}
        self.memory_mib = _number(memory.get("reserved_mib"))
        self.host_mib = _number(record.get("rss_mib"))

    def _fact(self, name: str) -> int | None:
        value = _number(self.facts.get(name))
        return None if value is None or not math.isfinite(value) else int(value)

    @property
    def seconds_per_iteration(self) -> float | None:
        """Mean over the last iterations: a stall takes its time too."""
        if not self.recent:
            return None
        return sum(total for total, _ in self.recent) / len(self.recent)

    @property
    def data_share(self) -> float | None:
        """Share of the last iterations' time that waited for data, 0..1."""
        known = [(total, data) for total, data in self.recent if data is not None]
        total_s = sum(total for total, _ in known)
        return sum(data for _, data in known) / total_s if total_s > 0 else None

    @property
    def left_s(self) -> float | None:
        """Seconds until the check ends, by its iterations or its budget, whichever is sooner."""
        ends = []
        pace = self.seconds_per_iteration
        if self.iterations is not None and pace is not None:
            ends.append(max(0, self.iterations - self.done) * pace)
        if self.budget_s is not None and self.clock is not None and self.first_clock is not None:
            ends.append(max(0.0, self.budget_s - (self.clock - self.first_clock)))
        return min(ends, default=None)

    @property
    def full_training_s(self) -> float | None:
        """Seconds that the planned training takes at this pace, from its first iteration."""
        pace = self.seconds_per_iteration
        return None if pace is None or not self.planned else self.planned * pace

    @property
    def share_done(self) -> float | None:
        """Share of the check that is done, 0..1."""
        if self.iterations:
            return min(1.0, self.done / self.iterations)
        if self.budget_s and self.clock is not None and self.first_clock is not None:
            return min(1.0, (self.clock - self.first_clock) / self.budget_s)
        return None

    def figures(self) -> list[str]:
        """Loss, pace, data share, memory and epochs, as far as they are known."""
        parts = []
        if self.losses:
            parts.append(f"loss {figure(self.losses[-1])}")
        if (pace := self.seconds_per_iteration) is not None:
            parts.append(f"{figure(pace)} s/it")
        if (share := self.data_share) is not None:
            parts.append(f"data {100 * share:.0f} %")
        if self.memory_mib is not None:
            parts.append(f"memory {quantity(self.memory_mib, 'MiB')}")
        elif self.host_mib is not None:
            parts.append(f"host memory {quantity(self.host_mib, 'MiB')}")
        if (seen := self._epochs(self.done)) is not None:
            parts.append(f"{epochs(seen)} epochs")
        return parts

    def full_training(self) -> str:
        """`full training 10,000 iterations = 0.44 epochs, 2 h 11 min`; empty when not known."""
        if not self.planned:
            return ""
        text = f"full training {count(self.planned, 'iteration')}"
        if (whole := self._epochs(self.planned)) is not None:
            text += f" = {epochs(whole)} epochs"
        seconds = self.full_training_s
        return text if seconds is None else f"{text}, {duration(seconds)}"

    def _epochs(self, iterations: int) -> float | None:
        images, batch = _number(self.facts.get("images")), self._fact("images_per_batch")
        return iterations * batch / images if images and batch else None


def _number(value: object) -> float | None:
    """A number of a record; the words for NaN and infinities are numbers too."""
    if isinstance(value, str):
        return {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}.get(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value)


class PlainProgress:
    """A line now and then, for pipes and CI logs: the first iteration, then every ten seconds."""

    def __init__(self, stream: TextIO, watch: Watch) -> None:
        """Lines go to `stream`; when nobody reads it any more they stop."""
        self._stream: TextIO | None = stream
        self._watch = watch
        self._last: float | None = None

    def record(self, record: Record) -> None:
        """Learn, and say something when the last line is ten seconds old by the records' clock."""
        watch = self._watch
        watch.take(record)
        if record.get("t") == "note" and record.get("kind") == ENDED_EARLY:
            self.line(f"ended early {record.get('message', '')}")
        if record.get("t") != "iter":
            return
        now = watch.clock if watch.clock is not None else math.inf
        if self._last is None or now - self._last >= PLAIN_EVERY_S:
            self._last = now
            self.line(self.now())

    def now(self) -> str:
        """`iter 40/300 loss 1.42 0.083 s/it data 11 % eta 21 s; full training 2 h 11 min`."""
        watch = self._watch
        of = "" if watch.iterations is None else f"/{watch.iterations}"
        parts = [f"iter {watch.done}{of}", *watch.figures()]
        if (left := watch.left_s) is not None:
            parts.append(f"eta {duration(left)}")
        full = watch.full_training_s
        text = " ".join(parts)
        return text if full is None else f"{text}; full training {duration(full)}"

    def line(self, text: str) -> None:
        """One line of text."""
        if self._stream is None:
            return
        try:
            self._stream.write(clean(text) + "\n")
            self._stream.flush()
        except BrokenPipeError:
            # The reader has gone (`| head`); the check is still wanted for its exit code.
            self._stream = None

    def close(self) -> None:
        """Nothing to leave behind."""


class LiveProgress:
    """A small screen that redraws itself and is gone when the report comes."""

    def __init__(self, stream: TextIO, watch: Watch, *, title: str) -> None:
        """Take over some lines of the terminal that `stream` is."""
        from rich.console import Console
        from rich.live import Live
        from rich.spinner import Spinner
        from rich.text import Text

        self._watch = watch
        self._title = clean(title)
        self._console: Console = Console(file=stream, highlight=False, markup=False, emoji=False)
        waiting = f"{self._title}: loading PyTorch, Detectron2 and the data"
        self._waiting = Spinner("line", Text(waiting))
        self._live: Live = Live(
            get_renderable=self._screen,
            console=self._console,
            transient=True,
            refresh_per_second=4,
        )
        self._live.start()

    def record(self, record: Record) -> None:
        """Learn; the screen redraws in its own time."""
        self._watch.take(record)

    def line(self, text: str) -> None:
        """A line above the screen, which stays."""
        self._console.print(clean(text), style="dim")

    def close(self) -> None:
        """Give the lines back."""
        self._live.stop()

    def _screen(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        watch = self._watch
        if not watch.done:
            return self._waiting
        of = "" if watch.iterations is None else f"/{watch.iterations}"
        left = watch.left_s
        head = Table.grid(padding=(0, 1))
        head.add_row(
            Text(f"{self._title}: iter {watch.done}{of}"),
            ProgressBar(total=1.0, completed=watch.share_done or 0.0, width=30),
            Text("" if left is None else f"{duration(left)} left"),
            Text(watch.phase, style="dim"),
        )
        ascii_only = not (self._console.encoding or "").lower().startswith("utf")
        curve = sparkline(watch.losses, _CURVE_WIDTH, ascii_only=ascii_only)
        middle = Text("  ".join([curve, *watch.figures()] if curve else watch.figures()))
        return Group(head, middle, Text(watch.full_training(), style="dim"))
