"""The report for scripts: JSON of a stable, versioned shape (report.schema.json beside this file).

Within one schema number keys are only added, never renamed, removed or given another meaning.
What is the same for every run (title, why, links of a rule) stands once under `rules`.
"""

from __future__ import annotations

import json
from typing import Any

from d2check.model import SCHEMA_VERSION, Finding, Fix, Report, RunReport, to_plain


def render(report: Report) -> str:
    """The report as JSON text, strict: no NaN, no bytes outside ASCII, one final line break."""
    return json.dumps(plain(report), indent=1, allow_nan=False) + "\n"


def plain(report: Report) -> dict[str, Any]:
    """The report as JSON-ready data."""
    return {
        "schema": SCHEMA_VERSION,
        "d2check": report.version,
        "command": list(report.command),
        "runs": [_run(judged) for judged in report.runs],
        "rules": _rules(report),
        "unreadable": to_plain(report.unreadable),
        "neutralised": list(report.neutralised),
        "notes": list(report.notes),
        "replay": report.replay,
        "strict": report.strict,
        "summary": to_plain(report.summary),
        "exit_code": report.exit_code,
    }


def _run(judged: RunReport) -> dict[str, Any]:
    run = judged.run
    return {
        "source": run.source,
        "segment": run.segment,
        "first_iteration": run.first_iteration,
        "last_iteration": run.last_iteration,
        "planned_iterations": run.planned_iterations,
        "rows": run.rows,
        "malformed_lines": run.malformed_lines,
        "ending": to_plain(run.ending),
        "config": None
        if run.config is None
        else {
            "source": run.config.source,
            "matches_run": run.config.matches_run,
            "mismatch": run.config.mismatch,
        },
        "facts": to_plain(run.facts),
        "phases": to_plain(run.phases),
        "events": to_plain(run.events),
        "root_causes": list(judged.root_causes),
        "findings": [_finding(finding) for finding in judged.findings],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "rule": finding.rule,
        "verdict": finding.verdict.value,
        "severity": finding.severity,
        "status": finding.status,
        "value": to_plain(finding.value),
        "unit": finding.unit,
        "span": to_plain(finding.span),
        "phase": finding.phase,
        "message": finding.message,
        "reason": finding.reason,
        "explained_by": finding.explained_by,
        "ignored": finding.ignored,
        "confidence": finding.confidence,
        "extras": to_plain(finding.extras),
        "fixes": [_fix(fix) for fix in finding.fixes],
    }


def _fix(fix: Fix) -> dict[str, Any]:
    """`key`, `current` and `proposed` are those of the first override; null for an action."""
    overrides = to_plain(fix.overrides)
    first = overrides[0] if overrides else {"key": None, "current": None, "proposed": None}
    return {
        **first,
        "risk": fix.risk,
        "because": fix.because,
        "proof": to_plain(fix.proof),
        "overrides": overrides,
        "command_line": fix.as_command_line(),
        "action": fix.action,
    }


def _rules(report: Report) -> dict[str, Any]:
    return {
        finding.rule: {
            "title": finding.title,
            "why": finding.why,
            "links": list(finding.links),
        }
        for judged in report.runs
        for finding in judged.findings
    }
