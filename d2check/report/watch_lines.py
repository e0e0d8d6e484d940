"""What a watched training has to tell: a line for what changes, and nothing else."""

from __future__ import annotations

from d2check.model import Finding, RunReport, Verdict
from d2check.report._text import clean, count

BAD = (Verdict.WARN, Verdict.FAIL, Verdict.ERROR)


def beginning(judged: RunReport, earlier: int) -> str:
    """`iteration 1,239 of 90,000: 31 passed, 33 not judged yet; 1 earlier training in ...`."""
    verdicts = [f.verdict for f in judged.findings if f.ignored is None]
    passed, skipped = verdicts.count(Verdict.PASS), verdicts.count(Verdict.SKIP)
    text = f"{_place(judged)}: {count(passed, 'rule')} passed, {skipped:,} not judged yet"
    if earlier:
        text += f"; {count(earlier, 'earlier training')} in these files not shown"
    return text


def change(judged: RunReport, finding: Finding, before: Verdict | None) -> str:
    """`iteration 2,519: FAIL loss/diverges: ...`, and what it was where it was something else."""
    was = f" (was {before.value})" if before is not None else ""
    return (
        f"{_place(judged)}: {finding.verdict.value} {finding.rule}{was}: {clean(finding.message)}"
    )


def is_news(finding: Finding, before: Verdict | None, *, everything: bool) -> bool:
    """Whether a change is worth a line: what is wrong, and what is so no more."""
    return everything or finding.verdict in BAD or before in BAD


def news(judged: RunReport, text: str) -> str:
    """`iteration 2,519: nothing was written for 10 minutes`."""
    return f"{_place(judged)}: {clean(text)}"


def _place(judged: RunReport) -> str:
    run = judged.run
    if run.last_iteration is None:
        return "no iteration yet"
    of = "" if run.planned_iterations is None else f" of {run.planned_iterations:,}"
    return f"iteration {run.last_iteration:,}{of}"
