"""d2check from Python: `d2check.run`, `d2check.run_command` and `d2check.audit`.

Each returns the Report that the command of the same name prints; `d2check.model` has its types.
Nothing is printed, and nothing of a project file is read unless it is named.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from d2check import pipeline
from d2check.fleet import RuleChoice, choose
from d2check.harness.plan import Plan, plan_command, plan_run
from d2check.model import Report

PathLike = str | os.PathLike[str]
OnRecord = Callable[[dict[str, Any]], None]
OnLine = Callable[[str], None]


def _nobody(_: object) -> None:
    """For callers that do not follow the run."""


def run(
    config: PathLike,
    overrides: Sequence[str] = (),
    *,
    setup: Sequence[PathLike] = (),
    trainer: str | None = None,
    iterations: int | None = None,
    budget_s: float | None = None,
    phases: Sequence[str] | None = None,
    num_gpus: int = 1,
    configured_for: int | None = None,
    output: PathLike | None = None,
    python: PathLike | None = None,
    seed: int | None = None,
    device: str | None = None,
    rules: Sequence[PathLike] = (),
    project: PathLike | None = None,
    select: str = "",
    strict: bool = False,
    early_end: bool = True,
    on_record: OnRecord = _nobody,
    on_line: OnLine = _nobody,
) -> Report:
    """Train a config briefly, in a process of its own, and judge what was recorded.

    overrides: KEY, VALUE, KEY, VALUE ..., as on the command line, whose options the other
    parameters are. rules: folders with further rule files. select: as `-k`. early_end: end as soon
    as a failure of the loss is certain. on_record is given each record of rank 0 as it comes,
    on_line each line that the training prints, secrets masked.

    Raises d2check.errors.UsageError for what cannot be started; a training that fails is no
    exception but a finding.
    """
    plan = plan_run(
        Path(config),
        overrides,
        setup=[os.fspath(each) for each in setup],
        trainer=trainer,
        iterations=iterations,
        budget_s=budget_s,
        output=None if output is None else Path(output),
        interpreter=None if python is None else os.fspath(python),
        seed=seed,
        device=device,
        num_gpus=num_gpus,
        configured_for=configured_for,
        phases=phases,
    )
    plan = replace(plan, early_end=early_end)
    return _run(plan, _choice(rules, project, select), strict, on_record, on_line)


def run_command(
    command: Sequence[str],
    *,
    iterations: int | None = None,
    budget_s: float | None = None,
    phases: Sequence[str] | None = None,
    output: PathLike | None = None,
    rules: Sequence[PathLike] = (),
    project: PathLike | None = None,
    select: str = "",
    strict: bool = False,
    early_end: bool = True,
    on_record: OnRecord = _nobody,
    on_line: OnLine = _nobody,
) -> Report:
    """The same for a command of one's own: `["python", "train_net.py", "--num-gpus", "2"]`."""
    plan = plan_command(
        command,
        iterations=iterations,
        budget_s=budget_s,
        output=None if output is None else Path(output),
        phases=phases,
    )
    plan = replace(plan, early_end=early_end)
    return _run(plan, _choice(rules, project, select), strict, on_record, on_line)


def audit(
    *paths: PathLike,
    rules: Sequence[PathLike] = (),
    project: PathLike | None = None,
    select: str = "",
    strict: bool = False,
) -> Report:
    """Judge whatever the paths hold: run folders, output folders, metrics.json, logs."""
    terms = pipeline.Terms(strict)
    return pipeline.audit([Path(path) for path in paths], _choice(rules, project, select), terms)


def _choice(rules: Sequence[PathLike], project: PathLike | None, select: str) -> RuleChoice:
    folders = tuple(Path(folder) for folder in rules)
    return RuleChoice(folders, None if project is None else Path(project), select)


def _run(
    plan: Plan, choice: RuleChoice, strict: bool, on_record: OnRecord, on_line: OnLine
) -> Report:
    chosen = choose(choice)
    terms = pipeline.Terms(strict, notes=chosen.notes)
    return pipeline.run(plan, chosen.rules, terms, on_record=on_record, on_line=on_line)
