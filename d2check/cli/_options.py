"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click


@dataclass(frozen=True)
class ReportChoices:
    """What to judge by and where the verdicts go.

    verbosity: -2 only the closing line ... 2 everything.
    """

    json: Path | None = None
    junitxml: Path | None = None
    verbosity: int = 0
    stop_at_first: bool = False
    strict: bool = False
    expression: str = ""
    rules: tuple[Path, ...] = ()
    project: Path | None = None


def report_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of every command that judges; they arrive as `choices`."""

    @functools.wraps(command)
    def with_choices(
        json: Path | None,
        junitxml: Path | None,
        quiet: int,
        verbose: int,
        exitfirst: bool,
        strict: bool,
        expression: str,
        rules: tuple[Path, ...],
        project: Path | None,
        **rest: Any,
    ) -> Any:
        choices = ReportChoices(
            json, junitxml, verbose - quiet, exitfirst, strict, expression, rules, project
        )
        return command(choices=choices, **rest)

    options = (
        click.option(
            "--json",
            type=click.Path(path_type=Path, allow_dash=True),
            metavar="FILE",
            help="Write the report as JSON; - for standard output.",
        ),
        click.option(
            "--junitxml",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Write the report as JUnit XML, for CI servers.",
        ),
        click.option("-q", "--quiet", count=True, help="Only what is wrong; -qq the last line."),
        click.option("-v", "--verbose", count=True, help="Everything about every rule."),
        click.option("-x", "--exitfirst", is_flag=True, help="Stop at the first failure."),
        click.option("--strict", is_flag=True, help="Warnings and trial rules fail too."),
        click.option(
            "-k",
            "expression",
            default="",
            metavar="EXPR",
            help="Only rules whose id matches, as in pytest: 'loss and not spikes'.",
        ),
        click.option(
            "--rules",
            type=click.Path(path_type=Path),
            multiple=True,
            metavar="DIR",
            help="Also judge by the rule files of this folder.",
        ),
        click.option(
            "--project",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Thresholds and ignored rules of your project (default: the nearest d2check.yaml,"
            " or pyproject.toml with [tool.d2check], from here upwards).",
        ),
    )
    return _apply(with_choices, options)


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of every command that trains."""
    options = (
        click.option(
            "--iterations", type=int, metavar="N", help="Train so many iterations (default 300)."
        ),
        click.option(
            "--phases",
            callback=_names,
            metavar="NAMES",
            help="Of loader, as-configured, worst-batch, ramp (default all; the ramp only without"
            " --iterations and --budget).",
        ),
        click.option(
            "--confirm/--no-confirm",
            default=True,
            help="Run a ramp that fails, or holds far above the usual rate, again, slower and with"
            " another seed, before it may FAIL or PASS; and one in which nothing is learned at a"
            " lower rate (the default).",
        ),
        click.option(
            "--verify/--no-verify",
            default=False,
            help="Train again with the changes that failing rules propose, and without them once"
            " more, to see whether they repair.",
        ),
        click.option(
            "--early-end/--no-early-end",
            default=True,
            help="End as soon as a failure of the loss is certain (the default).",
        ),
        click.option("--budget", metavar="TIME", help="Train at most so long: 90s, 5m, 1h30m."),
        click.option(
            "--python",
            "interpreter",
            metavar="INTERPRETER",
            help="The Python that has torch and Detectron2 (default: this or the active one).",
        ),
        click.option("--seed", type=int, metavar="N", help="Seed of the training."),
        click.option("--device", metavar="NAME", help="cpu, cuda or cuda:N."),
    )
    return _apply(command, options)


def _names(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[str, ...] | None:
    return None if value is None else tuple(part.strip() for part in value.split(","))


def _apply(
    command: Callable[..., Any], options: tuple[Callable[[Any], Any], ...]
) -> Callable[..., Any]:
    # Each option is put on top of those before it, so the last applied is listed first.
    for option in reversed(options):
        command = option(command)
    return command
