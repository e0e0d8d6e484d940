"""One rule file -> Rule, or all that is wrong with it."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import Any

from d2check.model import FACTS, EndingKind, Measurement, Risk, Severity, Status
from d2check.rules import wording
from d2check.rules.conditions import parse_condition
from d2check.rules.example_file import parse_example
from d2check.rules.expressions import Expression
from d2check.rules.fields import Field, nearest
from d2check.rules.model import (
    STATISTICS,
    Condition,
    Example,
    Explanation,
    FixTemplate,
    Needs,
    Read,
    Rule,
    Source,
)
from d2check.rules.yaml_text import Document

Checks = Mapping[str, Callable[..., Measurement]]
ValidKey = Callable[[str], bool]

KEYS = (
    "id", "title", "status", "severity", "why", "check", "reads", "with", "phase", "needs",
    "explained_by", "fail", "warn", "pass", "undecided", "message", "passed", "fixes", "links",
    "examples",
)  # fmt: skip
REQUIRED = ("id", "title", "status", "severity", "why", "check", "message", "examples")
FIX_KEYS = ("set", "action", "when", "risk", "because")
NEEDS_KEYS = ("rows", "sampling", "ending", "config", "that")
STATUSES: tuple[Status, ...] = typing.get_args(Status)
SEVERITIES: tuple[Severity, ...] = typing.get_args(Severity)
RISKS: tuple[Risk, ...] = typing.get_args(Risk)
RUN_NAMES = (
    "ending", "events", "planned_iterations", "first_iteration", "last_iteration", "config",
    "malformed_lines", "rows", "complete", "misspelt_keys", "meant_keys",
)  # fmt: skip
RUN_NUMBERS = ("planned_iterations", "first_iteration", "last_iteration", "malformed_lines", "rows")
ROOMS = ("series", "facts", "config", "run")

_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*/[a-z0-9]+(-[a-z0-9]+)*$")


def build_rule(document: Document, checks: Checks, valid_key: ValidKey) -> Rule | None:
    """The rule of a parsed file; its problems go into the document.

    None when the file has any: half a rule must never judge.
    """
    root = Field(document, (), document.data)
    if document.data is None:
        if not document.problems:
            root.problem("is empty")
        return None
    fields = root.entries(KEYS, required=REQUIRED)
    if not fields:
        return None
    values = _values(fields, checks, valid_key)
    _check_parameters(root, fields, values, checks)
    if "id" in fields and values.get("id") and not _ID.match(values["id"]):
        fields["id"].expected("family/name in small letters, digits and hyphens")
    if "fail" not in fields and "warn" not in fields:
        root.problem("has neither 'fail' nor 'warn': it could never say anything")
    if "pass" in fields and "undecided" not in fields:
        fields["pass"].problem("needs 'undecided', the words for what meets no condition", key=True)
    _check_examples(fields, values)
    if document.problems or any(values.get(key) is None for key in REQUIRED):
        return None
    return Rule(measure=checks[values["check"]], path=document.path, **values)


def _values(fields: Mapping[str, Field], checks: Checks, valid_key: ValidKey) -> dict[str, Any]:
    readers: dict[str, tuple[str, Callable[[Field], Any]]] = {
        "id": ("id", Field.line),
        "title": ("title", Field.line),
        "status": ("status", lambda field: field.choice(STATUSES)),
        "severity": ("severity", lambda field: field.choice(SEVERITIES)),
        "why": ("why", Field.text),
        "check": ("check", lambda field: _check_name(field, checks)),
        "reads": ("reads", lambda field: _reads(field, valid_key)),
        "with": ("parameters", _parameters),
        "phase": ("phase", Field.line),
        "needs": ("needs", lambda field: _needs(field, valid_key)),
        "explained_by": ("explained_by", lambda field: _explanations(field, valid_key)),
        "fail": ("fail", parse_condition),
        "warn": ("warn", parse_condition),
        "pass": ("passes", parse_condition),
        "undecided": ("undecided", lambda field: _one_template(field, valid_key)),
        "message": ("message", lambda field: _templates(field, valid_key)),
        "passed": ("passed", lambda field: _templates(field, valid_key)),
        "fixes": ("fixes", lambda field: _fixes(field, valid_key)),
        "links": ("links", _links),
        "examples": ("examples", _examples),
    }
    values: dict[str, Any] = {"reads": ()}
    for key, (name, reader) in readers.items():
        if key in fields:
            value = reader(fields[key])
            if value is not None:
                values[name] = value
    return values


# --------------------------------------------------------------------------- the check


def _check_name(field: Field, checks: Checks) -> str | None:
    name = field.line()
    if name is not None and name not in checks:
        field.problem(f"is {name!r}; no check has that name" + nearest(name, checks))
        return None
    return name


@lru_cache(maxsize=1024)
def parameters_of(function: Callable[..., Measurement]) -> Mapping[str, bool]:
    """Parameter names of a check, and whether each must be given."""
    return {
        name: parameter.default is inspect.Parameter.empty
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


def _check_parameters(
    root: Field, fields: Mapping[str, Field], values: Mapping[str, Any], checks: Checks
) -> None:
    if values.get("check") not in checks:
        return
    known = parameters_of(checks[values["check"]])
    given = {read.parameter for read in values["reads"]}
    for key in ("reads", "with"):
        for name, entry in fields[key].entries().items() if key in fields else ():
            if name not in known:
                entry.problem(
                    f"is no parameter of {values['check']}{nearest(name, known)}", key=True
                )
            elif key == "with" and name in given:
                entry.problem("is bound in 'reads' already", key=True)
    given |= set(values.get("parameters", ()))
    for name, required in known.items():
        if required and name not in given:
            fields["check"].problem(
                f"{values['check']} needs {name!r}; bind it in 'reads' or 'with'"
            )
    for kind in ("rows", "sampling"):
        for name in getattr(values.get("needs"), kind, ()):
            if name not in {read.parameter for read in values["reads"] if read.reads_series}:
                fields["needs"].problem(f"{kind} names {name!r}, which reads no series")


def _reads(field: Field, valid_key: ValidKey) -> tuple[Read, ...]:
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
    if not text or not _known_name(field, text.removesuffix("?"), valid_key):
        return None
    room, _, name = text.removesuffix("?").partition(".")
    return Source(typing.cast(Any, room), name, text.endswith("?"))


def _known_name(
    field: Field, name: str, valid_key: ValidKey, of_run: Collection[str] = RUN_NAMES
) -> bool:
    room, _, rest = name.partition(".")
    if room not in ROOMS or not rest:
        field.problem(f"is {name!r}; names begin with {', '.join(f'{r}.' for r in ROOMS)}")
    elif room == "facts" and rest not in FACTS:
        field.problem(f"names the fact {rest!r}, which no run has" + nearest(rest, FACTS))
    elif room == "run" and rest not in of_run:
        field.problem(f"names {name!r}, which no run has" + nearest(rest, of_run))
    elif room == "config" and not valid_key(rest):
        field.problem(f"names {rest!r}, which is no key of Detectron2")
    else:
        return True
    return False


def _known_names(
    field: Field, names: Collection[str], valid_key: ValidKey, *, of_symptom: bool = False
) -> None:
    for name in names:
        if of_symptom and name.startswith("symptom."):
            continue
        if "." in name:
            _known_name(field, name, valid_key, RUN_NUMBERS)


def _parameters(field: Field) -> dict[str, Any]:
    return {name: entry.by_sampling() or entry.value for name, entry in field.entries().items()}


def _needs(field: Field, valid_key: ValidKey) -> Needs:
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
            holds, reason = _expression(parts["holds"], valid_key), parts["otherwise"].line()
            that += [(holds, reason)] if holds and reason else []
    return Needs(rows, sampling, endings, "config" in entries, tuple(that))


def _explanations(field: Field, valid_key: ValidKey) -> tuple[Explanation, ...]:
    explanations = []
    for item in field.items():
        if isinstance(item.value, str):
            explanations.append(Explanation(item.value))
            continue
        entries = item.entries(("rule", "when"), required=("rule",))
        rule = entries["rule"].line() if "rule" in entries else None
        when = None
        if "when" in entries:
            when = _expression(entries["when"], valid_key, of_symptom=True)
        if rule is not None:
            explanations.append(Explanation(rule, when))
    return tuple(explanations)


# --------------------------------------------------------------------------- words


def _templates(field: Field, valid_key: ValidKey) -> tuple[str, ...]:
    texts = field.texts()
    for text in texts:
        try:
            _known_names(field, wording.names_in(text), valid_key)
        except ValueError as error:
            field.problem(str(error))
        if "\n" in text:
            field.problem("has several lines; expected one")
    return texts


def _one_template(field: Field, valid_key: ValidKey) -> str | None:
    return next(iter(_templates(field, valid_key)), None)


def _links(field: Field) -> tuple[str, ...]:
    links = field.texts()
    for link in links:
        if not re.match(r"https?://\S+$", link):
            field.problem(f"holds {link!r}; expected an address that begins with https://")
    return links


# --------------------------------------------------------------------------- fixes


def _fixes(field: Field, valid_key: ValidKey) -> tuple[FixTemplate, ...]:
    fixes = [_fix(item, valid_key) for item in field.items()]
    return tuple(fix for fix in fixes if fix is not None)


def _fix(field: Field, valid_key: ValidKey) -> FixTemplate | None:
    entries = field.entries(FIX_KEYS, required=("because",))
    if ("set" in entries) == ("action" in entries):
        field.problem("needs either 'set' or 'action'")
        return None
    overrides: dict[str, Expression] = {}
    for key, entry in entries["set"].entries().items() if "set" in entries else ():
        if not valid_key(key):
            entry.problem("is no key of Detectron2", key=True)
        expression = _expression(entry, valid_key)
        if expression is not None:
            overrides[key] = expression
    because = _templates(entries["because"], valid_key) if "because" in entries else ()
    risk = entries["risk"].choice(RISKS) if "risk" in entries else "try"
    return FixTemplate(
        because,
        risk=typing.cast(Risk, risk or "try"),
        overrides=overrides,
        action=_one_template(entries["action"], valid_key) if "action" in entries else None,
        when=_expression(entries["when"], valid_key) if "when" in entries else None,
    )


def _expression(
    field: Field, valid_key: ValidKey, *, of_symptom: bool = False
) -> Expression | None:
    expression = field.expression()
    if expression is not None:
        _known_names(field, expression.names, valid_key, of_symptom=of_symptom)
    return expression


# --------------------------------------------------------------------------- examples


def _examples(field: Field) -> tuple[Example, ...]:
    examples = [parse_example(item) for item in field.items()]
    return tuple(example for example in examples if example is not None)


def _check_examples(fields: Mapping[str, Field], values: Mapping[str, Any]) -> None:
    examples: tuple[Example, ...] = values.get("examples") or ()
    if "examples" not in fields or len(examples) < len(fields["examples"].value or ()):
        return
    names = [example.name for example in examples]
    for name in {name for name in names if names.count(name) > 1}:
        fields["examples"].problem(f"has two examples named {name!r}")
    expected = {example.expect for example in examples}
    for verdict in ("pass", *[key for key in ("warn", "fail") if key in fields]):
        if verdict not in expected:
            fields["examples"].problem(f"has none with 'expect: {verdict}'")
    for index, fix in enumerate(values.get("fixes", ())):
        if not any(exercises(example, fix) for example in examples):
            what = f"proposes {', '.join(fix.overrides)}" if fix.overrides else "advises its action"
            fields["examples"].problem(f"has none that {what} (fix {index + 1})")


def exercises(example: Example, fix: FixTemplate) -> bool:
    """Whether an example says that it wants this fix, or one with the same keys."""
    if fix.action is not None:
        return example.advises is not None
    return bool(fix.overrides) and set(fix.overrides) <= set(example.proposes)


def thresholds_of(rule: Rule) -> Mapping[str, Condition]:
    """The conditions of a rule by their key."""
    named = {"fail": rule.fail, "warn": rule.warn, "pass": rule.passes}
    return {key: condition for key, condition in named.items() if condition is not None}
