"""One line per rule: its verdict and its words; where everything is asked for, its number too.

Rules that were skipped for one reason share a line, and so do those that passed with the same
words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from d2check.model import Finding, Verdict
from d2check.report._text import clean, quantity, shortened
from d2check.report.terminal.finding import place
from d2check.report.terminal.page import VERDICT_STYLES, Page

_NUMBER_WIDTH = 10
_LEAST_ROOM = 16


def show_rule_lines(page: Page, findings: Sequence[Finding], verbosity: int) -> None:
    """What was judged, in the order of the findings, then what was not and why."""
    judged: dict[str, list[Finding]] = {}
    skipped: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.verdict is Verdict.SKIP and finding.ignored is None:
            words, group = clean(finding.reason or finding.message), skipped
        else:
            words, group = _says(finding), judged
        alone = verbosity > 0 or (group is judged and not _is_plain_pass(finding))
        group.setdefault(f"{finding.rule} {words}" if alone else words, []).append(finding)
    for alike in judged.values():
        _judged(page, alike, verbosity)
    for alike in skipped.values():
        _skipped(page, alike, verbosity)


def _is_plain_pass(finding: Finding) -> bool:
    return finding.verdict is Verdict.PASS and finding.ignored is None


def _judged(page: Page, alike: Sequence[Finding], verbosity: int) -> None:
    finding = alike[0]
    ignored = finding.ignored is not None
    quiet = finding.verdict is Verdict.PASS or ignored
    head, number = _with_leader(page, _name(alike)), _number(finding)
    # The words hold the evidence; a bare figure asks which of two directions would be worse.
    if number and verbosity > 0:
        head += f" {number:>{_NUMBER_WIDTH}}"
    style = "quiet" if ignored else VERDICT_STYLES[finding.verdict]
    _line(page, (finding.verdict.value, style), head, _says(finding), verbosity, quiet=quiet)
    if verbosity > 0 and finding.verdict is Verdict.PASS and (where := place(finding)):
        page.wrapped(where, indent=" " * 6, style="quiet")


def _number(finding: Finding) -> str:
    """The measured number, unless it says nothing: a pass at zero, or one that the words hold."""
    value = finding.value
    if value is None or (finding.verdict is Verdict.PASS and value == 0):
        return ""
    number = quantity(value, finding.unit)
    said = _FIGURE.findall(_says(finding))
    ways = (value, 100 * value) if finding.unit in ("share", "fraction") else (value,)
    if any(_same(word, way) for word in said for way in ways):
        return ""
    # Too long with its unit: the words say of what.
    return number if len(number) <= _NUMBER_WIDTH else quantity(value, "")


_FIGURE = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


def _same(word: str, value: float) -> bool:
    """Whether a printed figure is this value, rounded as the figure is."""
    bare = word.replace(",", "")
    mantissa, _, exponent = bare.partition("e")
    decimals = len(mantissa.partition(".")[2])
    half_a_unit: float = 0.5 * 10.0 ** (int(exponent or 0) - decimals)
    return abs(float(bare) - value) <= half_a_unit


def _skipped(page: Page, alike: Sequence[Finding], verbosity: int) -> None:
    reason = clean(alike[0].reason or alike[0].message)
    head = _with_leader(page, _name(alike))
    _line(page, ("SKIP", "quiet"), head, reason, verbosity, quiet=True)


def _name(alike: Sequence[Finding]) -> str:
    """`labels/empty`, or `labels/empty +4` for a line that several share."""
    more = f" +{len(alike) - 1}" if len(alike) > 1 else ""
    return alike[0].rule + more


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
