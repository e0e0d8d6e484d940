"""`check`, `reads`, `with` and `needs` of a rule file."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from d2check.model import EndingKind, Measurement
from d2check.rules.expressions import Expression
from d2check.rules.fields import Field, nearest
from d2check.rules.model import STATISTICS, Needs, Read, Source
from d2check.rules.names import ValidKey, check_name, parse_expression

Checks = Mapping[str, Callable[..., Measurement]]

NEEDS_KEYS = ("rows", "sampling", "ending", "config", "that", "one_of")


@lru_cache(maxsize=1024)
def parameters_of(function: Callable[..., Measurement]) -> Mapping[str, bool]:
    """Parameter names of a check, and whether each must be given."""
    return {
        name: parameter.default is inspect.Parameter.empty
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


def check_parameters(
    fields: Mapping[str, Field], values: Mapping[str, Any], checks: Checks
) -> None:
    """Report parameters that the check does not have, does not get, or gets twice."""
    if values.get("check") not in checks:
        return
    known = parameters_of(checks[values["check"]])
    reads: tuple[Read, ...] = values["reads"]
    for key in ("reads", "with"):
        for name, entry in fields[key].entries().items() if key in fields else ():
            if name not in known:
                words = f"is no parameter of {values['check']}{nearest(name, known)}"
                entry.problem(words, key=True)
            elif key == "with" and any(read.parameter == name for read in reads):
                entry.problem("is bound in 'reads' already", key=True)
    given = {read.parameter for read in reads} | set(values.get("parameters", ()))
    for name, required in known.items():
        if required and name not in given:
            words = f"{values['check']} needs {name!r}; bind it in 'reads' or 'with'"
            fields["check"].problem(words)
    if "needs" in fields and "needs" in values:
        _check_needs(fields["needs"], values["needs"], reads)


def _check_needs(field: Field, needs: Needs, reads: tuple[Read, ...]) -> None:
    for name in needs.one_of:
        if all(read.parameter != name for read in reads):
            field.problem(f"one_of names {name!r}, which is not read")
    for kind, names in (("rows", needs.rows), ("sampling", needs.sampling)):
        for name in names:
            if not any(read.parameter == name and read.reads_series for read in reads):
                field.problem(f"{kind} names {name!r}, which reads no series")


def parse_reads(field: Field, valid_key: ValidKey) -> tuple[Read, ...]:
    """`reads`: `series.lr?`, `config.A or facts.b`, or a list."""
    reads = []
    for parameter, entry in field.entries().items():
        if isinstance(entry.value, list):
            found = [_source(item, item.line(), valid_key) for item in entry.items()]
        else:
            text = entry.line()
            found = [_source(entry, name, valid_key) for name in re.split(r"\s+or\s+", text or "")]
        sources = tuple(source for source in found if source is not None)
        if sources:
            reads.append(Read(parameter, sources, together=isinstance(entry.value, list)))
    return tuple(reads)


def _source(field: Field, text: str | None, valid_key: ValidKey) -> Source | None:
    if not text or not check_name(field, text.removesuffix("?"), valid_key):
        return None
    room, _, name = text.removesuffix("?").partition(".")
    return Source(typing.cast(Any, room), name, text.endswith("?"))


def parse_parameters(field: Field) -> dict[str, Any]:
    """`with`: plain values, or values by sampling."""
    return {name: entry.by_sampling() or entry.value for name, entry in field.entries().items()}


def parse_needs(field: Field, valid_key: ValidKey) -> Needs:
    """`needs`, each part of it optional."""
    entries = field.entries(NEEDS_KEYS)
    rows: dict[str, Any] = {}
    for name, entry in entries["rows"].entries().items() if "rows" in entries else ():
        rows[name] = entry.threshold()
    sampling: dict[str, Any] = {}
    for name, entry in entries["sampling"].entries().items() if "sampling" in entries else ():
        sampling[name] = tuple(item.choice(STATISTICS) for item in entry.items())
    endings: tuple[str, ...] = ()
    if "ending" in entries:
        kinds = [kind.value for kind in EndingKind]
        endings = tuple(str(item.choice(kinds)) for item in entries["ending"].items())
    if "config" in entries:
        entries["config"].choice(["matches"])
    that: list[tuple[Expression, str]] = []
    for item in entries["that"].items() if "that" in entries else ():
        parts = item.entries(("holds", "otherwise"), required=("holds", "otherwise"))
        if len(parts) == 2:
            holds, reason = parse_expression(parts["holds"], valid_key), parts["otherwise"].line()
            that += [(holds, reason)] if holds and reason else []
    one_of = entries["one_of"].texts() if "one_of" in entries else ()
    return Needs(rows, sampling, endings, "config" in entries, tuple(that), one_of)
