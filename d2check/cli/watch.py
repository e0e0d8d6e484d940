"""`d2check watch`: a training that goes on, judged again as it grows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from d2check.cli._options import ReportChoices, report_options
from d2check.cli._reading import only_read

if TYPE_CHECKING:
    from d2check.watch import Look

_EXAMPLES = """\b
d2check watch output/
d2check watch output/ -k "loss or memory" --junitxml verdict.xml
"""


@click.command(epilog=_EXAMPLES, short_help="Follow a training that goes on, and judge.")
@click.argument("path", type=click.Path(path_type=Path), metavar="OUTPUT_DIR")
@click.option(
    "--every", default="5s", metavar="TIME", show_default=True, help="Look so often at most."
)
@click.option(
    "--patience",
    default="10m",
    metavar="TIME",
    show_default=True,
    help="Take a training as ended that nobody is seen to write, after so long without a line.",
)
@report_options
def command(path: Path, every: str, patience: str, choices: ReportChoices) -> int:
    """Follow a training by the files that it writes, and print what changes of its verdicts.

    OUTPUT_DIR may also be a metrics.json, a log or a run folder, and may still be empty. Nothing is
    written there, and the training is left alone. The report comes when the training ends, or on
    Ctrl-C (exit code 2).
    """
    only_read()
    from d2check import pipeline
    from d2check.cli._deliver import check_targets, command_line, deliver, no_rules, rule_choice
    from d2check.fleet import choose
    from d2check.harness.plan import parse_duration_s
    from d2check.watch import Pace

    check_targets(choices)
    pace = Pace(parse_duration_s(every), parse_duration_s(patience))
    chosen = choose(rule_choice(choices))
    if not chosen.rules:
        return no_rules(choices)
    terms = pipeline.Terms(choices.strict, choices.stop_at_first, command_line(), chosen.notes)
    if choices.verbosity >= 0:
        click.echo(f"d2check: following {path}; Ctrl-C ends it with the report", err=True)
    return deliver(
        pipeline.watch(
            path,
            chosen.rules,
            terms,
            pace,
            on_look=lambda look: _tell(look, choices),
            on_wait=lambda why: click.echo(f"nothing to judge yet: {why}", err=True),
        ),
        choices,
    )


def _tell(look: Look, choices: ReportChoices) -> None:
    from d2check.report import watch_lines

    judged = look.judged
    lines = []
    if look.first and choices.verbosity >= 0:
        lines.append(watch_lines.beginning(judged, look.earlier))
    everything = choices.verbosity > 0
    for one in () if look.over else look.changes:  # the report tells all that is so at the end
        if watch_lines.is_news(one.finding, one.before, everything=everything):
            lines.append(watch_lines.change(judged, one.finding, one.before))
    if look.news:
        lines.append(watch_lines.news(judged, look.news))
    for line in lines:
        click.echo(line, err=True)
    sys.stderr.flush()
