"""What a rule file says, as frozen types. Nothing here is read, measured or judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from d2check.model import Ending, Event, Measurement, Risk, Scalar, Severity, Statistic, Status

if TYPE_CHECKING:
    from d2check.rules.expressions import Expression
    from d2check.rules.shorthand import Shape

Room = Literal["series", "facts", "config", "run"]
Expected = Literal["pass", "warn", "fail", "skip"]

STATISTICS: tuple[Statistic, ...] = ("raw", "median", "mean")
DEFAULT_PHASE = "as-configured"
ANY_PHASE = "any"


@dataclass(frozen=True)
class BySampling:
    """A parameter or threshold that depends on how the series was sampled."""

    values: Mapping[Statistic, Any]

    def at(self, statistic: Statistic) -> Any:
        """The value for one statistic; None where the rule gives none."""
        return self.values.get(statistic)


@dataclass(frozen=True)
class Comparison:
    """A measured name against one bound. `above` and `below` are strict."""

    of: str
    operator: Literal["above", "below", "equals"]
    bound: Any  # number, text, bool or BySampling


@dataclass(frozen=True)
class AllOf:
    """Met when every part is."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class AnyOf:
    """Met when one part is."""

    parts: tuple[Condition, ...]


Condition = Comparison | AllOf | AnyOf


@dataclass(frozen=True)
class Source:
    """One place of a run: `series.loss_*`, `facts.images`. optional: written with a `?`."""

    room: Room
    name: str
    optional: bool = False

    @property
    def full_name(self) -> str:
        """Room and name, as in the rule file."""
        return f"{self.room}.{self.name}"


@dataclass(frozen=True)
class Read:
    """Where one parameter of the check comes from.

    sources: the first that is there is taken (`config.A or facts.b`); with together, all that are
    there, as a tuple (a list in the rule file).
    """

    parameter: str
    sources: tuple[Source, ...]
    together: bool = False

    @property
    def optional(self) -> bool:
        """Whether the check can do without."""
        return any(source.optional for source in self.sources)

    @property
    def full_name(self) -> str:
        """Its sources, as in the rule file."""
        return (", " if self.together else " or ").join(s.full_name for s in self.sources)

    @property
    def reads_series(self) -> bool:
        """Whether a Series, or several, may be bound."""
        return any(source.room == "series" for source in self.sources)


@dataclass(frozen=True)
class Needs:
    """What must hold before a rule judges at all.

    rows: parameter -> least number of samples. sampling: parameter -> allowed statistics.
    endings: values of EndingKind. config_matches: a config that does not contradict the rows.
    one_of: optional parameters, at least one of which must be there.
    that: expressions that must not be false, each with the reason to give when it is.
    """

    rows: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, tuple[Statistic, ...]] = field(default_factory=dict)
    endings: tuple[str, ...] = ()
    config_matches: bool = False
    that: tuple[tuple[Expression, str], ...] = ()
    one_of: tuple[str, ...] = ()


@dataclass(frozen=True)
class Explanation:
    """Another rule that, when it fails or warns, is the cause.

    when: must hold of the cause's measurement (`value > 1`) and may look at the symptom's
    (`symptom.rate_share > 0.2`).
    """

    rule: str
    when: Expression | None = None


@dataclass(frozen=True)
class FixTemplate:
    """A repair before it meets a run: overrides by expression, or an action in words."""

    because: tuple[str, ...]
    risk: Risk = "try"
    overrides: Mapping[str, Expression] = field(default_factory=dict)
    action: str | None = None
    when: Expression | None = None


@dataclass(frozen=True)
class ExampleSeries:
    """A series of an example: its shape, and its sampling where it differs from the example's."""

    shape: Shape
    start: int | None = None
    every: int | None = None
    window: int | None = None
    statistic: Statistic | None = None


@dataclass(frozen=True)
class Example:
    """One unit test of a rule: a small run and the verdict that it must get.

    noise: series name or glob -> standard deviation of the log. proposes: overrides that a fix
    must make. advises: text that an action must hold. says: text that the message must hold.
    """

    name: str
    expect: Expected
    series: Mapping[str, ExampleSeries] = field(default_factory=dict)
    noise: Mapping[str, float] = field(default_factory=dict)
    sampling: Statistic = "raw"
    config: Mapping[str, Any] | None = None
    config_matches: bool = True
    facts: Mapping[str, Scalar] = field(default_factory=dict)
    ending: Ending = field(default_factory=Ending)
    planned_iterations: int | None = None
    events: tuple[Event, ...] = ()
    phases: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    malformed_lines: int = 0
    reason: str | None = None
    says: str | None = None
    proposes: Mapping[str, Any] = field(default_factory=dict)
    advises: str | None = None
    line: int = 1


@dataclass(frozen=True)
class Rule:
    """One rule file.

    message and passed: alternatives; the first whose names are all known is used. parameters:
    the file's `with`. measure: the function that `check` names. ignored: the reason that a
    project file gives for not counting this rule.
    """

    id: str
    title: str
    status: Status
    severity: Severity
    why: str
    check: str
    measure: Callable[..., Measurement]
    reads: tuple[Read, ...]
    message: tuple[str, ...]
    passed: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    phase: str = DEFAULT_PHASE
    needs: Needs = field(default_factory=Needs)
    explained_by: tuple[Explanation, ...] = ()
    fail: Condition | None = None
    warn: Condition | None = None
    passes: Condition | None = None
    undecided: str | None = None
    fixes: tuple[FixTemplate, ...] = ()
    links: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()
    path: str = ""
    ignored: str | None = None
