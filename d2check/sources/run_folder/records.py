"""records.jsonl, a line at a time, into what one rank wrote; and that into series."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from d2check.errors import refused
from d2check.model import Event, Scalar, Series
from d2check.probe import wire
from d2check.sources._every import every_of
from d2check.sources._histogram import class_facts

# Groups of numbers inside an "iter" record, and how their names read as series.
_GROUPS: Mapping[str, Mapping[str, str]] = {
    "scalars": {},
    "memory": {},
    "batch": {
        "images": "batch_images",
        "instances": "batch_instances",
        "most_instances": "batch_most_instances",
        "max_height": "batch_max_height",
        "max_width": "batch_max_width",
    },
}
_NOT_SERIES = {"t", "i", "clock", "rank"}
EXPECTED = "a folder written by `d2check run`"


@dataclass
class Records:
    """What one rank wrote."""

    world_size: int = 1
    facts: dict[str, Scalar] = field(default_factory=dict)
    iterations: list[int] = field(default_factory=list)
    clocks: list[float] = field(default_factory=list)
    samples: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)
    phases: list[tuple[str, int]] = field(default_factory=list)
    trials: list[Mapping[str, Any]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)  # why a fact is not there
    end: Mapping[str, Any] | None = None
    begun: bool = False
    malformed_lines: int = 0


def read_records(path: Path) -> Records:
    """What one rank wrote; nothing where the training ended before its first record.

    A line that is cut or garbled is counted. Raises InputError for a file that cannot be read.
    """
    records = Records()
    try:
        stream = path.open("rb")
    except FileNotFoundError:  # the training ended before its first record
        return records
    except OSError as error:
        raise refused(path, error, EXPECTED) from error
    with stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                record = wire.decode(line.decode("utf-8"))
                take(records, record, f"{path.name}:{number}")
            except (ValueError, TypeError, KeyError, RecursionError):
                records.malformed_lines += 1
    return records


def take(records: Records, record: Mapping[str, Any], where: str) -> None:
    """Add one record. Raises ValueError, TypeError or KeyError when it is not what it should be."""
    kind = record["t"]
    if kind == "iter":
        _take_iteration(records, record)
    elif kind == "begin":
        records.begun = True
        records.world_size = int(record.get("world_size") or 1)
        records.facts.update(_scalars(record.get("facts")))
    elif kind == "facts":
        records.facts.update(_scalars(record.get("facts")))
    elif kind == "phase":
        records.phases.append((str(record["name"]), int(record["first_iteration"])))
    elif kind == "trial":
        records.trials.append(record)
    elif kind == "note":
        at = record.get("i")
        at = at if isinstance(at, int) else None
        records.events.append(Event(str(record["kind"]), str(record["message"]), at, where))
        if record["kind"] == "dataset":
            records.facts.update(_of_data_set(record))
            if isinstance(record.get("instances"), Mapping):
                of_two = "the objects of the training set are of fewer than two classes"
                records.absent = dict.fromkeys(("instances_fewest", "instances_most"), of_two)
    elif kind == "end":
        records.end = {**record, "read_from": where}


def _of_data_set(note: Mapping[str, Any]) -> dict[str, Scalar]:
    counts = note.get("instances")
    counted = counts if isinstance(counts, Mapping) else {}
    facts = class_facts({str(k): n for k, n in counted.items() if isinstance(n, int)})
    return {**facts, **_scalars({"object_size_px": note.get("object_size_px")})}


def _take_iteration(records: Records, record: Mapping[str, Any]) -> None:
    at = record["i"]
    if not isinstance(at, int) or isinstance(at, bool) or at < 0:
        raise ValueError("an iteration without its number")
    if records.iterations and at <= records.iterations[-1]:
        raise ValueError("iterations of one recording only rise")
    numbers: dict[str, float] = {}
    for key, value in record.items():
        if key in _NOT_SERIES or value is None:
            continue
        if isinstance(value, Mapping):
            names = _GROUPS.get(key, {})
            for name, inner in value.items():
                if inner is not None:
                    numbers[names.get(name, name)] = _number(inner)
        elif not isinstance(value, (list, bool)):
            numbers[key] = _number(value)
    clock = _number(record["clock"]) if record.get("clock") is not None else math.nan
    records.iterations.append(at)
    records.clocks.append(clock)
    for name, number in numbers.items():
        where, values = records.samples.setdefault(name, ([], []))
        where.append(at)
        values.append(number)


def _number(value: Any) -> float:
    try:
        return wire.number(value)
    except OverflowError as error:
        raise ValueError("a number beyond all bounds") from error


def _scalars(facts: Any) -> dict[str, Scalar]:
    if not isinstance(facts, Mapping):
        return {}
    plain = {k: v for k, v in facts.items() if isinstance(v, (bool, int, float, str))}
    return {str(key): value for key, value in plain.items()}


def series_of(records: Records) -> dict[str, Series]:
    """Every number of the iterations by name, with `clock`, `wall_s`, `data_time` and `time`."""
    series = {
        name: Series(name, np.array(where, np.int64), np.array(values), every_of(where))
        for name, (where, values) in records.samples.items()
    }
    at = np.array(records.iterations, np.int64)
    clock = np.array(records.clocks, np.float64)
    total, hooks = series.get("total_s"), series.get("hooks_s")
    if len(at) and np.isfinite(clock).all():
        begin = clock[0] - (total.values[0] if total is not None else 0.0)
        series["clock"] = Series("clock", at, clock)
        series["wall_s"] = Series("wall_s", at, clock - begin)
    if "data_time" not in series and "data_s" in series:
        one = series["data_s"]
        series["data_time"] = Series("data_time", one.iterations, one.values, one.every)
    if "time" not in series and total is not None and hooks is not None:
        # IterationTimer stops before the other hooks' after_step (engine/hooks.py).
        if np.array_equal(total.iterations, hooks.iterations):
            values = total.values - hooks.values
            series["time"] = Series("time", total.iterations, values, total.every)
    return series
