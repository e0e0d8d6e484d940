"""One line per rule: its verdict, its number, its words; rules skipped for one reason share one."""

from __future__ import annotations

from collections.abc import Sequence

from d2check.model import Finding, Verdict
from d2check.report._text import clean, quantity, shortened
from d2check.report.terminal.finding import place
from d2check.report.terminal.page import VERDICT_STYLES, Page

_NUMBER_WIDTH = 10
_LEAST_ROOM = 16


def show_rule_lines(page: Page, findings: Sequence[Finding], verbosity: int) -> None:
    """What was judged, in the order of the findings, then what was not and why."""
    skipped: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.verdict is Verdict.SKIP and finding.ignored is None:
            reason = clean(finding.reason or finding.message)
            key = f"{finding.rule} {reason}" if verbosity > 0 else reason
            skipped.setdefault(key, []).append(finding)
        else:
            _judged(page, finding, verbosity)
    for alike in skipped.values():
        _skipped(page, alike, verbosity)


def _judged(page: Page, finding: Finding, verbosity: int) -> None:
    number = quantity(finding.value, finding.unit)
    if len(number) > _NUMBER_WIDTH:
        number = quantity(finding.value, "")  # the message says of what
    ignored = finding.ignored is not None
    quiet = finding.verdict is Verdict.PASS or ignored
    head = f"{_with_leader(page, finding.rule)} {number:>{_NUMBER_WIDTH}}"
    style = "quiet" if ignored else VERDICT_STYLES[finding.verdict]
    _line(page, (finding.verdict.value, style), head, _says(finding), verbosity, quiet=quiet)
    if verbosity > 0 and finding.verdict is Verdict.PASS and (where := place(finding)):
        page.wrapped(where, indent=" " * 6, style="quiet")


def _skipped(page: Page, alike: Sequence[Finding], verbosity: int) -> None:
    first = alike[0]
    name = first.rule if len(alike) == 1 else f"{first.rule} +{len(alike) - 1}"
    reason = clean(first.reason or first.message)
    _line(page, ("SKIP", "quiet"), _with_leader(page, name), reason, verbosity, quiet=True)


def _line(
    page: Page, verdict: tuple[str, str], head: str, says: str, verbosity: int, *, quiet: bool
) -> None:
    room = page.width - len("FAIL  ") - len(head) - 2
    below = verbosity > 0 and len(says) > room
    if says and not below and room >= _LEAST_ROOM:
        head += f"  {shortened(says, room)}"
    word, style = verdict
    told = page.paint(head.rstrip(), "quiet" if quiet else None)
    page.line(f"{page.paint(f'{word:<5}', style)} {told}")
    if below:
        page.wrapped(says, indent=" " * 6, style="quiet" if quiet else None)


def _with_leader(page: Page, name: str) -> str:
    width = 32 if page.width >= 76 else 28
    return f"{name} {'.' * max(2, width - len(name) - 1)}"


def _says(finding: Finding) -> str:
    if finding.ignored is not None:
        return f"ignored: {clean(finding.ignored)}"
    words = finding.reason if finding.verdict is Verdict.ERROR else finding.message
    trial = "(trial) " if finding.status == "trial" and finding.verdict is not Verdict.PASS else ""
    return trial + clean(words or finding.message)
