"""What a rule reads, looked up in a run: the arguments of its check, or why they are not there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from d2check.config import keys
from d2check.config.lazy_settings import lazy_setting
from d2check.model import EndingKind, Measurement, Run, Series, Statistic
from d2check.rules.absence import why_absent
from d2check.rules.beginning import beginning
from d2check.rules.expressions import Absent
from d2check.rules.model import ANY_PHASE, DEFAULT_PHASE, BySampling, Read, Rule, Source

RAMP_PHASE = "ramp"
_LOSS = re.compile(r"(^|[_/])loss|loss($|[_/])", re.IGNORECASE)
_VALIDATION = re.compile(r"(^|[_/])(val|valid|validation|eval|test)([_/]|$)", re.IGNORECASE)

_STATISTIC_WORDS: Mapping[Statistic, str] = {
    "raw": "the values of single iterations",
    "median": "medians",
    "mean": "means",
}


@dataclass(frozen=True)
class Missing:
    """Why a rule cannot be judged, to complete `could not be judged: ...`."""

    reason: str


@dataclass(frozen=True)
class Absence:
    """An input that is not there. Why is worded where somebody will read it: most are optional."""

    room: str
    name: str
    emptied: bool = False  # there are values, but none in this part of the run

    def missing(self, run: Run) -> Missing:
        """Why the rule that needs it cannot be judged."""
        if self.emptied:
            return Missing(f"{self.name} has no values in this part of the run")
        return Missing(why_absent(self.room, self.name, run))


@dataclass(frozen=True)
class Inputs:
    """The arguments of a check, its series, and the sampling that chooses its parameters."""

    arguments: Mapping[str, Any]
    series: Mapping[str, tuple[Series, ...]] = field(default_factory=dict)
    statistic: Statistic = "raw"


class Scope(Mapping[str, Any]):
    """The names that messages and expressions may use; one without a value is absent."""

    def __init__(
        self,
        run: Run,
        value: float | None = None,
        extras: Mapping[str, Any] | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        """Measured names come before parameters of the rule."""
        self._run = run
        self._own = {**(parameters or {}), **(extras or {}), "value": value}

    def __getitem__(self, name: str) -> Any:
        room, _, rest = name.partition(".")
        value: Any
        if not rest or room == "symptom":
            value = self._own.get(name)
        elif room == "config":
            value = setting(self._run, rest)
        elif room == "facts":
            value = self._run.facts.get(rest)
        else:
            value = getattr(self._run, rest, None)
        if value is None:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)


def has_config(run: Run) -> bool:
    """Whether there is a config that belongs to the rows of the run."""
    return run.config is not None and run.config.matches_run is not False


def setting(run: Run, key: str) -> Any:
    """A yacs key's value in the run's config; None when not known.

    A LazyConfig is asked in its own terms for the setting. Where a config is no whole dump, the
    schedule's keys (SOLVER) have Detectron2's defaults, as the planned rate has; what it leaves
    out of the rest (weights, classes, norms) is not known: code or a base may have set it.
    """
    config = run.config
    if config is None or config.matches_run is False:
        return None
    if config.kind == "lazy":
        return lazy_setting(config, key)
    if key in config.values or config.complete:
        return config.values.get(key)
    return keys.defaults().get(key) if key.startswith("SOLVER.") else None


@lru_cache(maxsize=4096)
def is_loss(name: str) -> bool:
    """Whether a scalar is a loss of the model, and neither the total nor one of a validation."""
    return name != "total_loss" and bool(_LOSS.search(name)) and not _VALIDATION.search(name)


def bind(rule: Rule, run: Run) -> Inputs | Missing:
    """All arguments of the rule's check. Missing when one is not there, or `needs` is unmet."""
    phase = _phase_span(rule, run)
    if isinstance(phase, Missing):
        return phase
    arguments: dict[str, Any] = {}
    absent: dict[str, Absence] = {}
    series: dict[str, tuple[Series, ...]] = {}
    for read in rule.reads:
        value = _read(read, run, phase)
        if isinstance(value, Absence):
            if not read.optional:
                return value.missing(run)
            absent[read.parameter] = value
            value = None
        elif read.reads_series:
            series[read.parameter] = _all_series(value)
        arguments[read.parameter] = value
    if rule.needs.one_of and all(name in absent for name in rule.needs.one_of):
        return absent[rule.needs.one_of[0]].missing(run)
    first = next((group for group in series.values() if group), None)
    statistic: Statistic = first[0].statistic if first else "raw"
    for name, parameter in rule.parameters.items():
        chosen = parameter.at(statistic) if isinstance(parameter, BySampling) else parameter
        if chosen is None:
            return Missing(_wrong_sampling(statistic, tuple(parameter.values)))
        arguments[name] = chosen
    inputs = Inputs(arguments, series, statistic)
    return _unmet_need(rule, run, inputs) or inputs


def _phase_span(rule: Rule, run: Run) -> tuple[int, int] | Missing | None:
    if rule.phase == ANY_PHASE:
        return _before_ramp(run)
    if not run.phases and rule.phase == DEFAULT_PHASE:
        return None
    for phase in run.phases:
        if phase.name == rule.phase:
            return phase.first_iteration, phase.last_iteration
    return Missing(_why_no_phase(rule.phase, run))


def _why_no_phase(phase: str, run: Run) -> str:
    """The run's own words where it left the phase out, as one that ended early does."""
    told = (e.message for e in run.events if e.kind == "phase-skipped")
    reason = next((m.partition(": ")[2] for m in told if m.startswith(f"{phase}: ")), "")
    return f"the run had no phase {phase!r}" + (f": {reason}" if reason else "")


