"""The `examples` of a rule file -> Example."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any

from d2check.model import FACTS, Ending, EndingKind, Event, Scalar
from d2check.rules.fields import Field, nearest
from d2check.rules.model import STATISTICS, Example, ExampleSeries, Expected
from d2check.rules.shorthand import Shape, ShorthandError, parse_shape, shape_of_values

KEYS = (
    "name", "series", "noise", "sampling", "config", "config_matches", "facts", "ending",
    "planned_iterations", "events", "phases", "malformed_lines", "expect", "reason", "says",
    "proposes", "advises",
)  # fmt: skip
EXPECTED: tuple[Expected, ...] = typing.get_args(Expected)
SERIES_KEYS = ("values", "start", "every", "window", "statistic")
ENDING_KEYS = ("kind", "iteration", "error", "message", "traceback")
EVENT_KEYS = ("kind", "message", "iteration")


def parse_example(field: Field) -> Example | None:
    """One example. None after its problems were reported."""
    entries = field.entries(KEYS, required=("name", "expect"))
    if "name" not in entries or "expect" not in entries:
        return None
    name, expect = entries["name"].line(), entries["expect"].choice(EXPECTED)
    if name is None or expect is None:
        return None
    given: dict[str, Any] = {
        key: reader(entries[key]) for key, reader in _READERS.items() if key in entries
    }
    line = field.document.place(field.where)[0]
    present = {key: value for key, value in given.items() if value is not None}
    return Example(name=name, expect=typing.cast(Expected, expect), line=line, **present)


def _series(field: Field) -> dict[str, ExampleSeries]:
    read = {name: _one_series(entry) for name, entry in field.entries().items()}
    return {name: series for name, series in read.items() if series is not None}


def _one_series(field: Field) -> ExampleSeries | None:
    if not isinstance(field.value, Mapping):
        shape = _shape(field)
        return ExampleSeries(shape) if shape else None
    entries = field.entries(SERIES_KEYS, required=("values",))
    shape = _shape(entries["values"]) if "values" in entries else None
    if shape is None:
        return None
    statistic = entries["statistic"].choice(STATISTICS) if "statistic" in entries else None
    return ExampleSeries(
        shape,
        start=entries["start"].integer() if "start" in entries else None,
        every=entries["every"].integer(1) if "every" in entries else None,
        window=entries["window"].integer(1) if "window" in entries else None,
        statistic=typing.cast(Any, statistic),
    )


def _shape(field: Field) -> Shape | None:
    if isinstance(field.value, list):
        values = [_value(item) for item in field.items()]
        numbers = [value for value in values if value is not None]
        if not numbers:
            field.problem("is empty")
        return shape_of_values(numbers) if numbers else None
    text = field.line()
    if text is None:
        return None
    try:
        return parse_shape(text)
    except ShorthandError as error:
        field.problem(f"holds {error}")
        return None


def _value(field: Field) -> float | None:
    if isinstance(field.value, float):
        return field.value  # .nan is a value here
    return field.number()


def _noise(field: Field) -> dict[str, float]:
    if not isinstance(field.value, Mapping):
        number = field.number()
        return {"losses": float(number)} if number is not None else {}
    numbers = {name: entry.number() for name, entry in field.entries().items()}
    return {name: float(number) for name, number in numbers.items() if number is not None}


def _facts(field: Field) -> dict[str, Scalar]:
    facts: dict[str, Scalar] = {}
    for name, entry in field.entries().items():
        if name not in FACTS:
            entry.problem(f"is no fact of a run{nearest(name, FACTS)}", key=True)
        elif isinstance(entry.value, (list, Mapping)):
            entry.expected("one value")
        else:
            facts[name] = entry.value
    return facts


def _mapping(field: Field) -> dict[str, Any]:
    return {name: entry.value for name, entry in field.entries().items()}


def _ending(field: Field) -> Ending | None:
    entries = field.entries(ENDING_KEYS, required=("kind",))
    kind = entries["kind"].choice([k.value for k in EndingKind]) if "kind" in entries else None
    if kind is None:
        return None
    return Ending(
        EndingKind(kind),
        iteration=entries["iteration"].integer() if "iteration" in entries else None,
        error=entries["error"].text() if "error" in entries else None,
        message=entries["message"].text() if "message" in entries else None,
        traceback=entries["traceback"].texts() if "traceback" in entries else (),
    )


def _events(field: Field) -> tuple[Event, ...]:
    events = []
    for item in field.items():
        entries = item.entries(EVENT_KEYS, required=("kind", "message"))
        kind = entries["kind"].line() if "kind" in entries else None
        message = entries["message"].text() if "message" in entries else None
        if kind is None or message is None:
            continue
        iteration = entries["iteration"].integer() if "iteration" in entries else None
        events.append(Event(kind, message, iteration))
    return tuple(events)


def _phases(field: Field) -> dict[str, tuple[int, int]]:
    phases = {}
    for name, entry in field.entries().items():
        ends = [item.integer() for item in entry.items()]
        if len(ends) != 2 or ends[0] is None or ends[1] is None:
            entry.expected("first and last iteration, as [0, 199]")
        else:
            phases[name] = (ends[0], ends[1])
    return phases


_READERS: Mapping[str, Any] = {
    "series": _series,
    "noise": _noise,
    "sampling": lambda field: field.choice(STATISTICS),
    "config": _mapping,
    "config_matches": Field.boolean,
    "facts": _facts,
    "ending": _ending,
    "planned_iterations": lambda field: field.integer(1),
    "events": _events,
    "phases": _phases,
    "malformed_lines": Field.integer,
    "reason": Field.line,
    "says": Field.line,
    "proposes": _mapping,
    "advises": Field.line,
}
