"""Runs a plan with its progress on the screen: what `run` and `demo` share."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from d2check.cli._deliver import command_line, deliver
from d2check.cli._options import ReportChoices
from d2check.report.progress import LiveProgress, NoProgress, PlainProgress, Progress, Watch

if TYPE_CHECKING:
    from d2check.fleet import Chosen
    from d2check.harness.plan import Plan

# Two -v: the training's own output too.
_WITH_OUTPUT = 2


def check(plan: Plan, chosen: Chosen, choices: ReportChoices, *, title: str) -> int:
    """Train, judge, report. Returns the exit code."""
    from d2check import pipeline
    from d2check.probe import wire

    terms = pipeline.Terms(choices.strict, choices.stop_at_first, command_line(), chosen.notes)
    with _Screen(choices) as screen:
        screen.begin(title, plan)
        report = pipeline.run(
            plan,
            chosen.rules,
            terms,
            on_record=screen.record,
            on_line=screen.line,
            on_training=screen.begin,
        )
    return deliver(report, choices, also_json=plan.folder / wire.REPORT)


class _Screen:
    """The progress of one training after the other: a check may have several."""

    def __init__(self, choices: ReportChoices) -> None:
        """Nothing is shown yet."""
        self._choices = choices
        self._now: Progress = NoProgress()

    def __enter__(self) -> _Screen:
        return self

    def __exit__(self, *_error: object) -> None:
        self._now.close()

    def begin(self, title: str, plan: Plan) -> None:
        """Leave the screen to another training."""
        self._now.close()
        self._now = _progress(plan, self._choices, title)

    def record(self, record: dict[str, Any]) -> None:
        """One record of the probe."""
        self._now.record(record)

    def line(self, text: str) -> None:
        """One line of the training's own output, where that is asked for."""
        if self._choices.verbosity >= _WITH_OUTPUT:
            self._now.line(text)


def _progress(plan: Plan, choices: ReportChoices, title: str) -> Progress:
    if choices.verbosity < 0:
        return NoProgress()
    by_phase = {phase.name: phase.iterations or 0 for phase in plan.phases}
    watch = Watch(plan.iterations, plan.budget_s, by_phase=by_phase)
    click.echo(f"d2check: {title}, recorded in {os.path.relpath(plan.folder)}", err=True)
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return LiveProgress(sys.stderr, watch, title=title)
    return PlainProgress(sys.stderr, watch)
