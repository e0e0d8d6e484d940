"""`d2check rules`: what is judged, by which numbers, and do the rules keep their own examples."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from d2check.errors import UsageError

if TYPE_CHECKING:
    from d2check.rules.model import FixTemplate, Rule

_WIDTH = 88
# As pytest: nothing tested is no success.
_NONE = 5

_folders = click.option(
    "--rules",
    "folders",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="DIR",
    help="Also the rule files of this folder.",
)
_expression = click.option(
    "-k",
    "expression",
    default="",
    metavar="EXPR",
    help="Only rules whose id matches, as in pytest: 'loss and not spikes'.",
)


_EXAMPLES = """\b
d2check rules list
d2check rules show loss/diverges
d2check rules test --rules my-rules/
d2check rules new loss/mask-slow --rules my-rules/
"""


@click.group(epilog=_EXAMPLES, short_help="List, read, test and write rules.")
def command() -> None:
    """List, read, test and write rules. One YAML file is one rule."""


@command.command("list")
@_folders
@_expression
@click.option("--checks", is_flag=True, help="The measuring functions that a rule may name.")
def list_(folders: tuple[Path, ...], expression: str, checks: bool) -> int:
    """Every rule with its severity and what is wrong when it fails."""
    rows = _check_rows() if checks else [_row(rule) for rule in _rules(folders, expression)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
    return 0 if rows else _NONE


def _row(rule: Rule) -> tuple[str, ...]:
    return rule.id, rule.severity, f"{rule.title}{' (trial)' if rule.status == 'trial' else ''}"


def _check_rows() -> list[tuple[str, ...]]:
    from d2check.checks import CHECKS

    return [
        (name, (measure.__doc__ or "").strip().partition("\n")[0])
        for name, measure in sorted(CHECKS.items())
    ]


@command.command()
@click.argument("rule_id", metavar="ID")
@_folders
def show(rule_id: str, folders: tuple[Path, ...]) -> int:
    """A rule's documentation: why, what it measures, its thresholds, its fixes."""
    click.echo(documentation(find(rule_id, folders)))
    return 0


@command.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@_folders
@_expression
@click.option("-v", "--verbose", is_flag=True, help="Every example by name.")
@click.option("-x", "--exitfirst", is_flag=True, help="Stop at the first failure.")
def test(
    ids: tuple[str, ...],
    folders: tuple[Path, ...],
    expression: str,
    verbose: bool,
    exitfirst: bool,
) -> int:
    """Run the examples of every rule, or of some: they are its unit tests."""
    from d2check.rules.examples import run_examples

    started = time.monotonic()
    rules = [find(each, folders) for each in ids] or list(_rules(folders, expression))
    passed = 0
    failures: list[str] = []
    for rule in rules:
        results = run_examples(rule)
        passed += sum(result.passed for result in results)
        failures += [
            f"{rule.id}::{result.name} ({rule.path})\n    {result.detail}"
            for result in results
            if not result.passed
        ]
        if verbose:
            for result in results:
                click.echo(f"{rule.id}::{result.name} {'PASSED' if result.passed else 'FAILED'}")
        else:
            click.echo(f"{rule.id} {''.join('.' if r.passed else 'F' for r in results)}")
        if failures and exitfirst:
            break
    return _close_tests(passed, failures, len(rules), time.monotonic() - started)


def _close_tests(passed: int, failures: Sequence[str], rules: int, seconds: float) -> int:
    if failures:
        click.echo("\n" + " FAILURES ".center(_WIDTH, "="))
        click.echo("\n".join(failures))
    counts = f"{len(failures)} failed, {passed} passed" if failures else f"{passed} passed"
    closing = f" {counts} in {rules} {'rule' if rules == 1 else 'rules'}, {seconds:.1f}s "
    click.echo(closing.center(_WIDTH, "="))
    if failures:
        return 1
    return 0 if passed else _NONE


@command.command()
@click.argument("rule_id", metavar="ID")
@click.option(
    "--rules",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("rules"),
    metavar="DIR",
    show_default=True,
    help="The folder of rule files to write it into.",
)
def new(rule_id: str, folder: Path) -> int:
    """Write a rule to start from, with working examples."""
    from d2check.rules.new import new_rule

    text = new_rule(rule_id)
    path = folder / f"{rule_id}.yaml"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise UsageError(f"{path} is there already. Choose another name.") from error
    except OSError as error:
        raise UsageError(f"{path}: not written: {error.strerror or error}") from error
    click.echo(f"wrote {path}\ntry it with: d2check rules test {rule_id} --rules {folder}")
    return 0


@command.command()
def schema() -> int:
    """The JSON Schema of a rule file, for completion in editors."""
    import json

    from d2check.rules.schema import rule_schema

    json.dump(rule_schema(), sys.stdout, indent=2)
    click.echo()
    return 0


# ------------------------------------------------------------------------------------ documentation


def find(rule_id: str, folders: Sequence[Path] = ()) -> Rule:
    """The rule of an id, or UsageError with the nearest ones."""
    from difflib import get_close_matches

    rules = {rule.id: rule for rule in _rules(folders, "")}
    if rule_id in rules:
        return rules[rule_id]
    tails = [known for known in rules if known.partition("/")[2] == rule_id]
    if len(tails) == 1:
        return rules[tails[0]]
    near = tails or get_close_matches(rule_id, rules, n=3)
    hint = f"Did you mean {', '.join(near)}?" if near else "`d2check rules list` names all."
    raise UsageError(f"there is no rule {rule_id!r}. {hint}")


def documentation(rule: Rule) -> str:
    """Everything that a rule file says to its reader, as text."""
    from d2check.rules.conditions import describe

    trial = ", trial: reported, never gates" if rule.status == "trial" else ""
    parts = [
        f"{rule.id} ({rule.severity}{trial})",
        rule.title,
        "",
        textwrap.fill(" ".join(rule.why.split()), _WIDTH),
        "",
        f"measured   {rule.check} of {', '.join(dict.fromkeys(_read_names(rule)))}",
    ]
    if rule.parameters:
        parts.append(f"with       {', '.join(f'{k} = {v}' for k, v in rule.parameters.items())}")
    for label, condition in (("fails", rule.fail), ("warns", rule.warn), ("passes", rule.passes)):
        if condition is not None:
            parts.append(f"{label:<10} when {describe(condition)}")
    if rule.explained_by:
        parts.append(f"caused by  {', '.join(cause.rule for cause in rule.explained_by)}")
    for fix in rule.fixes:
        parts.append(textwrap.fill(_fix_text(fix), _WIDTH, subsequent_indent=" " * 11))
    parts.append(f"examples   {len(rule.examples)}: {', '.join(e.name for e in rule.examples)}")
    parts += [f"more       {link}" for link in rule.links]
    parts.append(f"file       {rule.path}")
    return "\n".join(parts)


def _read_names(rule: Rule) -> list[str]:
    return [f"{source.room}.{source.name}" for read in rule.reads for source in read.sources]


def _fix_text(fix: FixTemplate) -> str:
    sets = ", ".join(f"{key} = {value.text}" for key, value in fix.overrides.items())
    repair = "; ".join(part for part in (sets, fix.action) if part)
    return f"fix        {repair} ({fix.risk}): {fix.because[0]}"


def _rules(folders: Sequence[Path], expression: str) -> tuple[Rule, ...]:
    from d2check.rules.load import load_rules, shipped_rules

    rules = load_rules([shipped_rules(), *folders])
    if not expression:
        return rules
    from d2check.rules.select import matching

    return matching(rules, expression)
