"""Conditions on a measurement, in three values: met, not met, not known."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from d2check.model import Statistic
from d2check.rules.fields import Field
from d2check.rules.model import AllOf, AnyOf, BySampling, Comparison, Condition

_OPERATORS = ("above", "below", "equals")


class UnknownName(LookupError):
    """A condition names something that the check does not measure."""


@dataclass(frozen=True)
class Unknown:
    """Why a condition could not be decided, to complete `could not be judged: ...`."""

    reason: str


def parse_condition(field: Field) -> Condition | None:
    """Read `{above: 3}`, `{of: amplitude, below: 1}`, `{all_of: [...]}`, `{any_of: [...]}`."""
    entries = field.entries((*_OPERATORS, "of", "all_of", "any_of"))
    if not entries:
        if field.value == {}:
            field.problem("is empty; expected above, below, equals, all_of or any_of")
        return None
    joined = [key for key in ("all_of", "any_of") if key in entries]
    if joined:
        if len(entries) > 1:
            field.problem(f"joins {joined[0]} with other keys; put them into its list")
        parts = [parse_condition(item) for item in entries[joined[0]].items()]
        if not parts:
            entries[joined[0]].problem("is empty")
        known = tuple(part for part in parts if part is not None)
        return AllOf(known) if joined[0] == "all_of" else AnyOf(known)
    return _comparison(field, entries)


def _comparison(field: Field, entries: Mapping[str, Field]) -> Comparison | None:
    given = [key for key in _OPERATORS if key in entries]
    if len(given) != 1:
        field.problem("needs one of above, below, equals; join several with all_of or any_of")
        return None
    of = entries["of"].line() if "of" in entries else "value"
    if of is None:
        return None
    if not of.isidentifier():
        entries["of"].expected("the name of something measured")
        return None
    bound = entries[given[0]]
    if given[0] == "equals":
        if not isinstance(bound.value, (str, bool, int, float)):
            bound.expected("a word, a number, true or false")
            return None
        return Comparison(of, "equals", bound.value)
    value = bound.threshold()
    if value is None:
        return None
    return Comparison(of, "above" if given[0] == "above" else "below", value)


def names_of(condition: Condition) -> Iterator[str]:
    """The measured names that a condition looks at."""
    if isinstance(condition, Comparison):
        yield condition.of
    else:
        for part in condition.parts:
            yield from names_of(part)


def describe(condition: Condition) -> str:
    """A condition in words: `early above 0.2 and z above 3`."""
    if isinstance(condition, Comparison):
        bound = condition.bound
        if isinstance(bound, BySampling):
            bound = " or ".join(f"{value} ({name})" for name, value in bound.values.items())
        return f"{condition.of} {condition.operator} {bound}"
    joint = " and " if isinstance(condition, AllOf) else " or "
    parts = [describe(part) for part in condition.parts]
    return parts[0] if len(parts) == 1 else "(" + joint.join(parts) + ")"


def evaluate(
    condition: Condition, measured: Mapping[str, Any], statistic: Statistic
) -> bool | Unknown:
    """Whether a condition is met; Unknown where a name has no value or no threshold applies.

    measured: `value` and the extras. Raises UnknownName for a name that was not measured at all.
    """
    if isinstance(condition, Comparison):
        return _compare(condition, measured, statistic)
    unknown: Unknown | None = None
    decisive = isinstance(condition, AnyOf)
    for part in condition.parts:
        outcome = evaluate(part, measured, statistic)
        if isinstance(outcome, Unknown):
            unknown = unknown or outcome
        elif outcome is decisive:
            return decisive
    return unknown or not decisive


def _compare(
    comparison: Comparison, measured: Mapping[str, Any], statistic: Statistic
) -> bool | Unknown:
    if comparison.of not in measured:
        raise UnknownName(comparison.of)
    value = measured[comparison.of]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Unknown(f"{comparison.of.replace('_', ' ')} could not be measured")
    if comparison.operator == "equals":
        return bool(value == comparison.bound)
    bound = comparison.bound
    if isinstance(bound, BySampling):
        bound = bound.at(statistic)
        if bound is None:
            return Unknown(f"{statistic} values cannot decide this")
    return bool(value > bound) if comparison.operator == "above" else bool(value < bound)
