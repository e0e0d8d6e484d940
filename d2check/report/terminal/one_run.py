"""One run in full: header, a line per rule, then what is wrong."""

from __future__ import annotations

import math

from d2check.model import Finding, Report, Run, RunReport, Verdict
from d2check.report._text import clean, count, epochs, quantity, shortened, sparkline
from d2check.report.terminal.finding import show_finding
from d2check.report.terminal.page import LABEL, Page
from d2check.report.terminal.rule_lines import show_rule_lines

_ENDED_EARLY = "ended-early"
_QUIET_EVENTS = ("neutralised", "dataset", _ENDED_EARLY)
_EVENT_CHARS = 320
_LABELS = {
    "phase-skipped": "left out",
    "recording-failed": "not kept",
    "files-touched": "CHANGED",
    "missing-weights": "missing",
    "skipped-weights": "skipped",
    "own-loop": "own loop",
    "ramp-non-finite": "ramp",
    "ranks-differ": "ranks",
}


def show_run(page: Page, report: Report, judged: RunReport, verbosity: int) -> None:
    """Everything that a reader of one run needs, the cause before its symptoms."""
    if verbosity >= 0:
        _header(page, report, judged.run, verbosity)
        page.line()
        show_rule_lines(page, judged.findings, verbosity)
    _in_full(page, judged, report.strict, verbosity)


# --------------------------------------------------------------------------- header


def _header(page: Page, report: Report, run: Run, verbosity: int) -> None:
    fields = {
        "run": _source(run),
        "model": _model(run),
        "device": _device(run),
        "plan": _length(run, run.planned_iterations, "epochs_planned"),
        "observed": _observed(run),
        "software": _software(run),
    }
    for label, text in fields.items():
        if text:
            page.field(label, text)
    if run.first_iteration is None and run.ending.message and run.ending.error is None:
        page.field("ending", clean(run.ending.message), "warn")
    _loss_curve(page, run)
    if run.malformed_lines:
        lines = count(run.malformed_lines, "line")
        page.field("malformed", f"{lines} could not be read in full", "warn")
    if run.config is not None and run.config.matches_run is False:
        reason = clean(run.config.mismatch or "its values do not fit the rows")
        page.field("config", f"not of this run: {reason}", "warn")
    for event in run.events:
        if event.kind not in _QUIET_EVENTS:
            at = "" if event.iteration is None else f" (iteration {event.iteration:,})"
            label = _LABELS.get(event.kind) or shortened(clean(event.kind), LABEL - 1)
            text = clean(event.message)  # names of a hundred weights, perhaps
            page.field(label, (text if verbosity > 0 else shortened(text, _EVENT_CHARS)) + at)
        elif verbosity > 0 and event.kind == "dataset":
            page.field("dataset", clean(event.message))
    if report.neutralised:
        page.field("turned off", "; ".join(map(clean, report.neutralised)))


def _source(run: Run) -> str:
    segment = "" if run.segment == 0 else f" (training {run.segment + 1} in it)"
    return clean(run.source) + segment


def _model(run: Run) -> str:
    facts = run.facts
    parts = [clean(facts["meta_architecture"])] if facts.get("meta_architecture") else []
    if (classes := _number(run, "classes")) is not None:
        parts.append(count(int(classes), "class", "classes"))
    if (parameters := _number(run, "parameters")) is not None:
        millions = parameters / 1e6
        many = f"{millions:.3g} M" if millions >= 0.1 else f"{int(parameters):,}"
        parts.append(f"{many} trainable parameters")
    if (images := _number(run, "images_per_batch")) is not None:
        parts.append(f"{count(int(images), 'image')} per batch")
    if facts.get("amp"):
        parts.append("mixed precision")
    return ", ".join(parts)


