"""d2check from Python: `d2check.run`, `d2check.run_command` and `d2check.audit`.

Each returns the Report that the command of the same name prints; `d2check.model` has its types.
Nothing is printed, and nothing of a project file is read unless it is named.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from d2check import given, pipeline
from d2check.errors import InputError
from d2check.fleet import RuleChoice, choose
from d2check.harness.plan import Plan, plan_command, plan_run
from d2check.model import Report

PathLike = given.PathLike
Paths = PathLike | Iterable[PathLike]
OnRecord = Callable[[dict[str, Any]], None]
OnLine = Callable[[str], None]


def _nobody(_: object) -> None:
    """For callers that do not follow the run."""


def run(
    config: PathLike,
    overrides: Mapping[str, Any] | Iterable[Any] = (),
    *,
    setup: Paths = (),
    trainer: str | None = None,
    iterations: int | None = None,
    budget_s: float | None = None,
    phases: str | Sequence[str] | None = None,
    num_gpus: int = 1,
    configured_for: int | None = None,
    output: PathLike | None = None,
    python: PathLike | None = None,
    seed: int | None = None,
    device: str | None = None,
    rules: Paths = (),
    project: PathLike | None = None,
    select: str = "",
    strict: bool = False,
    early_end: bool = True,
    verify: bool = False,
    on_record: OnRecord = _nobody,
    on_line: OnLine = _nobody,
) -> Report:
    """Train a config briefly, in a process of its own, and judge what was recorded.

    overrides: a mapping of keys to values, or KEY, VALUE, KEY, VALUE ... as on the command line,
    whose options the other parameters are. rules: a folder with further rule files, or several.
    select: as `-k`. early_end: end as soon as a failure of the loss is certain. verify: try the
    proposed changes too. on_record is given each record of rank 0 as it comes, on_line each line
    that the training prints, secrets masked.

    Raises d2check.errors.UsageError for what cannot be started; a training that fails is no
    exception but a finding.
    """
    config = given.one_path("config", config)
    plan = plan_run(
        config,
        given.overrides(overrides, lazy=config.suffix == ".py"),
        setup=[os.fspath(each) for each in given.words("setup", _several(setup))],
        trainer=given.text("trainer", trainer),
        iterations=given.number("iterations", iterations),
        budget_s=given.seconds("budget_s", budget_s),
        output=given.path_or_none("output", output),
        interpreter=None if python is None else str(given.one_path("python", python)),
        seed=given.number("seed", seed),
        device=given.text("device", device),
        num_gpus=given.number("num_gpus", num_gpus) or 0,
        configured_for=given.number("configured_for", configured_for),
        phases=given.names("phases", phases),
    )
    plan = replace(plan, early_end=early_end, verify=verify)
    return _run(plan, _choice(rules, project, select), strict, on_record, on_line)


def run_command(
    command: Sequence[str],
    *,
    iterations: int | None = None,
    budget_s: float | None = None,
    phases: str | Sequence[str] | None = None,
    output: PathLike | None = None,
    rules: Paths = (),
    project: PathLike | None = None,
    select: str = "",
    strict: bool = False,
    early_end: bool = True,
    on_record: OnRecord = _nobody,
    on_line: OnLine = _nobody,
) -> Report:
    """The same for a command of one's own: `["python", "train_net.py", "--num-gpus", "2"]`."""
    plan = plan_command(
        given.words("command", command),
        iterations=given.number("iterations", iterations),
        budget_s=given.seconds("budget_s", budget_s),
        output=given.path_or_none("output", output),
        phases=given.names("phases", phases),
    )
    plan = replace(plan, early_end=early_end)
    return _run(plan, _choice(rules, project, select), strict, on_record, on_line)


def audit(
    *paths: Paths,
    rules: Paths = (),
    project: PathLike | None = None,
    select: str = "",
    strict: bool = False,
) -> Report:
    """Judge whatever the paths hold: run folders, output folders, metrics.json, logs.

    Each argument is a path, or a collection of some. Raises d2check.errors.UsageError where there
    is none; what cannot be read is reported as such.
    """
    named = given.paths("paths", *paths)
    if not named:
        raise InputError("paths", "none", "a path or several", "Name a folder or a file to judge")
    return pipeline.audit(named, _choice(rules, project, select), pipeline.Terms(strict))


def _choice(rules: Paths, project: PathLike | None, select: str) -> RuleChoice:
    folders = tuple(given.paths("rules", rules))
    select = given.text("select", select) or ""
    return RuleChoice(folders, given.path_or_none("project", project), select)


def _several(value: Paths) -> Iterable[PathLike]:
    """One path or module as a collection of one."""
    return (value,) if isinstance(value, (str, os.PathLike)) else value


def _run(
    plan: Plan, choice: RuleChoice, strict: bool, on_record: OnRecord, on_line: OnLine
) -> Report:
    chosen = choose(choice)
    terms = pipeline.Terms(strict, notes=chosen.notes)
    return pipeline.run(plan, chosen.rules, terms, on_record=on_record, on_line=on_line)
