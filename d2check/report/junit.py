"""The report for CI servers: JUnit XML, one suite per run, one case per rule.

A case fails exactly when its finding makes the exit code 1, so that the CI server and the job
never disagree: trial rules and warnings are passed cases with their words in system-out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from d2check.model import Finding, Report, RunReport, Verdict
from d2check.report._text import clean, clean_block, proof_words

if TYPE_CHECKING:
    from junitparser import TestCase, TestSuite


def render(report: Report) -> str:
    """The report as JUnit XML text. Whatever no XML file can hold is taken out of every string."""
    from junitparser import JUnitXml

    xml = JUnitXml("d2check")
    for judged in report.runs:
        xml.add_testsuite(_suite(judged, report))
    if report.unreadable:
        xml.add_testsuite(_unreadable(report))
    xml.update_statistics()  # type: ignore[no-untyped-call]
    if len(report.runs) == 1:
        xml.time = report.summary.seconds
    text: bytes = xml.tostring()  # type: ignore[no-untyped-call]
    return text.decode("utf-8")


def _suite(judged: RunReport, report: Report) -> TestSuite:
    from junitparser import TestSuite

    run = judged.run
    name = clean(run.source) + (f" (training {run.segment + 1})" if run.segment else "")
    suite = TestSuite(name)
    for fact, value in sorted(run.facts.items()):
        if value is not None:
            suite.add_property(clean(fact), clean(value))
    suite.add_property("ending", run.ending.kind.value)
    if run.last_iteration is not None:
        suite.add_property("last_iteration", str(run.last_iteration))
    for finding in judged.findings:
        suite.add_testcase(_case(finding, judged, name, report.strict))
    return suite


def _case(finding: Finding, judged: RunReport, suite: str, strict: bool) -> TestCase:
    from junitparser import Error, Failure, Skipped, TestCase

    case = TestCase(finding.rule, classname=suite)
    words = clean(finding.reason or finding.message)
    if finding.gates(strict):
        kind = Error if finding.verdict is Verdict.ERROR else Failure
        headline = words if kind is Error else clean(finding.message or finding.title)
        result = kind(headline, finding.rule)
        result.text = _details(finding, judged)
        case.result = [result]
    elif finding.ignored is not None:
        case.result = [Skipped(f"ignored: {clean(finding.ignored)}")]
    elif finding.verdict is Verdict.SKIP:
        case.result = [Skipped(words)]
    elif finding.verdict is not Verdict.PASS:
        trial = " (trial: reported, never gates)" if finding.status == "trial" else ""
        case.system_out = f"{finding.verdict.value}{trial}\n{_details(finding, judged)}"
    elif words:
        case.system_out = words
    return case


def _details(finding: Finding, judged: RunReport) -> str:
    return "\n".join(line for line in _lines(finding, judged) if line)


def _lines(finding: Finding, judged: RunReport) -> Iterable[str]:
    yield clean(finding.title)
    yield clean(finding.message)
    yield clean(finding.reason or "")
    if finding.span:
        yield f"iterations {finding.span[0]} to {finding.span[1]}"
    if finding.explained_by:
        yield f"explained by {finding.explained_by}"
    if finding.rule.startswith("ending/"):
        yield clean_block("\n".join(judged.run.ending.traceback))
    yield clean(finding.why)
    for fix in finding.fixes:
        repair = "; ".join(part for part in (fix.as_command_line(), fix.action) if part)
        yield f"fix: {clean(repair)} ({clean(fix.because)})"
        if fix.proof:
            yield clean(proof_words(fix.proof))


def _unreadable(report: Report) -> TestSuite:
    from junitparser import Error, TestCase, TestSuite

    suite = TestSuite("could not be read")
    for item in report.unreadable:
        case = TestCase(clean(item.path), classname="could not be read")
        case.result = [Error(clean(item.message), "unreadable")]
        suite.add_testcase(case)
    return suite
