"""Puts a report where it was asked for: files first, then the terminal."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from d2check.cli._options import ReportChoices
from d2check.errors import InputError, UsageError

if TYPE_CHECKING:
    from d2check.fleet import RuleChoice
    from d2check.model import Report

_WIDEST = 110
_PIPE_WIDTH = 100
NOTHING_JUDGED = 5


def check_targets(choices: ReportChoices) -> None:
    """Refuse report files that cannot be written, before minutes of training are spent."""
    for option, path in (("--json", choices.json), ("--junitxml", choices.junitxml)):
        if path is None or str(path) == "-":
            continue
        folder = path.parent
        if not folder.is_dir():
            found = f"{folder} is no folder"
        elif path.is_dir():
            found = "it is a folder"
        elif not os.access(path if path.exists() else folder, os.W_OK):
            found = "no permission to write it"
        else:
            continue
        raise InputError(f"{option} {path}", found, "a file that can be written", "Name another")


def rule_choice(choices: ReportChoices, *, with_project: bool = True) -> RuleChoice:
    """Which rules the options name; the project file is the nearest one from here upwards."""
    from d2check.fleet import RuleChoice
    from d2check.rules.load import find_project

    path = (choices.project or find_project(Path.cwd())) if with_project else None
    project = None if path is None else Path(os.path.relpath(path))
    return RuleChoice(choices.rules, project, choices.expression)


def no_rules(choices: ReportChoices) -> int:
    """Say that -k leaves no rule; as in pytest that is no success."""
    click.echo(
        f"no rule matches -k {choices.expression!r}; `d2check rules list` names all", err=True
    )
    return NOTHING_JUDGED


def command_line() -> tuple[str, ...]:
    """What the user typed, with secrets masked."""
    from d2check.harness.redact import redactor

    typed = ["d2check", *sys.argv[1:]]
    return tuple(redactor(os.environ, typed).command(typed))


def deliver(report: Report, choices: ReportChoices, *, also_json: Path | None = None) -> int:
    """Write the files, show the report, return the exit code.

    A file that cannot be written takes nothing from the others: the report is shown, then
    UsageError tells of the file. also_json: a copy that nobody asked for; where it cannot be
    written, that is told and changes no exit code.
    """
    from d2check.report import json_report

    failures: list[str] = []
    text = json_report.render(report) if also_json or choices.json else ""
    to_stdout = choices.json is not None and str(choices.json) == "-"
    if choices.json is not None and not to_stdout:
        _write(choices.json, text, failures)
    if choices.junitxml is not None:
        from d2check.report import junit

        _write(choices.junitxml, junit.render(report), failures)
    if to_stdout:
        _show(sys.stdout, text)
    show(report, choices, sys.stderr if to_stdout else sys.stdout)
    if also_json is not None:
        _write_copy(also_json, text)
    if failures:
        raise UsageError("\n".join(failures))
    return report.exit_code


def show(report: Report, choices: ReportChoices, stream: TextIO) -> None:
    """The report on a stream, in the colours, width and characters that it can show."""
    from d2check.report import terminal

    columns = shutil.get_terminal_size((_PIPE_WIDTH, 24)).columns
    _show(
        stream,
        terminal.render(
            report,
            colour=wants_colour(stream),
            width=min(columns, _WIDEST),
            verbosity=choices.verbosity,
            ascii_only=not shows_unicode(stream),
        ),
    )


def wants_colour(stream: TextIO) -> bool:
    """Terminals get colour unless NO_COLOR (no-color.org) forbids it."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def shows_unicode(stream: TextIO) -> bool:
    """Whether the stream's encoding holds every character."""
    return (getattr(stream, "encoding", None) or "").lower().replace("-", "").startswith("utf")


def _write(path: Path, text: str, failures: list[str]) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        failures.append(f"{path}: not written: {error.strerror or error}")


def _write_copy(path: Path, text: str) -> None:
    """Whole or not at all: half a report is none that a program could read."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        click.echo(f"d2check: {path}: not written: {error.strerror or error}", err=True)


def _show(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        # The reader has what it wanted (`| head`). The verdict is still the exit code; what is
        # left in the buffer must not fail again when Python closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