def _device(run: Run) -> str:
    facts = run.facts
    name = clean(facts.get("gpu_name") or facts.get("device") or "")
    if not name:
        return ""
    if (memory := _number(run, "gpu_total_mib")) is not None:
        name += f", {quantity(memory, 'MiB')}"
    processes = _number(run, "world_size")
    if (here := _number(run, "processes")) is not None and processes:
        return f"{name}, the share of {int(here)} of {int(processes)} GPUs"
    return f"{name}, {int(processes)} processes" if processes and processes > 1 else name


def _length(run: Run, iterations: int | None, fact: str) -> str:
    if iterations is None:
        return ""
    text = count(iterations, "iteration")
    share, images = _number(run, fact), _number(run, "images")
    batch = _number(run, "images_per_batch")
    if share is None and images and batch:
        share = iterations * batch / images
    if share is None:
        return text
    text += f" = {epochs(share)} epochs"
    return f"{text} of {count(int(images), 'image')}" if images else text


def _observed(run: Run) -> str:
    first, last = run.first_iteration, run.last_iteration
    how = run.ending.kind.value
    if first is None or last is None:
        return f"no iteration; {how}"
    longest = max(run.series.values(), key=len)
    seen = last - first + longest.window if longest.window <= first + 1 else last + 1
    length = _length(run, seen, "epochs_observed")
    plain = {"stopped": "stopped by d2check", "running": "still running"}
    ended = plain.get(how, f"ending {how}")
    early = next((e.message for e in run.events if e.kind == _ENDED_EARLY), None)
    if early is not None:
        ended = f"ended early {clean(early)}"
    return f"{length}, iterations {first:,} to {last:,}; {ended}"


def _software(run: Run) -> str:
    names = ("torch", "detectron2", "python", "cuda")
    return ", ".join(f"{n} {clean(run.facts[n])}" for n in names if run.facts.get(n))


def _loss_curve(page: Page, run: Run) -> None:
    loss = run.series.get("total_loss")
    if loss is None or len(loss) < 2:
        return
    width = min(48, page.width - LABEL - 20)
    curve = sparkline(loss.values.tolist(), width, ascii_only=page.ascii_only)
    first, last = float(loss.values[0]), float(loss.values[-1])
    page.field("total_loss", f"{first:.3g} {curve} {last:.3g}")


def _number(run: Run, fact: str) -> float | None:
    value = run.facts.get(fact)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if math.isfinite(value) else None


# --------------------------------------------------------------------------- in full


def _in_full(page: Page, judged: RunReport, strict: bool, verbosity: int) -> None:
    """What fails the check, what only warns, and what trial rules say, each under its cause."""
    told = [f for f in judged.findings if f.ignored is None and f.verdict in _TOLD]
    present = {f.rule for f in told}
    sections: dict[str, list[Finding]] = {title: [] for title in _SECTIONS}
    for head in told:
        if head.explained_by not in present:
            sections[_section(head, _symptoms(told, head), strict)].append(head)
    for title, heads in sections.items():
        if heads:
            page.line()
            page.heading(title, "=", _SECTIONS[title])
        for number, head in enumerate(heads):
            if number:
                page.line()
            show_finding(page, judged.run, head, _symptoms(told, head), verbosity)


_TOLD = (Verdict.FAIL, Verdict.WARN, Verdict.ERROR)
_FAILURES, _WARNINGS, _TRIAL = "FAILURES", "WARNINGS", "TRIAL RULES (these never fail a check)"
_SECTIONS = {_FAILURES: "bad", _WARNINGS: "warn", _TRIAL: "quiet"}


def _section(head: Finding, symptoms: list[Finding], strict: bool) -> str:
    """A cause stands where the gravest of what it explains belongs."""
    together = (head, *symptoms)
    if any(finding.gates(strict) for finding in together):
        return _FAILURES
    return _WARNINGS if any(f.status == "stable" for f in together) else _TRIAL


def _symptoms(findings: list[Finding], cause: Finding) -> list[Finding]:
    return [f for f in findings if f.explained_by == cause.rule and f is not cause]
