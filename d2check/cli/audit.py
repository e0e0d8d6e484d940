"""`d2check audit`: what a training left behind, judged."""

from __future__ import annotations

from pathlib import Path

import click

from d2check.cli._options import ReportChoices, report_options

_EXAMPLES = """\b
d2check audit output/
d2check audit experiments/ --json verdicts.json
d2check audit output/metrics.json -k "loss or schedule" -v
"""


@click.command(epilog=_EXAMPLES, short_help="Judge what trainings left behind.")
@click.argument(
    "paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH..."
)
@report_options
def command(paths: tuple[Path, ...], choices: ReportChoices) -> int:
    """Judge output folders, metrics.json files, run folders, or whole trees of them.

    Needs no GPU, no torch, no Detectron2, and writes nothing where it reads.
    """
    from d2check import pipeline
    from d2check.cli._deliver import (
        check_targets,
        command_line,
        deliver,
        no_rules,
        rule_choice,
    )
    from d2check.fleet import choose

    check_targets(choices)
    choice = rule_choice(choices)
    chosen = choose(choice)
    if not chosen.rules:
        return no_rules(choices)
    terms = pipeline.Terms(choices.strict, choices.stop_at_first, command_line(), chosen.notes)
    return deliver(pipeline.audit(paths, choice, terms), choices)
