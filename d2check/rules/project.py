"""The project file: thresholds of this project, and rules that it ignores, with a reason.

    rules:
      schedule/lr-unscaled:
        ignore: the rate was tuned by hand
      loss/plateau:
        warn: {of: early, above: 0.3}
        because: our data are noisier

The same under `[tool.d2check.rules."loss/plateau"]` in pyproject.toml. Whatever it changes is
shown in every report: a threshold that was moved out of sight would make a verdict worthless.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from d2check.errors import Problem
from d2check.rules.bindings import parameters_of
from d2check.rules.conditions import describe, parse_condition
from d2check.rules.fields import Field, nearest
from d2check.rules.model import Condition, Rule
from d2check.rules.yaml_text import Document, Path

TOML_TABLE = "[tool.d2check"
KEYS = ("rules",)
CHANGE_KEYS = ("ignore", "fail", "warn", "with", "because")


@dataclass(frozen=True)
class Change:
    """What a project changes in one rule. ignore: the reason for not counting it."""

    rule: str
    ignore: str | None = None
    fail: Condition | None = None
    warn: Condition | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    because: str | None = None


@dataclass(frozen=True)
class Project:
    """All changes of one project file."""

    path: str
    changes: tuple[Change, ...] = ()

    def apply(self, rules: Sequence[Rule]) -> tuple[Rule, ...]:
        """The rules with this project's thresholds; ignored ones carry the reason."""
        changes = {change.rule: change for change in self.changes}
        return tuple(_changed(rule, changes.get(rule.id)) for rule in rules)

    def notes(self) -> tuple[str, ...]:
        """One line for each change, for the report."""
        return tuple(f"{self.path}: {_note(change)}" for change in self.changes)


def build_project(document: Document, rules: Sequence[Rule]) -> Project:
    """Read a parsed project file; problems go into the document."""
    root = Field(document, (), document.data or {})
    by_id = {rule.id: rule for rule in rules}
    entries = root.entries(KEYS)
    changes = []
    for rule_id, entry in entries["rules"].entries().items() if "rules" in entries else ():
        if rule_id not in by_id:
            entry.problem(f"is no rule{nearest(rule_id, by_id)}", key=True)
        else:
            changes.append(_change(entry, by_id[rule_id]))
    return Project(document.path, tuple(changes))


def _change(field: Field, rule: Rule) -> Change:
    entries = field.entries(CHANGE_KEYS)
    if "ignore" in entries and entries["ignore"].value in (True, False):
        entries["ignore"].problem("needs the reason, in words, instead of true or false")
        return Change(rule.id)
    if "ignore" in entries and len(entries) > 1:
        field.problem("ignores the rule and changes it as well; choose one")
    if not set(entries) - {"because"}:
        field.problem(f"changes nothing; there are {', '.join(CHANGE_KEYS)}")
    parameters = {}
    known = set(parameters_of(rule.measure)) - {read.parameter for read in rule.reads}
    for name, entry in entries["with"].entries().items() if "with" in entries else ():
        if name not in known:
            entry.problem(f"is no parameter of {rule.check}{nearest(name, known)}", key=True)
        parameters[name] = entry.by_sampling() or entry.value
    return Change(
        rule.id,
        ignore=entries["ignore"].line() if "ignore" in entries else None,
        fail=parse_condition(entries["fail"]) if "fail" in entries else None,
        warn=parse_condition(entries["warn"]) if "warn" in entries else None,
        parameters=parameters,
        because=entries["because"].line() if "because" in entries else None,
    )


def _changed(rule: Rule, change: Change | None) -> Rule:
    if change is None:
        return rule
    return replace(
        rule,
        fail=change.fail or rule.fail,
        warn=change.warn or rule.warn,
        parameters={**rule.parameters, **change.parameters},
        ignored=change.ignore,
    )


def _note(change: Change) -> str:
    if change.ignore is not None:
        return f"{change.rule} is ignored: {change.ignore}"
    words = [
        f"{verb} when {describe(condition)}"
        for verb, condition in (("fails", change.fail), ("warns", change.warn))
        if condition is not None
    ]
    words += [f"has {name} = {value}" for name, value in change.parameters.items()]
    reason = f" ({change.because})" if change.because else ""
    return f"{change.rule} {', '.join(words)}{reason}"


# --------------------------------------------------------------------------- pyproject.toml


@dataclass
class _TomlDocument(Document):
    """A table of a TOML file; TOML readers give no places, so keys are looked up in the text."""

    text: str = ""

    def place(self, where: Path, *, key: bool = False) -> tuple[int, int]:
        """Line and column of the last key of a path that the text shows, after the table."""
        lines = self.text.splitlines()
        line = next((i for i, text in enumerate(lines) if text.strip().startswith(TOML_TABLE)), 0)
        column = 1
        for step in where:
            for number in range(line, len(lines)):
                match = re.search(rf"(?<![\w-]){re.escape(str(step))}(?![\w-])", lines[number])
                if match:
                    line, column = number, match.start() + 1
                    break
        return line + 1, column


def read_toml(text: str, path: str) -> Document:
    """The table [tool.d2check] of a TOML text."""
    document = _TomlDocument(path, text=text)
    try:
        document.data = _load_toml(text).get("tool", {}).get("d2check", {})
    except ValueError as error:  # tomllib's and tomli's errors are ValueErrors
        match = re.search(r"line (\d+), column (\d+)", str(error))
        line, column = (int(match[1]), int(match[2])) if match else (1, 1)
        document.problems.append(Problem(path, line, column, f"is not TOML: {error}"))
    return document


def _load_toml(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib

        return tomllib.loads(text)
    try:
        tomli = importlib.import_module("tomli")
    except ImportError:
        raise ValueError(
            "Python 3.10 cannot read it without the package tomli; use d2check.yaml"
        ) from None
    loaded: dict[str, Any] = tomli.loads(text)
    return loaded
