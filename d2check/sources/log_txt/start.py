"""What one start of a training left in a log, gathered line by line."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from d2check.model import Event, Scalar
from d2check.sources.log_txt.metric_line import MetricLine
from d2check.sources.log_txt.table import Table
from d2check.sources.log_txt.tracebacks import Crash

MAX_EVENTS = 200  # of one kind and start; the rest is counted
MAX_NAMES = 5000
MAX_CONFIG_LINES = 20_000
_SAME_MOMENT_S = 30.0


class Rows:
    """Numbers of one layout of fields, in print order: a growing column of each, eight bytes a row.

    clocks: seconds, NaN for a row without a stamp. columns: in the order of names.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.iterations = array("q")
        self.clocks = array("d")
        self.columns = tuple(array("d") for _ in names)


@dataclass(frozen=True)
class Evaluation:
    """One printed result table. before_iteration: of the next printed row, None if none came."""

    dataset: str
    task: str
    results: tuple[tuple[str, float], ...]
    after_iteration: int | None


@dataclass
class Start:
    """One process, or one `train()` call of a notebook, from its first line to the next's.

    began_line: where its loop started. first_s, began_s, last_s: stamps in seconds. total_line:
    where it told its whole time, which it does however the loop was left.
    """

    name: str
    line: int
    last_line: int = 0
    ranks: set[int] = field(default_factory=set)
    headings: set[str] = field(default_factory=set)
    facts: dict[str, Scalar] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    told: set[tuple[str, str]] = field(default_factory=set)
    event_counts: dict[str, int] = field(default_factory=dict)
    layouts: dict[tuple[str, ...], Rows] = field(default_factory=dict)
    mean_names: set[str] = field(default_factory=set)
    rows: int = 0
    last_iteration: int | None = None
    recent: tuple[tuple[int, float], ...] = ()
    began_line: int | None = None
    first_s: float = float("nan")
    began_s: float = float("nan")
    last_s: float = float("nan")
    start_iteration: int | None = None
    planned: int | None = None
    total_line: int | None = None
    timed_iterations: int | None = None
    final_save_line: int | None = None
    stale_iteration: int | None = None
    crashes: list[Crash] = field(default_factory=list)
    killed: tuple[str, str, int] | None = None  # signal or scheduler, text, line
    interrupted_line: int | None = None
    evaluation_only: bool = False
    config_text: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    weights_line: int | None = None
    class_instances: dict[str, int] = field(default_factory=dict)
    evaluations: list[Evaluation] = field(default_factory=list)
    empty_evaluations: set[int | None] = field(default_factory=set)
    waiting: list[Evaluation] = field(default_factory=list)
    placed: list[tuple[int, Evaluation]] = field(default_factory=list)
    dataset: str = ""
    task: str = ""
    columns: tuple[str, ...] = ()
    serialized: int | None = None
    after_sampler: bool = False
    malformed: int = 0

    def heard_at(self, moment: float) -> None:
        """Note the stamp of a line; NaN where it has none."""
        if moment == moment:
            self.last_s = moment
            if self.first_s != self.first_s:
                self.first_s = moment

    @property
    def is_over(self) -> bool:
        """Whether its loop was left."""
        return self.total_line is not None or any(crash.logged for crash in self.crashes)

    @property
    def has_begun(self) -> bool:
        """Whether its loop was seen to run, or to end."""
        return self.began_line is not None or self.last_iteration is not None or self.is_over

    def printed(self, iteration: int, moment: float) -> bool:
        """Whether one of the last rows was this one, printed by another rank at the same time."""
        return any(
            iteration == other and not abs(moment - then) > _SAME_MOMENT_S
            for other, then in self.recent
        )

    def event(self, kind: str, message: str, line: int, iteration: int | None = None) -> None:
        """Note something that happened, at the last row that was read unless told otherwise.

        The same words are kept once: evaluations repeat what the training set-up said.
        """
        if (kind, message) in self.told:
            return
        count = self.event_counts.get(kind, 0)
        self.event_counts[kind] = count + 1
        if count < MAX_EVENTS:
            self.told.add((kind, message))
            at = iteration if iteration is not None else self.last_iteration
            self.events.append(Event(kind, message, at, f"{self.name}:{line}"))

    def add(self, row: MetricLine, moment: float) -> None:
        """Keep a row."""
        names, values = row.names, row.values
        if row.means:
            # The mean since the start is what Detectron2 itself prints for times.
            own = {n: mean for n, mean in row.means.items() if n in ("time", "data_time")}
            pairs = zip(names, values, strict=True)
            values = [own.get(name, value) for name, value in pairs]
            self.mean_names |= own.keys()
        rows = self._layout(names)
        rows.iterations.append(row.iteration)
        rows.clocks.append(moment)
        for column, value in zip(rows.columns, values, strict=True):
            column.append(value)
        if row.total is not None:
            self.planned = row.total
        if self.waiting:
            self.placed += [(row.iteration, one) for one in self.waiting]
            self.waiting = []
        self.rows += row.has_loss
        self.last_iteration = row.iteration
        self.recent = (self.recent[-1:]) + ((row.iteration, moment),)

    def add_all(self, table: Table, clocks: array[float]) -> None:
        """Keep the rows of a table, all of them later than the last row."""
        rows = self._layout(table.names)
        rows.iterations.extend(table.iterations)
        rows.clocks.extend(clocks)
        for column, values in zip(rows.columns, table.columns, strict=True):
            column.extend(values)
        self.rows += len(table.iterations) if table.has_loss else 0
        self.last_iteration = table.iterations[-1]
        last = zip(table.iterations[-2:], clocks[-2:], strict=True)
        self.recent = (*self.recent, *last)[-2:]

    def _layout(self, names: tuple[str, ...]) -> Rows:
        rows = self.layouts.get(names)
        if rows is None:
            rows = self.layouts[names] = Rows(names)
        return rows
