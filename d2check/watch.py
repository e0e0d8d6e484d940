"""Follows a training by the files that it writes, and tells what changes of its verdicts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from d2check import sources
from d2check.errors import InputError
from d2check.fleet import judge_run
from d2check.looks import CERTAIN_AFTER
from d2check.model import EndingKind, Finding, Run, RunReport, Verdict
from d2check.rules.model import Rule

# A training is looked at for days. What rests on noisy values must hold before it is told.
_NOISY = ("loss/", "time/", "memory/")
_LOOKS = 3
_MOST_SHARE = 0.01  # of the time may go into reading and judging
_GONE_FOR = 2  # looks that find nobody who writes, before a training counts as ended
# Whoever writes after these writes another training.
_BROKEN = {
    EndingKind.STOPPED,
    EndingKind.CRASHED,
    EndingKind.OUT_OF_MEMORY,
    EndingKind.NON_FINITE,
    EndingKind.KILLED,
    EndingKind.HUNG,
    EndingKind.INTERRUPTED,
}


@dataclass(frozen=True)
class Change:
    """A rule that says something else than it did. before: None where it had said nothing yet."""

    finding: Finding
    before: Verdict | None


@dataclass(frozen=True)
class Look:
    """What a look has shown. first: of this training; earlier: trainings before it in the files.

    news: what else there is to tell, in words. over: the training has ended, with the reason where
    it does not tell its end itself.
    """

    judged: RunReport
    changes: tuple[Change, ...]
    first: bool = False
    earlier: int = 0
    news: str | None = None
    over: bool = False


@dataclass(frozen=True)
class Pace:
    """Seconds. every_s: between two looks, at least. patience_s: without a new line, after which a
    training that nobody is seen to write counts as ended.
    """

    every_s: float = 5.0
    patience_s: float = 600.0
    sleep: Callable[[float], None] = time.sleep
    clock_s: Callable[[], float] = time.monotonic


class Told:
    """What was said of each rule, and for how many looks it has said something else."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._told: dict[str, Verdict] = {}
        self._held: dict[str, tuple[Verdict, int]] = {}

    def changes(self, findings: Sequence[Finding]) -> tuple[Change, ...]:
        """The findings that are news, having held for as long as their kind must."""
        found = []
        for finding in findings:
            if finding.ignored is not None:
                continue
            verdict, looks = self._held.get(finding.rule, (None, 0))
            looks = looks + 1 if verdict is finding.verdict else 1
            self._held[finding.rule] = finding.verdict, looks
            before = self._told.get(finding.rule)
            if finding.verdict is before or looks < _needed(finding.rule):
                continue
            self._told[finding.rule] = finding.verdict
            found.append(Change(finding, before))
        return tuple(found)


def _needed(rule: str) -> int:
    return CERTAIN_AFTER.get(rule, _LOOKS if rule.startswith(_NOISY) else 1)


def follow(
    path: Path,
    rules: Sequence[Rule],
    pace: Pace = Pace(),
    on_wait: Callable[[str], None] = lambda why: None,
) -> Iterator[Look]:
    """A look at the latest training of an output, whenever it has grown enough, until it ends.

    Looks grow rarer with the training, and take a hundredth of the time at most. A folder in which
    there is nothing yet is waited for; on_wait is told so, once. Raises InputError where patience
    ends without anything to judge, and at once for a path that does not exist.
    """
    if not path.exists():
        to_watch = "an output folder to watch, which may still be empty, or a file of one"
        raise InputError(str(path), "no such file or folder", to_watch, "Check the path")
    files = _Files(path, pace, on_wait)
    told, runs, due = Told(), 0, 0
    while True:
        began_s = pace.clock_s()
        found = files.read()
        if found:
            run = found[-1]
            first = len(found) != runs
            if first:
                told, runs, due = Told(), len(found), 0
            over, news = files.ending(run)
            if over or news or run.rows >= due:
                due = run.rows + max(1, run.rows // 40)
                judged = judge_run(rules, run)
                yield Look(judged, told.changes(judged.findings), first, runs - 1, news, over)
            if over:
                return
        pace.sleep(max(pace.every_s, (pace.clock_s() - began_s) / _MOST_SHARE))


class _Files:
    """The files of one output: whether they grow, and whether somebody writes them."""

    def __init__(self, path: Path, pace: Pace, on_wait: Callable[[str], None]) -> None:
        """Patience begins now."""
        self._on_wait: Callable[[str], None] | None = on_wait
        self._path = path
        self._pace = pace
        self._sizes: tuple[tuple[str, int, float], ...] = ()
        self._grown_s = pace.clock_s()
        self._written = False  # somebody was seen to hold them open
        self._gone = 0
        self._runs: tuple[Run, ...] = ()
        self._told_still = False

    def read(self) -> tuple[Run, ...]:
        """All trainings in them; none as long as there is nothing to judge and patience lasts."""
        sizes = _sizes(self._path)
        running = not self._runs or self._runs[-1].ending.kind is EndingKind.RUNNING
        if sizes == self._sizes and not running and not self._idle():
            return self._runs
        if sizes != self._sizes:
            self._sizes, self._grown_s, self._told_still = sizes, self._pace.clock_s(), False
        try:
            self._runs = sources.read(self._path)
        except InputError as error:
            if self._idle():
                raise
            if self._on_wait is not None:
                self._on_wait(error.found)
        self._on_wait = None
        return self._runs

    def ending(self, run: Run) -> tuple[bool, str | None]:
        """Whether the training is over, and what is to be told of that."""
        if run.ending.kind in _BROKEN:
            return True, None
        if sources.is_written(self._path):
            self._written, self._gone = True, 0
            if not self._idle() or self._told_still:
                return False, None
            self._told_still = True
            return False, f"nothing was written for {self._idle_min():.0f} minutes"
        self._gone += 1
        if run.ending.kind is EndingKind.FINISHED and self._gone >= _GONE_FOR:
            return True, None
        if self._written and self._gone >= _GONE_FOR:
            return True, "the process that wrote these files is gone"
        if self._idle():
            return True, f"taken as ended: nothing was written for {self._idle_min():.0f} minutes"
        return False, None

    def _idle(self) -> bool:
        return self._pace.clock_s() - self._grown_s > self._pace.patience_s

    def _idle_min(self) -> float:
        return (self._pace.clock_s() - self._grown_s) / 60


def _sizes(path: Path) -> tuple[tuple[str, int, float], ...]:
    """Name, size and time of the files of an output, by which it is seen to grow."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    found = []
    for file in files:
        try:
            status = file.stat()
        except OSError:  # gone meanwhile, or a link to nothing
            continue
        if file.is_file():
            found.append((file.name, status.st_size, status.st_mtime))
    return tuple(found)
