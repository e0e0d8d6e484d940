"""Many runs at once: grouped by what is wrong, then the runs, never a table for each."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from d2check.model import Finding, Report, RunReport, Verdict
from d2check.report._text import clean, count, listed, shortened
from d2check.report.terminal.finding import show_finding
from d2check.report.terminal.page import VERDICT_STYLES, Page

_MOST_MEMBERS = 10
_MOST_NAMES = 3
_OF_FILES = ("unreadable", "apart")
_DEEP = 2
_GRAVITY = {Verdict.FAIL: 0, Verdict.ERROR: 1, Verdict.WARN: 2}
_SEVERITY = {"high": 0, "medium": 1, "low": 2, "info": 3}

Label = Callable[[RunReport], str]


@dataclass
class _Group:
    """The runs in which one rule is what the reader should look at first."""

    head: Finding
    verdict: Verdict
    members: list[tuple[RunReport, Finding, int]] = field(default_factory=list)

    def place(self) -> tuple[int, bool, int, int, str]:
        """Where the group stands: gates, gravest and most frequent first."""
        head = self.head
        return (
            _GRAVITY[self.verdict],
            head.status == "trial",
            _SEVERITY[head.severity],
            -len(self.members),
            head.rule,
        )


def show_runs(page: Page, report: Report, verbosity: int) -> None:
    """Groups from the gravest to the least, then the healthy, in one line."""
    below = _common_folder(report.runs)
    label = _labels(report.runs, below)
    groups = _groups(report.runs)
    healthy = [r for r in report.runs if _is_healthy(r)]
    silent = [r for r in report.runs if _is_silent(r)]
    if below and verbosity >= 0:
        page.field("all below", clean(below))
    noted = [g for g in groups if verbosity < 1 and _is_note(g.head, g.verdict)]
    for group in groups:
        if group in noted:
            continue
        page.line()
        trial = ", trial" if group.head.status == "trial" else ""
        title = f"{group.verdict.value} {group.head.rule} ({group.head.severity}{trial})"
        runs = count(len(group.members), "run")
        page.heading(f"{title}: {runs}", "_", VERDICT_STYLES[group.verdict])
        page.wrapped(clean(group.head.title), style="strong")
        _members(page, group, label, verbosity)
    if verbosity >= 0:
        page.line()
        for number, group in enumerate(noted):
            page.field("" if number else "noted", _note(group), "quiet")
        _names(page, "healthy", [label(r) for r in healthy], "good", verbosity)
        _names(page, "not judged", [label(r) for r in silent], "warn", verbosity)
        _files_told_of(page, report.runs, verbosity)


def _files_told_of(page: Page, runs: Sequence[RunReport], verbosity: int) -> None:
    """Files that were not read, or not taken for those of another run, and why."""
    for kind in _OF_FILES:
        texts = [e.message.partition(". Expected ")[0] for r in runs for e in r.run.events
                 if e.kind == kind]  # fmt: skip
        shown = texts if verbosity > 0 else texts[:_MOST_NAMES]
        for number, text in enumerate(shown):
            page.field("" if number else kind, clean(text), "warn")
        if len(texts) > len(shown):
            page.field("", f"and {len(texts) - len(shown):,} more (-v shows all)", "warn")


def _labels(runs: Sequence[RunReport], below: str) -> Label:
    """`out/metrics.json`, with the number of the training where the file holds several."""
    per_source = Counter(judged.run.source for judged in runs)

    def label(judged: RunReport) -> str:
        run = judged.run
        name = clean(run.source.removeprefix(below))
        if per_source[run.source] == 1 and run.segment == 0:
            return name
        return f"{name} (training {run.segment + 1})"

    return label


def _common_folder(runs: Sequence[RunReport]) -> str:
    """The folder of all sources, with a final slash; empty where naming it saves little."""
    sources = [judged.run.source for judged in runs]
    # Not commonpath, which refuses absolute beside relative paths; cut at a slash it is the same.
    folder = os.path.commonprefix(sources).rpartition("/")[0]  # noqa: RUF071
    return f"{folder}/" if folder.count("/") >= _DEEP else ""


def _groups(runs: Sequence[RunReport]) -> list[_Group]:
    groups: dict[tuple[str, Verdict], _Group] = {}
    for judged in runs:
        told = [f for f in judged.findings if f.ignored is None and f.verdict in _GRAVITY]
        present = {f.rule for f in told}
        for finding in told:
            if finding.explained_by in present:
                continue
            explained = [f for f in told if f.explained_by == finding.rule]
            # A warning that explains a failure is as grave as what it explains.
            verdict = min((f.verdict for f in (finding, *explained)), key=_GRAVITY.__getitem__)
            group = groups.setdefault((finding.rule, verdict), _Group(finding, verdict))
            group.members.append((judged, finding, len(explained)))
    return sorted(groups.values(), key=_Group.place)


def _members(page: Page, group: _Group, label: Label, verbosity: int) -> None:
    if verbosity > 1:
        for judged, finding, _ in group.members:
            page.wrapped(label(judged))
            symptoms = [f for f in judged.findings if f.explained_by == finding.rule]
            show_finding(page, judged.run, finding, symptoms, verbosity)
        return
    # Runs of which the same is said (a sweep, copies, an error of ours) are told once.
    alike: dict[tuple[str, str, int], list[str]] = {}
    for judged, finding, explained in group.members:
        says = clean(finding.message or finding.reason or "")
        fix = next((clean(f.as_command_line()) for f in finding.fixes if f.overrides), "")
        alike.setdefault((says, fix, explained), []).append(label(judged))
    most = len(alike) if verbosity > 0 else _MOST_MEMBERS
    for (says, fix, explained), names in list(alike.items())[:most]:
        page.wrapped(listed(names, len(names) if verbosity > 0 else _MOST_NAMES), indent="  ")
        if says:
            page.line(f"      {shortened(says, page.width - 6)}")
        if fix:
            page.line(f"      fix: {page.paint(fix, 'paste')}")
        if explained:
            page.line(f"      explains {count(explained, 'more finding')}", "quiet")
    if len(alike) > most:
        left = sum(len(names) for names in list(alike.values())[most:])
        page.line(f"  and {count(left, 'more run')} (-v lists all)", "quiet")


def _is_note(finding: Finding, verdict: Verdict) -> bool:
    """Information: worth a line, and no reason to call a run anything but healthy."""
    return verdict is Verdict.WARN and finding.severity == "info"


def _note(group: _Group) -> str:
    runs = count(len(group.members), "run")
    return f"{group.head.rule}, {runs}: {clean(group.head.title)}"


def _names(page: Page, title: str, names: Sequence[str], style: str, verbosity: int) -> None:
    if names:
        most = len(names) if verbosity > 0 else _MOST_NAMES
        page.field(title, f"{count(len(names), 'run')}: {listed(names, most)}", style)


def _is_healthy(judged: RunReport) -> bool:
    live = [f for f in judged.findings if f.ignored is None]
    grave = [f for f in live if f.verdict in _GRAVITY and not _is_note(f, f.verdict)]
    return not grave and not _is_silent(judged)


def _is_silent(judged: RunReport) -> bool:
    """Whether not one rule could say anything."""
    return all(f.verdict is Verdict.SKIP or f.ignored is not None for f in judged.findings)
