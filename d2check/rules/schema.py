"""The JSON Schema of a rule file, for completion and red lines in editors.

The loader knows more (whether a check or a key exists, whether examples suffice): a file that the
schema accepts may still be refused, one that it refuses is never accepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from d2check.model import FACTS, EndingKind
from d2check.rules import example_file, rule_file
from d2check.rules.model import STATISTICS

# yaml-language-server supports draft 7 and below.
_DRAFT = "http://json-schema.org/draft-07/schema#"

_TEXT = {"type": "string", "minLength": 1}
_NUMBER = {"type": "number"}
_COUNT = {"type": "integer", "minimum": 0}
_EXPRESSION = {"type": ["string", "number", "boolean"]}
_TEMPLATES = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}]}


def rule_schema() -> dict[str, Any]:
    """The schema as plain data."""
    return {
        "$schema": _DRAFT,
        "title": "A d2check rule",
        "type": "object",
        "additionalProperties": False,
        "required": list(rule_file.REQUIRED),
        "anyOf": [{"required": ["fail"]}, {"required": ["warn"]}],
        "properties": {key: {"description": _WORDS[key], **_RULE[key]} for key in rule_file.KEYS},
        "definitions": {
            "number": {"anyOf": [_NUMBER, _object(dict.fromkeys(STATISTICS, _NUMBER))]},
            "condition": _condition(),
            "series": _series(),
            "fix": _fix(),
            "example": _example(),
        },
    }


def _object(properties: Mapping[str, Any], required: tuple[str, ...] = ()) -> dict[str, Any]:
    made = {"type": "object", "additionalProperties": False, "properties": dict(properties)}
    return {**made, "required": list(required)} if required else made


def _map_of(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": values}


def _list_of(items: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/definitions/{name}"}


def _condition() -> dict[str, Any]:
    parts = {"type": "array", "minItems": 1, "items": _ref("condition")}
    comparisons = [
        _object({"of": _TEXT, operator: bound}, (operator,))
        for operator, bound in (
            ("above", _ref("number")),
            ("below", _ref("number")),
            ("equals", {"type": ["string", "number", "boolean"]}),
        )
    ]
    joined = [_object({key: parts}, (key,)) for key in ("all_of", "any_of")]
    return {"anyOf": [*comparisons, *joined]}


def _series() -> dict[str, Any]:
    shape = {"anyOf": [_TEXT, {"type": "array", "items": _NUMBER, "minItems": 1}]}
    settings = {
        "values": shape,
        "start": _COUNT,
        "every": {"type": "integer", "minimum": 1},
        "window": {"type": "integer", "minimum": 1},
        "statistic": {"enum": list(STATISTICS)},
    }
    return {"anyOf": [*shape["anyOf"], _object(settings, ("values",))]}


def _fix() -> dict[str, Any]:
    properties = {
        "set": {**_map_of(_EXPRESSION), "minProperties": 1},
        "action": _TEXT,
        "when": _EXPRESSION,
        "risk": {"enum": list(rule_file.RISKS)},
        "because": _TEMPLATES,
    }
    either = [{"required": ["set"]}, {"required": ["action"]}]
    return {**_object(properties, ("because",)), "oneOf": either}


def _example() -> dict[str, Any]:
    kinds = {"enum": [kind.value for kind in EndingKind]}
    traceback = {"traceback": _list_of(_TEXT), "kind": kinds, "iteration": _COUNT}
    words = dict.fromkeys(("error", "message"), _TEXT)
    event = {"kind": _TEXT, "message": _TEXT, "iteration": _COUNT}
    span = {"type": "array", "items": _COUNT, "minItems": 2, "maxItems": 2}
    properties: dict[str, Any] = {
        "name": _TEXT,
        "series": _map_of(_ref("series")),
        "noise": {"anyOf": [_NUMBER, _map_of(_NUMBER)]},
        "sampling": {"enum": list(STATISTICS)},
        "config": {"type": "object"},
        "config_matches": {"type": "boolean"},
        "facts": _object({name: {"description": words_} for name, words_ in FACTS.items()}),
        "ending": _object({**traceback, **words}, ("kind",)),
        "planned_iterations": {"type": "integer", "minimum": 1},
        "events": _list_of(_object(event, ("kind", "message"))),
        "phases": _map_of(span),
        "malformed_lines": _COUNT,
        "expect": {"enum": list(example_file.EXPECTED)},
        "reason": _TEXT,
        "says": _TEXT,
        "proposes": {"type": "object"},
        "advises": _TEXT,
    }
    return _object(properties, ("name", "expect"))


_RULE: Mapping[str, Mapping[str, Any]] = {
    "id": {"type": "string", "pattern": r"^[a-z0-9]+(-[a-z0-9]+)*/[a-z0-9]+(-[a-z0-9]+)*$"},
    "title": _TEXT,
    "status": {"enum": list(rule_file.STATUSES)},
    "severity": {"enum": list(rule_file.SEVERITIES)},
    "why": _TEXT,
    "check": _TEXT,
    "reads": _map_of(_TEMPLATES),
    "with": {"type": "object"},
    "phase": _TEXT,
    "needs": _object(
        {
            "rows": _map_of(_ref("number")),
            "sampling": _map_of(_list_of({"enum": list(STATISTICS)})),
            "ending": _list_of({"enum": [kind.value for kind in EndingKind]}),
            "config": {"enum": ["matches"]},
            "one_of": _list_of(_TEXT),
            "that": _list_of(
                _object({"holds": _EXPRESSION, "otherwise": _TEXT}, ("holds", "otherwise"))
            ),
        }
    ),
    "explained_by": _list_of(
        {"anyOf": [_TEXT, _object({"rule": _TEXT, "when": _EXPRESSION}, ("rule",))]}
    ),
    "fail": _ref("condition"),
    "warn": _ref("condition"),
    "pass": _ref("condition"),
    "undecided": _TEXT,
    "message": _TEMPLATES,
    "passed": _TEMPLATES,
    "fixes": _list_of(_ref("fix")),
    "links": _list_of({"type": "string", "pattern": "^https?://"}),
    "examples": {"type": "array", "items": _ref("example"), "minItems": 2},
}

_WORDS: Mapping[str, str] = {
    "id": "family/name, equal to the path; names the symptom, never the cure",
    "title": "one line: what is wrong when it fails",
    "status": "stable, or trial: reported, never gates",
    "severity": "the consequence",
    "why": "two or three sentences for the user",
    "check": "the measuring function",
    "reads": "parameter of the check -> series.X, facts.x, config.X or run.x; ? makes it optional",
    "with": "further parameters; a value may depend on the sampling: {raw: 2.2, median: 1.6}",
    "phase": "the phase of a short run that it looks at; any for all iterations",
    "needs": "what must hold, else the rule is skipped with the reason",
    "explained_by": "rules that, when they fail or warn, are the cause of this symptom",
    "fail": "condition on the measurement",
    "warn": "condition on the measurement",
    "pass": "where given, what meets no condition is skipped as undecided",
    "undecided": "message for that case",
    "message": "one line with {value} and other names, or a list: the first whose names are known",
    "passed": "the same for a pass",
    "fixes": "repairs, computed from the run's own numbers",
    "links": "addresses",
    "examples": "the rule's unit tests",
}
