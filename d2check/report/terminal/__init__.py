"""The report in a terminal, in the manner of pytest.

One run: what was checked, a line per rule, the failures in full, why rules were skipped, the
counts. Several runs: grouped by what is wrong, never a table per run.
"""

from __future__ import annotations

from d2check.model import Report, Summary
from d2check.report._text import clean, count
from d2check.report.terminal.many_runs import show_runs
from d2check.report.terminal.one_run import show_run
from d2check.report.terminal.page import Page

__all__ = ["closing_line", "render"]


def render(
    report: Report, *, colour: bool, width: int, verbosity: int, ascii_only: bool = False
) -> str:
    """The report as text of `width` columns, with ANSI colours only where asked for.

    verbosity: -2 only the closing line, -1 what is wrong, 0 as pytest, 1 everything about every
    rule, 2 also what passed in many runs. Everything that comes from users is cleaned of control
    characters first.
    """
    page = Page(width, colour=colour, ascii_only=ascii_only)
    if verbosity > -2:
        if verbosity >= 0:
            page.heading(f"d2check {clean(report.version)}", "=", "strong")
        if len(report.runs) == 1:
            show_run(page, report, report.runs[0], verbosity)
        elif report.runs:
            show_runs(page, report, verbosity)
        _show_unreadable(page, report)
        if verbosity >= 0:
            page.line()
        for note in report.notes:
            page.field("note", clean(note))
        if report.replay and verbosity >= 0:
            page.field("again", clean(report.replay))
    line, style = closing_line(report)
    if verbosity >= 0:
        page.heading(line, "=", style)
    else:
        page.line(line, style)
    return page.text()


def closing_line(report: Report) -> tuple[str, str]:
    """`2 failed, 9 passed, 3 skipped in 41.2s`, and its style."""
    parts = [text for number, text in _counts(report.summary) if number]
    if report.unreadable:
        parts.append(f"{len(report.unreadable):,} unreadable")
    judged = ", ".join(parts) or "nothing judged"
    if len(report.runs) > 1:
        judged += f" over {count(len(report.runs), 'run')}"
    text = f"{judged} in {report.summary.seconds:.1f}s"
    if report.exit_code == 0 and report.summary.failed + report.summary.errors:
        text += " (trial rules never fail a check)"
    if report.exit_code == 2:
        return f"interrupted: {text}", "bad"
    if report.exit_code == 5 and report.summary.passed + report.summary.warned:
        return f"no iteration was seen, which proves nothing: {text}", "warn"
    if report.exit_code == 5:
        return f"nothing could be judged: {text}", "warn"
    if report.exit_code:
        return text, "bad"
    return text, "warn" if report.summary.warned else "good"


def _counts(summary: Summary) -> tuple[tuple[int, str], ...]:
    return (
        (summary.failed, f"{summary.failed:,} failed"),
        (summary.errors, count(summary.errors, "error")),
        (summary.warned, count(summary.warned, "warning")),
        (summary.passed, f"{summary.passed:,} passed"),
        (summary.skipped, f"{summary.skipped:,} skipped"),
        (summary.ignored, f"{summary.ignored:,} ignored"),
    )


def _show_unreadable(page: Page, report: Report) -> None:
    if not report.unreadable:
        return
    page.line()
    page.heading("could not be read", "-", "warn")
    most = 20
    for item in report.unreadable[:most]:
        path, message = clean(item.path), clean(item.message)
        # Input errors begin with the place already.
        page.wrapped(message if message.startswith(path) else f"{path}: {message}")
    if len(report.unreadable) > most:
        page.line(f"and {len(report.unreadable) - most:,} more (all are in --json)")
