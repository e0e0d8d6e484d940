"""Symptoms under their causes: which finding the user reads first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from d2check.model import Finding, Run, Verdict
from d2check.rules.expressions import Absent
from d2check.rules.inputs import Scope
from d2check.rules.model import Rule

SEVERITIES = ("high", "medium", "low", "info")
_BAD = (Verdict.FAIL, Verdict.WARN)
_AFTER_CAUSES = (Verdict.FAIL, Verdict.ERROR, Verdict.WARN, Verdict.SKIP, Verdict.PASS)


def fold(rules: Sequence[Rule], findings: Sequence[Finding], run: Run) -> tuple[Finding, ...]:
    """The findings with `explained_by` set to the root cause. Verdicts stay as they are."""
    by_id = {finding.rule: finding for finding in findings}
    cause_of: dict[str, str] = {}
    for rule in rules:
        finding = by_id.get(rule.id)
        if finding is not None and finding.verdict in _BAD:
            cause = _direct_cause(rule, by_id, run)
            if cause is not None:
                cause_of[rule.id] = cause
    return tuple(
        replace(finding, explained_by=_root(finding.rule, cause_of))
        if finding.rule in cause_of
        else finding
        for finding in findings
    )


def _direct_cause(rule: Rule, by_id: Mapping[str, Finding], run: Run) -> str | None:
    """The cause listed first among those that hold; certain ones before doubtful ones."""
    holding = []
    for order, explanation in enumerate(rule.explained_by):
        cause = by_id.get(explanation.rule)
        if cause is None or cause.verdict not in _BAD or cause.ignored is not None:
            continue
        if explanation.when is not None:
            try:
                if not explanation.when.evaluate(_scope(run, cause, by_id[rule.id])):
                    continue
            except Absent:
                continue
        doubt = (cause.status != "stable", cause.verdict is not Verdict.FAIL)
        holding.append((doubt, order, cause.rule))
    return min(holding)[2] if holding else None


def _scope(run: Run, cause: Finding, symptom: Finding) -> Scope:
    """The cause's measurement by its own names, the symptom's as `symptom.value` and so on."""
    own = {**symptom.extras, "value": symptom.value}
    extras = {**cause.extras, **{f"symptom.{name}": value for name, value in own.items()}}
    return Scope(run, cause.value, extras)


def _root(rule: str, cause_of: Mapping[str, str]) -> str:
    while rule in cause_of:
        rule = cause_of[rule]
    return rule


def root_causes(findings: Sequence[Finding]) -> tuple[str, ...]:
    """Ids to read first: unexplained failures, and warnings that explain another finding.

    A warning alone is no cause of anything, and a trial rule that explains nothing stays in its
    corner: both are in the findings all the same.
    """
    explaining = {f.explained_by for f in findings if f.explained_by is not None}
    roots = [
        finding
        for finding in findings
        if finding.explained_by is None
        and finding.ignored is None
        and (
            finding.rule in explaining
            or (finding.verdict is Verdict.FAIL and finding.status == "stable")
        )
    ]
    weight = {f.rule: _severity_with_symptoms(f, findings) for f in roots}
    roots.sort(key=lambda f: (weight[f.rule], f.rule not in explaining, f.rule))
    return tuple(finding.rule for finding in roots)


def _severity_with_symptoms(cause: Finding, findings: Sequence[Finding]) -> int:
    together = [cause, *(f for f in findings if f.explained_by == cause.rule)]
    return min(SEVERITIES.index(finding.severity) for finding in together)


def arrange(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Root causes first, then by verdict and severity."""
    roots = root_causes(findings)

    def place(finding: Finding) -> tuple[int, int, int, bool, str]:
        severity = SEVERITIES.index(finding.severity)
        if finding.rule in roots:
            return (0, roots.index(finding.rule), severity, False, finding.rule)
        order = 1 + _AFTER_CAUSES.index(finding.verdict)
        return (order, severity, 0, finding.status != "stable", finding.rule)

    return tuple(sorted(findings, key=place))
