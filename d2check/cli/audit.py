"""`d2check audit`: what a training left behind, judged."""

from __future__ import annotations

import os
import sys
from io import BufferedReader
from pathlib import Path

import click

from d2check.cli._options import ReportChoices, report_options
from d2check.cli._reading import only_read
from d2check.errors import InputError

_EXAMPLES = """\b
d2check audit output/
d2check audit experiments/ --json verdicts.json
d2check audit output/metrics.json -k "loss or schedule" -v
d2check audit - < console.txt
"""
_STDIN = Path("-")


@click.command(epilog=_EXAMPLES, short_help="Judge what trainings left behind.")
@click.argument(
    "paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH..."
)
@report_options
def command(paths: tuple[Path, ...], choices: ReportChoices) -> int:
    """Judge output folders, metrics.json files, logs, run folders, or whole trees of them.

    `-` reads standard input: rows of metrics.json, or lines that the console printed.
    Needs no GPU, no torch, no Detectron2, and writes nothing where it reads.
    """
    only_read()
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
    pasted = _standard_input() if _STDIN in paths else None
    named = [path for path in paths if path != _STDIN]
    if choices.verbosity < 0 or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        return deliver(pipeline.audit(named, choice, terms, pasted=pasted), choices)

    from d2check.report.audit_progress import AuditProgress

    progress = AuditProgress(sys.stderr)
    try:
        report = pipeline.audit(named, choice, terms, pasted=pasted, on_judged=progress.judged)
    finally:
        progress.close()
    return deliver(report, choices)


def _standard_input() -> BufferedReader:
    """Standard input, in which something is. Raises InputError where nothing comes."""
    stream = sys.stdin.buffer
    assert isinstance(stream, BufferedReader)
    if sys.stdin.isatty():
        click.echo("Paste rows of metrics.json or lines of a log, then press Ctrl-D.", err=True)
    if not stream.peek(1):
        raise InputError(
            "standard input",
            "nothing came in",
            "rows of metrics.json, or lines that the training printed",
            "Name a file (d2check audit - < log.txt), or paste the lines and press Ctrl-D",
        )
    return stream
