"""One finding in full: what was seen, why it matters, where, what to change."""

from __future__ import annotations

from collections.abc import Sequence

from d2check.model import Finding, Fix, Run, Verdict
from d2check.report._text import clean, clean_block, proof_words
from d2check.report.terminal.page import LABEL, VERDICT_STYLES, Page

_RISKS = {"safe": "safe", "try": "worth a try", "costly": "costs time or memory"}


def show_finding(
    page: Page, run: Run, finding: Finding, symptoms: Sequence[Finding], verbosity: int
) -> None:
    """The finding with the symptoms that it explains folded under it."""
    style = VERDICT_STYLES[finding.verdict]
    role = "root cause, " if symptoms else ""
    trial = ", trial" if finding.status == "trial" else ""
    page.heading(f"{finding.rule} ({role}{finding.severity}{trial})", "_", style)
    page.wrapped(clean(finding.title), style="strong")
    if finding.message:
        page.field("seen", clean(finding.message))
    if finding.reason:
        page.field(
            "broken" if finding.verdict.value == "ERROR" else "reason", clean(finding.reason)
        )
    if where := place(finding):
        page.field("where", where)
    if finding.why:
        page.field("why", clean(finding.why))
    if _is_of_the_end(finding):
        _ending(page, run, finding.message)
    if finding.confidence != "high":
        page.field("confidence", finding.confidence)
    for number, fix in enumerate(finding.fixes):
        _fix(page, fix, "fix" if number == 0 else "or")
    if finding.links and verbosity > 0:
        page.field("more", clean(" ".join(finding.links)))
    if symptoms:
        _symptoms(page, run, symptoms, verbosity)


def place(finding: Finding) -> str:
    """`iterations 739 to 760, phase ramp`. The usual phase needs no mention."""
    parts = []
    if finding.span:
        first, last = finding.span
        parts.append(
            f"iteration {first:,}" if first == last else f"iterations {first:,} to {last:,}"
        )
    if finding.phase not in (None, "any", "as-configured"):
        parts.append(f"phase {clean(finding.phase)}")
    return ", ".join(parts)


def _is_of_the_end(finding: Finding) -> bool:
    return finding.rule.startswith("ending/") and finding.verdict is Verdict.FAIL


def _ending(page: Page, run: Run, told: str) -> None:
    """The exception in the training's own words, with the user's lines.

    told: what the reader has been told already.
    """
    ending = run.ending
    rows = [row for raw in ending.traceback for row in clean_block(raw).splitlines()]
    for number, row in enumerate(rows):
        label = "traceback" if number == 0 else ""
        page.line(f"{label:<{LABEL}}{row}", "quiet")
    message = clean(ending.message or "")
    if message and message not in clean(told):
        page.field("error", f"{clean(ending.error)}: {message}" if ending.error else message)
    if ending.read_from:
        page.field("read from", clean(ending.read_from))


def _fix(page: Page, fix: Fix, label: str) -> None:
    if fix.overrides:
        # Never wrapped: it is there to be pasted.
        pad = page.paint(f"{label:<{LABEL}}", "quiet")
        page.line(pad + page.paint(clean(fix.as_command_line()), "paste"))
        label = ""
    if fix.action:
        page.field(label, clean(fix.action))
    known = [o for o in fix.overrides if o.current is not None]
    now = ", ".join(f"{clean(o.key.rpartition('.')[2])} is {clean(o.current)}" for o in known)
    because = f"{clean(fix.because)} ({_RISKS[fix.risk]})"
    page.field("", f"{because}; now {now}" if now else because)
    if fix.proof:
        page.field("proof", clean(proof_words(fix.proof)))


def _symptoms(page: Page, run: Run, symptoms: Sequence[Finding], verbosity: int) -> None:
    page.field("explains", "")
    for symptom in symptoms:
        verdict = page.paint(f"{symptom.verdict.value:<5}", VERDICT_STYLES[symptom.verdict])
        text = f"{symptom.rule}: {clean(symptom.message or symptom.reason or symptom.title)}"
        if verbosity > 0:
            page.line(f"  {verdict} {symptom.rule}")
            page.wrapped(clean(symptom.message), indent=" " * 8)
            for fix in symptom.fixes:
                _fix(page, fix, "its fix")
            if _is_of_the_end(symptom):
                _ending(page, run, symptom.message)
        else:
            page.wrapped(text, first=f"  {verdict} ", indent=" " * 8)