def _before_ramp(run: Run) -> tuple[int, int] | None:
    """All iterations but those of a ramp, whose rates are not the config's; None for all."""
    begin = next((p.first_iteration for p in run.phases if p.name == RAMP_PHASE), None)
    return None if begin is None else (run.phases[0].first_iteration, begin - 1)


def _read(read: Read, run: Run, phase: tuple[int, int] | None) -> Any:
    found = [_look_up(source, run, phase) for source in read.sources]
    present = tuple(value for value in found if not isinstance(value, Absence))
    if read.together:
        needed = zip(read.sources, found, strict=True)
        missing = [v for s, v in needed if isinstance(v, Absence) and not s.optional]
        return missing[0] if missing else present
    return present[0] if present else found[0]


def _all_series(value: Any) -> tuple[Series, ...]:
    if isinstance(value, Series):
        return (value,)
    if isinstance(value, dict):
        return tuple(value.values())
    if isinstance(value, tuple):
        return tuple(series for item in value for series in _all_series(item))
    return ()


def _look_up(source: Source, run: Run, phase: tuple[int, int] | None) -> Any:
    if source.room == "series":
        return _series(source.name, run, phase)
    value: Any
    if source.room == "facts":
        value = run.facts.get(source.name)
    elif source.room == "config":
        value = setting(run, source.name)
    else:
        value = _of_run(source.name, run)
    return Absence(source.room, source.name) if value is None else value


def _of_run(name: str, run: Run) -> Any:
    if name == "complete":
        return _is_complete(run)
    if name == "before_ramp":
        span = _before_ramp(run)
        return None if span is None else {k: s.between(*span) for k, s in run.series.items()}
    if name == "beginning":
        return beginning(run, setting(run, "MODEL.WEIGHTS"))
    if name not in ("config", "misspelt_keys", "meant_keys"):
        return getattr(run, name)
    if run.config is None or not has_config(run):
        return None
    if name == "config":
        return run.config
    misspelt = [key for key in keys.unknown_keys(run.config) if key.misspelt]
    return tuple(key.key if name == "misspelt_keys" else key.nearest for key in misspelt)


def _is_complete(run: Run) -> bool | None:
    """Whether the traces reach the planned end; None when nothing tells."""
    if run.ending.kind is EndingKind.FINISHED:
        return True
    last = run.last_iteration
    if last is None or run.planned_iterations is None:
        return None if run.ending.kind is EndingKind.UNKNOWN else False
    return last >= run.planned_iterations - 1


def _series(name: str, run: Run, phase: tuple[int, int] | None) -> Any:
    many = name == "losses" or any(sign in name for sign in "*?[")
    if not many:
        found = {name: run.series[name]} if name in run.series else {}
    elif name == "losses":
        found = {key: series for key, series in run.series.items() if is_loss(key)}
    else:
        found = {key: s for key, s in run.series.items() if fnmatchcase(key, name)}
    if name == "planned_lr" and run.config is not None and run.config.matches_run is False:
        found = {}
    if not found:
        return Absence("series", name)
    if phase is not None:
        found = {key: series.between(*phase) for key, series in found.items()}
    found = {key: series for key, series in found.items() if len(series)}
    if not found:
        return Absence("series", name, emptied=True)
    return found if many else found[name]


def _wrong_sampling(statistic: Statistic, allowed: tuple[Statistic, ...]) -> str:
    wanted = " or ".join(_STATISTIC_WORDS[name] for name in allowed)
    return f"the values are {_STATISTIC_WORDS[statistic]} of several iterations; needs {wanted}"


def _unmet_need(rule: Rule, run: Run, inputs: Inputs) -> Missing | None:
    for parameter, allowed in rule.needs.sampling.items():
        for series in inputs.series.get(parameter, ()):
            if series.statistic not in allowed:
                return Missing(_wrong_need(series, allowed))
    for parameter, least in rule.needs.rows.items():
        bound = least.at(inputs.statistic) if isinstance(least, BySampling) else least
        rows = max((len(series) for series in inputs.series.get(parameter, ())), default=None)
        if rows is not None and bound is not None and rows < bound:
            return Missing(f"{rows} rows are too few; it takes {bound:g}")
    if rule.needs.endings and run.ending.kind.value not in rule.needs.endings:
        return Missing(
            f"the run's ending is {run.ending.kind.value}; needs {' or '.join(rule.needs.endings)}"
        )
    if rule.needs.config_matches and not has_config(run):
        return Missing(why_absent("config", "", run))
    scope = Scope(run)
    for holds, reason in rule.needs.that:
        try:
            if not holds.evaluate(scope):
                return Missing(reason)
        except Absent:
            continue  # not known to be false
    return None


def _wrong_need(series: Series, allowed: tuple[Statistic, ...]) -> str:
    held = {"raw": "raw values", "median": f"medians of {series.window} iterations",
            "mean": f"means of {series.window} iterations"}[series.statistic]  # fmt: skip
    wanted = " or ".join(_STATISTIC_WORDS[name] for name in allowed)
    return f"{series.name} is recorded as {held}; this needs {wanted}"


def has_non_finite(inputs: Inputs) -> bool:
    """Whether a series that the check read holds NaN or an infinity."""
    import numpy as np

    return any(
        not bool(np.isfinite(series.values).all())
        for group in inputs.series.values()
        for series in group
    )


def scope_of(rule: Rule, run: Run, inputs: Inputs, measurement: Measurement) -> Scope:
    """The names of one judgement."""
    parameters = {name: inputs.arguments.get(name) for name in rule.parameters}
    return Scope(run, measurement.value, measurement.extras, parameters)
