"""`d2check demo`: a check of a training that is ours, to see what a report looks like."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from d2check.cli._options import ReportChoices, report_options, run_options
from d2check.errors import InputError, UsageError

if TYPE_CHECKING:
    from d2check.demo.shapes import Sick

_SETUP = "demo_setup.py"


_EXAMPLES = """\b
d2check demo                 a healthy training
d2check demo --sick lr       a learning rate far too high
"""


@click.command(epilog=_EXAMPLES, short_help="Check a small training on made-up data.")
@click.option(
    "--sick",
    type=click.Choice(["lr", "loader", "labels"]),
    help="Give the training a fault: a rate 100 times too high, a slow loader, wrong labels.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("d2check-demo"),
    metavar="DIR",
    show_default=True,
    help="Write data set, config and records into this folder.",
)
@run_options
@report_options
def command(
    sick: Sick | None,
    output: Path,
    iterations: int | None,
    budget: str | None,
    phases: tuple[str, ...] | None,
    confirm: bool,
    verify: bool,
    early_end: bool,
    interpreter: str | None,
    seed: int | None,
    device: str | None,
    choices: ReportChoices,
) -> int:
    """Check a small Mask R-CNN on made-up data: less than a minute on a CPU."""
    from d2check.cli._check import check
    from d2check.cli._deliver import check_targets, no_rules, rule_choice
    from d2check.demo.shapes import write_demo
    from d2check.fleet import choose
    from d2check.harness.plan import parse_duration_s, plan_run

    check_targets(choices)
    chosen = choose(rule_choice(choices, with_project=False))
    if not chosen.rules:
        return no_rules(choices)
    _refuse_foreign(output)
    try:
        config = write_demo(output, sick)
    except OSError as error:
        raise UsageError(f"{output}: not written: {error.strerror or error}") from error
    plan = plan_run(
        config,
        setup=[str(output / _SETUP)],
        iterations=iterations,
        budget_s=None if budget is None else parse_duration_s(budget),
        # Its warm-up of 30 iterations leaves a ramp nothing to find.
        phases=("loader", "as-configured") if phases is None else phases,
        output=_next_run(output),
        interpreter=interpreter,
        seed=seed,
        device=device,
    )
    title = "the demo" if sick is None else f"the demo with its {sick} made sick"
    return check(
        replace(plan, confirm=confirm, verify=verify, early_end=early_end),
        chosen,
        choices,
        title=title,
    )


def _refuse_foreign(folder: Path) -> None:
    """A folder of the user's is never written into; one of an earlier demo is used again."""
    if not folder.exists() or (folder / _SETUP).is_file():
        return
    if not folder.is_dir():
        found = "it is a file"
    elif any(folder.iterdir()):
        found = "it holds files that are not of a demo"
    else:
        return
    raise InputError(
        str(folder),
        found,
        "a new or empty folder, or one of an earlier demo",
        "Name another with --output",
    )


def _next_run(folder: Path) -> Path:
    number = 1
    while (folder / f"run-{number}").exists():
        number += 1
    return folder / f"run-{number}"
