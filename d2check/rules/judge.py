"""Rules x Run -> Findings, causes first."""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from d2check.config.lazy_settings import in_lazy_names
from d2check.model import Finding, Fix, Measurement, Run, Verdict
from d2check.rules import wording
from d2check.rules.conditions import Unknown, UnknownName, evaluate
from d2check.rules.fixes import propose
from d2check.rules.folding import arrange, fold, root_causes
from d2check.rules.inputs import Inputs, Missing, Scope, bind, has_non_finite, scope_of
from d2check.rules.model import Condition, Rule

__all__ = ["Judgement", "judge", "judge_rule", "root_causes"]


@dataclass(frozen=True)
class Judgement:
    """A finding, and the names that its words wanted and this run did not have."""

    finding: Finding
    unworded: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Outcome:
    verdict: Verdict
    reason: str | None = None


def judge(rules: Sequence[Rule], run: Run) -> tuple[Finding, ...]:
    """What every rule says of a run: root causes first, then by verdict and severity.

    Symptoms name their root cause in `explained_by`. A check that raises is an ERROR finding and
    the others go on.
    """
    findings = [judge_rule(rule, run).finding for rule in rules]
    if run.config is not None and run.config.kind == "lazy":
        findings = [_in_lazy_names(finding) for finding in findings]
    return arrange(fold(rules, findings, run))


def _in_lazy_names(finding: Finding) -> Finding:
    """The finding in the words of a LazyConfig: rules are written with yacs' keys."""
    return replace(
        finding,
        message=in_lazy_names(finding.message),
        reason=finding.reason and in_lazy_names(finding.reason),
        why=in_lazy_names(finding.why),
        fixes=tuple(
            replace(
                fix,
                because=in_lazy_names(fix.because),
                action=fix.action and in_lazy_names(fix.action),
            )
            for fix in finding.fixes
        ),
    )


def judge_rule(rule: Rule, run: Run) -> Judgement:
    """What one rule says of a run, by itself."""
    inputs = bind(rule, run)
    if isinstance(inputs, Missing):
        return Judgement(_finding(rule, _Outcome(Verdict.SKIP, inputs.reason)))
    try:
        measurement: object = rule.measure(**inputs.arguments)
    except Exception as error:  # noqa: BLE001  one broken check must not hide what others found
        return Judgement(_finding(rule, _Outcome(Verdict.ERROR, _broke(rule, error))))
    if not isinstance(measurement, Measurement):
        kind = type(measurement).__name__
        broken = _Outcome(Verdict.ERROR, f"check {rule.check} returned {kind}, no Measurement")
        return Judgement(_finding(rule, broken))
    scope = scope_of(rule, run, inputs, measurement)
    outcome = _outcome(rule, inputs, measurement, scope)
    return _worded(rule, run, measurement, outcome, scope)


def _outcome(rule: Rule, inputs: Inputs, measurement: Measurement, scope: Scope) -> _Outcome:
    if measurement.undecided is not None:
        return _Outcome(Verdict.SKIP, measurement.undecided)
    value = measurement.value
    if value is not None and math.isnan(value):
        if has_non_finite(inputs):
            return _Outcome(Verdict.SKIP, "the values that it reads are not all finite")
        return _Outcome(Verdict.ERROR, f"check {rule.check} measured NaN from finite values")
    measured = {**measurement.extras, "value": value}
    unknown: Unknown | None = None
    for condition, verdict in ((rule.fail, Verdict.FAIL), (rule.warn, Verdict.WARN)):
        if condition is None:
            continue
        try:
            met = evaluate(condition, measured, inputs.statistic)
        except UnknownName as error:
            return _Outcome(Verdict.ERROR, f"check {rule.check} measures no {error.args[0]!r}")
        if met is True:
            return _Outcome(verdict)
        if isinstance(met, Unknown):
            unknown = unknown or met
    if unknown is not None:
        return _Outcome(Verdict.SKIP, unknown.reason)
    if rule.passes is None:
        return _Outcome(Verdict.PASS)
    return _passed(rule, rule.passes, measured, inputs, scope)


def _passed(
    rule: Rule, condition: Condition, measured: Mapping[str, object], inputs: Inputs, scope: Scope
) -> _Outcome:
    try:
        met = evaluate(condition, measured, inputs.statistic)
    except UnknownName as error:
        return _Outcome(Verdict.ERROR, f"check {rule.check} measures no {error.args[0]!r}")
    if met is True:
        return _Outcome(Verdict.PASS)
    return _Outcome(Verdict.SKIP, wording.word(rule.undecided or "not enough evidence", scope))


def _worded(
    rule: Rule, run: Run, measurement: Measurement, outcome: _Outcome, scope: Scope
) -> Judgement:
    if outcome.verdict in (Verdict.SKIP, Verdict.ERROR):
        return Judgement(_finding(rule, outcome, measurement))
    bad = outcome.verdict is not Verdict.PASS
    templates = rule.message if bad or not rule.passed else rule.passed
    finding = _finding(
        rule,
        outcome,
        measurement,
        message=wording.choose(templates, scope),
        fixes=propose(rule, run, scope) if bad else (),
    )
    complete = [t for t in templates if not wording.missing_names(t, scope)]
    unworded = () if complete else wording.missing_names(templates[-1], scope)
    return Judgement(finding, unworded)


_NOTHING_MEASURED = Measurement(None)


def _finding(
    rule: Rule,
    outcome: _Outcome,
    measurement: Measurement = _NOTHING_MEASURED,
    *,
    message: str | None = None,
    fixes: tuple[Fix, ...] = (),
) -> Finding:
    if message is None:
        words = {Verdict.SKIP: "could not be judged: ", Verdict.ERROR: "the check broke: "}
        message = words.get(outcome.verdict, "") + (outcome.reason or "")
    return Finding(
        rule=rule.id,
        title=rule.title,
        verdict=outcome.verdict,
        severity=rule.severity,
        status=rule.status,
        message=message,
        reason=outcome.reason,
        why=rule.why,
        value=measurement.value,
        unit=measurement.unit,
        span=measurement.span,
        extras=dict(measurement.extras),
        fixes=fixes,
        phase=rule.phase,
        ignored=rule.ignored,
        links=rule.links,
    )


def _broke(rule: Rule, error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({PurePath(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    words = str(error).strip().splitlines()[:1]
    return f"{rule.check} raised {': '.join([type(error).__name__, *words])}{place}"
