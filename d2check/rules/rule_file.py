"""One rule file -> Rule, or all that is wrong with it."""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Mapping
from typing import Any

from d2check.model import Risk, Severity, Status
from d2check.rules.bindings import (
    Checks,
    check_parameters,
    parse_needs,
    parse_parameters,
    parse_reads,
)
from d2check.rules.conditions import parse_condition
from d2check.rules.example_file import parse_example
from d2check.rules.expressions import Expression
from d2check.rules.fields import Field, nearest
from d2check.rules.model import Condition, Example, Explanation, FixTemplate, Rule
from d2check.rules.names import ValidKey, parse_expression, parse_template, parse_templates
from d2check.rules.yaml_text import Document

KEYS = (
    "id", "title", "status", "severity", "why", "check", "reads", "with", "phase", "needs",
    "explained_by", "fail", "warn", "pass", "undecided", "message", "passed", "fixes", "links",
    "examples",
)  # fmt: skip
REQUIRED = ("id", "title", "status", "severity", "why", "check", "message", "examples")
FIX_KEYS = ("set", "action", "when", "risk", "because")
STATUSES: tuple[Status, ...] = typing.get_args(Status)
SEVERITIES: tuple[Severity, ...] = typing.get_args(Severity)
RISKS: tuple[Risk, ...] = typing.get_args(Risk)
_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*/[a-z0-9]+(-[a-z0-9]+)*$")


def build_rule(
    document: Document, checks: Checks, valid_key: ValidKey, *, with_examples: bool = True
) -> Rule | None:
    """The rule of a parsed file; its problems go into the document.

    None when the file has any: half a rule must never judge. with_examples: False for a file that
    was read without them; it then needs none.
    """
    root = Field(document, (), document.data)
    if document.data is None:
        if not document.problems:
            root.problem("is empty")
        return None
    required = [key for key in REQUIRED if with_examples or key != "examples"]
    fields = root.entries(KEYS, required=required)
    if not fields:
        return None
    values = _values(fields, checks, valid_key)
    check_parameters(fields, values, checks)
    if "id" in fields and values.get("id") and not _ID.match(values["id"]):
        fields["id"].expected("family/name in small letters, digits and hyphens")
    if "fail" not in fields and "warn" not in fields:
        root.problem("has neither 'fail' nor 'warn': it could never say anything")
    if "pass" in fields and "undecided" not in fields:
        fields["pass"].problem("needs 'undecided', the words for what meets no condition", key=True)
    _check_examples(fields, values)
    if document.problems or any(values.get(key) is None for key in required):
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
        "reads": ("reads", lambda field: parse_reads(field, valid_key)),
        "with": ("parameters", parse_parameters),
        "phase": ("phase", Field.line),
        "needs": ("needs", lambda field: parse_needs(field, valid_key)),
        "explained_by": ("explained_by", lambda field: _explanations(field, valid_key)),
        "fail": ("fail", parse_condition),
        "warn": ("warn", parse_condition),
        "pass": ("passes", parse_condition),
        "undecided": ("undecided", lambda field: parse_template(field, valid_key)),
        "message": ("message", lambda field: parse_templates(field, valid_key)),
        "passed": ("passed", lambda field: parse_templates(field, valid_key)),
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
            when = parse_expression(entries["when"], valid_key, of_symptom=True)
        if rule is not None:
            explanations.append(Explanation(rule, when))
    return tuple(explanations)


# --------------------------------------------------------------------------- words


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
        expression = parse_expression(entry, valid_key)
        if expression is not None:
            overrides[key] = expression
    because = parse_templates(entries["because"], valid_key) if "because" in entries else ()
    risk = entries["risk"].choice(RISKS) if "risk" in entries else "try"
    return FixTemplate(
        because,
        risk=typing.cast(Risk, risk or "try"),
        overrides=overrides,
        action=parse_template(entries["action"], valid_key) if "action" in entries else None,
        when=parse_expression(entries["when"], valid_key) if "when" in entries else None,
    )


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
