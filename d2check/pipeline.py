"""From a plan or from paths to a report: `run`, `audit`, `watch`, each read as a recipe."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2check import __version__, sources
from d2check.fleet import RuleChoice, choose, judge_all, judge_run, judge_text
from d2check.misuse import shown
from d2check.model import (
    EndingKind,
    Finding,
    Report,
    RunReport,
    Summary,
    Unreadable,
    Verdict,
)
from d2check.probe.wire import ENDING, RECORDS
from d2check.rules.model import Rule
from d2check.sources.run_folder import WITH_FIX

if TYPE_CHECKING:
    from concurrent.futures import Executor
    from io import BufferedReader

    from d2check.harness.plan import Plan
    from d2check.watch import Look, Pace

OnRecord = Callable[[dict[str, Any]], None]
OnLine = Callable[[str], None]
OnTraining = Callable[[str, "Plan"], None]
OnJudged = Callable[[RunReport | Unreadable], None]

_PASTED = "standard input"
_LINKS_NAMED = 3


@dataclass(frozen=True)
class Terms:
    """How strictly to judge, and what to write down about it.

    strict: warnings and trial rules gate too. stop_at_first: report nothing after the first
    finding that gates. command: as the user typed it, secrets already masked. notes: what every
    reader must know, such as the thresholds that a project file has moved.
    """

    strict: bool = False
    stop_at_first: bool = False
    command: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def run(
    plan: Plan,
    rules: Sequence[Rule],
    terms: Terms = Terms(),
    *,
    on_record: OnRecord = lambda record: None,
    on_line: OnLine = lambda line: None,
    on_training: OnTraining = lambda words, plan: None,
) -> Report:
    """Train as planned, or until a failure of the loss is certain, then judge what was recorded.

    on_training: told before each further training (a ramp that is confirmed, a change that is
    tried) what it is for, and its plan.

    Raises UsageError where the training never began because of how it was asked for: an unknown
    config key, a data set that nobody registered. Any other ending is a finding.
    """
    # An audit needs neither, and they are a good part of what it would load.
    from d2check import verify
    from d2check.harness.launch import NOT_WRITTEN
    from d2check.training import Interrupted, train

    started = time.monotonic()
    missing: list[str] = []

    def hear(line: str) -> None:
        if line.startswith(NOT_WRITTEN):
            missing.append(line.removeprefix("d2check: "))
        on_line(line)

    ending = train(plan, rules, on_record, hear)
    judged = _judged(rules, plan)
    interrupted = ending.kind is EndingKind.INTERRUPTED
    told: tuple[str, ...] = ()
    try:
        if not interrupted and verify.wants_confirmation(plan, rules):
            verify.confirm_ramp(
                plan, rules, on_training=on_training, on_record=on_record, on_line=on_line
            )
            judged = _judged(rules, plan)
        elif not interrupted and verify.wants_lower_rate(plan, judged):
            verify.try_lower_rate(
                plan, rules, judged, on_training=on_training, on_record=on_record, on_line=on_line
            )
            judged = _judged(rules, plan)
    except Interrupted:
        interrupted, told = True, ("interrupted while the ramp was tried once more",)
    if plan.verify and not interrupted:
        (first,) = judged
        verified = verify.prove(
            plan, rules, first, on_training=on_training, on_record=on_record, on_line=on_line
        )
        judged, told, interrupted = [verified.judged], verified.notes, verified.interrupted
    return _report(
        judged,
        (),
        replace(
            terms, notes=(*terms.notes, *_left_out(plan), *_in_code(plan, judged), *told, *missing)
        ),
        seconds=time.monotonic() - started,
        interrupted=interrupted,
        neutralised=_neutralised(judged),
        replay=f"d2check audit {shown(plan.folder)}",
    )


def _left_out(plan: Plan) -> tuple[str, ...]:
    """What a run that asked for a length has not tried, of all that a run without one does."""
    from d2check.harness.phases import PHASES, RAMP

    if {phase.name for phase in plan.phases} != {*PHASES} - {RAMP}:
        return ()
    return (
        "no ramp of the rate to its peak was tried: --iterations and --budget leave it out, "
        f"--phases {','.join(PHASES)} has it tried too",
    )


def _in_code(plan: Plan, judged: Sequence[RunReport]) -> tuple[str, ...]:
    """How the first change that is proposed is written in a script that sets its config itself."""
    if plan.entry.get("kind") != "command":
        return ()
    proposed = (o for one in judged for f in one.findings for fix in f.fixes for o in fix.overrides)
    first = next(proposed, None)
    if first is None:
        return ()
    value = repr(first.proposed) if isinstance(first.proposed, str) else first.text()
    script, form = ("train_net.py", "KEY VALUE")
    if first.is_lazy:
        script, form = "lazyconfig_train_net.py", "key=value"
    return (
        f"a fix is written as {script} takes it, {form}; in a script's code that is "
        f"cfg.{first.key} = {value}",
    )


def _judged(rules: Sequence[Rule], plan: Plan) -> list[RunReport]:
    return [judge_run(rules, one) for one in sources.read(Path(shown(plan.folder)))]


def audit(
    paths: Sequence[Path],
    choice: RuleChoice,
    terms: Terms = Terms(),
    *,
    pasted: BufferedReader | None = None,
    executor: Executor | None = None,
    on_judged: OnJudged = lambda item: None,
) -> Report:
    """Judge whatever the paths hold. What cannot be read is reported and stops nothing.

    Ctrl-C ends the reading, and what was judged until then is reported. pasted: rows or log lines
    to judge before the paths, standard input perhaps. executor: see `fleet.judge_all`. on_judged:
    told of each run and of each path that could not be read.
    """
    started = time.monotonic()
    judged: list[RunReport] = []
    unreadable: list[Unreadable] = []
    interrupted = False
    links: list[Path] = []
    try:
        texts = judge_text(pasted, _PASTED, choice) if pasted is not None else ()
        outputs = sources.discover(paths, links.append)
        for item in chain(texts, judge_all(outputs, choice, executor)):
            on_judged(item)
            if isinstance(item, Unreadable):
                unreadable.append(item)
                continue
            judged.append(_with_known_proofs(item, choice))
            if terms.stop_at_first and _first_gate(judged[-1].findings, terms) is not None:
                break
    except KeyboardInterrupt:
        interrupted = True
    return _report(
        judged,
        unreadable,
        replace(terms, notes=(*terms.notes, *_not_followed(links))),
        seconds=time.monotonic() - started,
        interrupted=interrupted,
    )


def _with_known_proofs(judged: RunReport, choice: RuleChoice) -> RunReport:
    """What an earlier check tried, where its trainings lie in the run folder."""
    if not os.path.isdir(os.path.join(judged.run.source, WITH_FIX)):
        return judged
    from d2check import verify

    return verify.known_proofs(judged, choose(choice).rules)


def _not_followed(links: Sequence[Path]) -> tuple[str, ...]:
    if not links:
        return ()
    which = "1 link" if len(links) == 1 else f"{len(links):,} links"
    first = ", ".join(map(str, links[:_LINKS_NAMED]))
    more = ", ..." if len(links) > _LINKS_NAMED else ""
    text = f"{which} out of the named folders not followed: {first}{more}. Name one to have it read"
    return (text,)


def watch(
    path: Path,
    rules: Sequence[Rule],
    terms: Terms = Terms(),
    pace: Pace | None = None,
    *,
    on_look: Callable[[Look], None] = lambda look: None,
    on_wait: OnLine = lambda why: None,
) -> Report:
    """Judge a training again and again while it writes its files, until it ends.

    Ctrl-C ends the watching, and the last look is reported. on_look: told of every look,
    on_wait: once of why there is nothing to judge yet. Raises InputError for a path in which
    nothing comes to be judged.
    """
    from d2check.watch import Pace, follow

    started = time.monotonic()
    judged: list[RunReport] = []
    interrupted = False
    notes = terms.notes
    try:
        for look in follow(path, rules, pace or Pace(), on_wait):
            judged = [look.judged]
            on_look(look)
            if look.over and look.news:
                notes += (look.news,)
            if terms.stop_at_first and any(c.finding.gates(terms.strict) for c in look.changes):
                break
    except KeyboardInterrupt:
        interrupted = True
    return _report(
        judged,
        (),
        replace(terms, notes=notes),
        seconds=time.monotonic() - started,
        interrupted=interrupted,
    )


def exit_code(
    runs: Iterable[RunReport],
    unreadable: Sequence[Unreadable],
    *,
    strict: bool = False,
    interrupted: bool = False,
) -> int:
    """pytest's: 0 all passed, 1 a rule failed, 2 interrupted, 4 usage, 5 nothing judged.

    One unreadable path among others is 1. A gate in which every rule was skipped is never green,
    nor is a check of ours in which no iteration was seen: its config alone proves nothing.
    """
    runs = tuple(runs)
    findings = [finding for judged in runs for finding in judged.findings]
    if interrupted:
        return 2
    if unreadable and not findings:
        return 4
    if unreadable or any(finding.gates(strict) for finding in findings):
        return 1
    trained = [finding for judged in runs if _has_trained(judged) for finding in judged.findings]
    return 0 if any(_says_something(finding) for finding in trained) else 5


def _has_trained(judged: RunReport) -> bool:
    """False only for a run folder, by where its end is read from, without iterations."""
    run = judged.run
    read_from = run.ending.read_from or ""
    # Where d2check itself was killed there is no ending.json, and perhaps no last record.
    ours = read_from in (ENDING, Path(run.source).name) or read_from.startswith(RECORDS)
    return run.rows > 0 or not ours


def _says_something(finding: Finding) -> bool:
    return finding.ignored is None and finding.verdict is not Verdict.SKIP


# ------------------------------------------------------------------------------------ the steps


def _report(
    judged: list[RunReport],
    unreadable: Sequence[Unreadable],
    terms: Terms,
    *,
    seconds: float,
    interrupted: bool,
    neutralised: tuple[str, ...] = (),
    replay: str | None = None,
) -> Report:
    notes = terms.notes
    if terms.stop_at_first:
        judged, cut = _until_first_gate(judged, terms)
        notes += cut
    return Report(
        runs=tuple(judged),
        summary=summarise(judged, seconds),
        exit_code=exit_code(judged, unreadable, strict=terms.strict, interrupted=interrupted),
        command=terms.command,
        version=__version__,
        unreadable=tuple(unreadable),
        neutralised=neutralised,
        replay=replay,
        notes=notes,
        strict=terms.strict,
    )


def summarise(runs: Iterable[RunReport], seconds: float) -> Summary:
    """Counts over all findings of all runs; an ignored one counts as that alone."""
    findings = [finding for judged in runs for finding in judged.findings]
    live = [finding.verdict for finding in findings if finding.ignored is None]
    return Summary(
        passed=live.count(Verdict.PASS),
        failed=live.count(Verdict.FAIL),
        warned=live.count(Verdict.WARN),
        skipped=live.count(Verdict.SKIP),
        errors=live.count(Verdict.ERROR),
        ignored=len(findings) - len(live),
        seconds=seconds,
    )


def _first_gate(findings: Sequence[Finding], terms: Terms) -> int | None:
    return next((i for i, f in enumerate(findings) if f.gates(terms.strict)), None)


def _until_first_gate(
    judged: list[RunReport], terms: Terms
) -> tuple[list[RunReport], tuple[str, ...]]:
    """Causes come first, so the first finding that gates is the one to mend first."""
    for number, one in enumerate(judged):
        gate = _first_gate(one.findings, terms)
        if gate is not None:
            left = len(one.findings) - gate - 1
            cut = replace(one, findings=one.findings[: gate + 1])
            note = f"stopped at the first failure (-x); {left} more rules are not shown"
            return [*judged[:number], cut], (note,)
    return judged, ()


# ------------------------------------------------------------------------------------ small words


def _neutralised(judged: Iterable[RunReport]) -> tuple[str, ...]:
    messages = (e.message for one in judged for e in one.run.events if e.kind == "neutralised")
    return tuple(dict.fromkeys(messages))
