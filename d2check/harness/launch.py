"""Runs the training of a plan to its end, whatever end that is, and leaves a folder to judge."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

from d2check.errors import LaunchError
from d2check.harness import manifest
from d2check.harness.child import Child, ExitStatus, start_child
from d2check.harness.classify import Evidence, classify
from d2check.harness.host import MemoryWatch
from d2check.harness.limits import Limits, Watch
from d2check.harness.output import OutputCopy
from d2check.harness.plan import Plan
from d2check.harness.ranks import RankWatch
from d2check.harness.redact import Redactor, redactor
from d2check.harness.tail import RecordTail
from d2check.harness.unseen import AfterTraining, UnseenTraining
from d2check.model import Ending
from d2check.probe import wire

OnRecord = Callable[[dict[str, Any]], None]
OnLine = Callable[[str], None]
# Having been given a record: what to tell the probe once no further iteration is needed, as
# docs/run-folder.md says of the file `stop`; None while some are.
Enough = Callable[[dict[str, Any]], Mapping[str, Any] | None]

NOT_WRITTEN = "d2check: not written: "  # how a line of ours tells of a file of the run folder

# What keeps the streams open after the child and its workers are gone is none of ours.
LAST_OUTPUT_S = 5.0
# Between two looks for a training that the probe could not join: importing torch takes longer.
LOOK_EVERY_S = 0.3


def _nobody(_: object) -> None:
    """For callers that do not follow the run."""


def launch(
    plan: Plan,
    on_record: OnRecord = _nobody,
    on_line: OnLine = _nobody,
    *,
    enough: Enough = _nobody,
    limits: Limits | None = None,
) -> Ending:
    """Run the plan's child to its end and return how it ended; the folder is complete then.

    on_record gets every record of rank 0, on_line every line of output (redacted), both in the
    calling thread. Once `enough` tells why, the phase that trains is the last one, and the loop
    ends, at the same iteration in all ranks. In the main thread SIGINT, SIGTERM and SIGHUP end the
    child with its workers, and the ending is INTERRUPTED; a second signal does not wait for them to
    leave. An exception from a callback ends the child too, and is raised again. Raises LaunchError
    when the child cannot be started.
    """
    redact = redactor(os.environ, [*plan.entry.get("overrides", ()), *plan.command])
    environment = manifest.child_environment(plan, os.environ)
    # From here on nothing may end this half way: plan.json holds secrets until they are masked.
    with _interrupts() as asked:
        manifest.write_plan(plan)
        manifest.reserve(plan.folder)
        opened = manifest.manifest(plan, redact, environment)
        failures = [manifest.write_json(plan.folder / wire.MANIFEST, opened)]
        try:
            child = start_child(plan.command, environment, plan.cwd)
        except LaunchError as error:
            manifest.release(plan.folder)
            _close_unstarted(plan, redact, str(error))
            raise
        session = _Session(plan, child, redact, limits or Limits())
        try:
            for lines, records in session.follow(asked):
                _tell(lines, records, on_record, on_line)
                why = next(filter(None, map(enough, records)), None)
                if why is not None:
                    session.end_early(why)
        except BaseException as error:
            session.interrupted = True
            if not isinstance(error, KeyboardInterrupt):
                raise
        finally:
            asked.closing = True
            last = session.close()
            manifest.release(plan.folder)
            ending = session.ending()
            failures.append(session.write_ending(ending))
            closed = manifest.ended(opened, session.facts, session.neutralised)
            failures.append(manifest.write_json(plan.folder / wire.MANIFEST, redact.data(closed)))
            failures.append(manifest.redact_plan(plan, redact))
            failures += manifest.redact_output(plan.folder, redact)
    _tell(*last, on_record, on_line)
    for failure in filter(None, failures):
        on_line(f"{NOT_WRITTEN}{failure}")
    return ending


@dataclass
class _Asked:
    """How often we were asked to stop, and whether we are doing so for good."""

    times: int = 0
    closing: bool = False


@contextlib.contextmanager
def _interrupts() -> Iterator[_Asked]:
    """Count signals instead of being ended by them, where this thread may say so.

    No exception at an arbitrary line: files and child stay in a known state. Only the third
    signal raises, for a callback that never returns.
    """
    asked = _Asked()

    def count(_number: int, _frame: FrameType | None) -> None:
        asked.times += 1
        if asked.times > 2 and not asked.closing:
            raise KeyboardInterrupt

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            # Ignored (nohup) stays ignored; None is a handler that was not set from Python.
            if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, count)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Session:
    """One run while it is followed: its child, and what was seen of it so far."""

    def __init__(self, plan: Plan, child: Child, redact: Redactor, limits: Limits) -> None:
        """Start the clocks and the copying of output."""
        self.interrupted = False
        self.facts: dict[str, Any] = {}
        self.neutralised: list[str] = []
        self._plan = plan
        self._child = child
        self._redact = redact
        self._limits = limits
        self._start_s = time.monotonic()
        self._stdout = OutputCopy(child.stdout, plan.folder / wire.STDOUT, redact)
        self._stderr = OutputCopy(child.stderr, plan.folder / wire.STDERR, redact)
        self._copies = (self._stdout, self._stderr)
        self._tail = RecordTail(plan.folder / wire.RECORDS)
        self._watch = Watch(limits, self._start_s)
        self._ranks = RankWatch(plan.folder)
        command = child.pid if _is_command(plan) else None
        self._unseen_training = UnseenTraining(command)
        self._unseen: str | None = None
        self._memory = MemoryWatch()
        self._end: dict[str, Any] | None = None
        self._began = False
        self._after = AfterTraining(command)
        self._cut_off = False
        self._hung: str | None = None
        self._lost: int | None = None
        self._over_budget = False
        self._stop_by_s: float | None = None
        self._leaving = False
        self._seconds = 0.0
        for copy in self._copies:
            copy.start()

    def follow(self, asked: _Asked) -> Iterator[tuple[list[str], list[dict[str, Any]]]]:
        """New lines and records until the child has ended, which it is made to when it must."""
        sampled_s = looked_s = 0.0
        while self._child.wait(self._limits.poll_s) is None:
            if asked.times > 1:
                self._child.kill()
            elif asked.times and not self.interrupted:
                self.interrupted = self._leaving = True
                self._write_stop()
                self._child.ask_to_end()
            now = time.monotonic()
            if now - sampled_s > 1.0:
                self._memory.sample()
                if self._began:
                    self._after.is_run(self._pids(), now)  # it has to see them while they live
                sampled_s = now
            # Once the child is being ended a further look finds nothing, which says nothing.
            if not (self._began or self._leaving) and now - looked_s > LOOK_EVERY_S:
                self._unseen = self._unseen_training.look()
                looked_s = now
            # Records before limits: if we were suspended, they tell that all is well.
            yield self._news(now)
            if not self._leaving:
                self._enforce(now)

    def close(self) -> tuple[list[str], list[dict[str, Any]]]:
        """End whatever is left, and take in the last lines and records."""
        self._child.close()
        for copy in self._copies:
            copy.join(LAST_OUTPUT_S)
        self._seconds = time.monotonic() - self._start_s
        self._ranks.close()
        return self._news(time.monotonic())

    def ending(self) -> Ending:
        """How the child ended, from all that was seen."""
        left = self._child.exit or ExitStatus()
        # What d2check itself ended has no cause among its ranks, but for one that was lost.
        ended_by_us = (self._leaving and self._lost is None) or self.interrupted
        cause = None
        if not ended_by_us and self._recording_failed() is None:
            cause = self._ranks.cause(self._stderr.tail)
        if cause is not None:
            self._end = {"i": (self._end or {}).get("i"), **cause[1]}
        evidence = Evidence(
            end=self._end,
            rank=None if cause is None else f"rank {cause[0]} of {len(self._ranks.ranks)}",
            exit_status=None if self._cut_off else left.status,
            signal_name=None if self._cut_off else left.signal_name,
            last_iteration=self._watch.last_iteration,
            interrupted=self.interrupted,
            hung=self._hung,
            unseen=self._unseen,
            over_budget=self._over_budget,
            stderr=list(self._stderr.tail),
            memory=self._memory.evidence(),
            recording_failed=self._recording_failed(),
        )
        ending = classify(evidence)
        # The probe's words are the user's exception, which may name a secret.
        return replace(
            ending,
            message=ending.message and self._redact.text(ending.message),
            traceback=tuple(map(self._redact.text, ending.traceback)),
        )

    def end_early(self, why: Mapping[str, Any]) -> None:
        """Let the loop end, as what was to be learned of it is known."""
        if not self._leaving:
            self._write_stop(wire.encode(dict(why)))

    def write_ending(self, ending: Ending) -> str | None:
        """Write ending.json. Returns why that failed."""
        left = self._child.exit or ExitStatus()
        data = manifest.ending_data(
            ending,
            exit_status=left.status,
            # It was ours, and tells nothing of the training.
            signal=None if self._unseen or self._cut_off else left.signal_name,
            seconds=self._seconds,
            recording_failed=self._recording_failed(),
            registered=(self._end or {}).get("registered"),
            left=self._child.left,
        )
        return manifest.write_json(self._plan.folder / wire.ENDING, data)

    def _enforce(self, now: float) -> None:
        """End a child that hangs or outlives its budget."""
        if self._watch.over_budget(self._plan.budget_s, now):
            if self._stop_by_s is None:
                self._stop_by_s = now + self._limits.budget_grace_s
                self._write_stop()
            elif now > self._stop_by_s:
                self._over_budget = self._leaving = True
                self._child.ask_to_end()
                return
        if self._unseen is not None:
            self._leaving = True
            self._child.kill()
            return
        broke = self._end is not None and self._end.get("kind") not in ("stopped", "finished")
        if self._end is not None and self._after.is_run(self._pids(), now, broke):
            # What a script has after its training (an upload) is not for a short check.
            self._cut_off = self._leaving = True
            self._child.ask_to_end()
            return
        self._lost = self._ranks.lost(now, self._limits.rank_grace_s)
        if self._lost is not None:
            # The others may wait for it in a collective operation, by default for half an hour.
            self._leaving = True
            self._child.ask_to_end()
            return
        if any(copy.recording_failed for copy in self._copies):
            self._watch.lose_sight()
        self._hung = self._watch.overdue(now)
        if self._hung is not None:
            self._leaving = True
            self._child.dump_stacks()

    def _news(self, now: float) -> tuple[list[str], list[dict[str, Any]]]:
        """What was printed and recorded since the last call; remembers what the ending needs."""
        lines = [line for copy in self._copies for line in copy.take()]
        if lines:
            self._watch.saw_output(now)
        records = self._tail.poll()
        for record in records:
            self._watch.saw_record(record, now)
            self._ranks.take(0, record)
            kind = record["t"]
            self._began = self._began or kind == "begin"
            if kind in ("begin", "facts") and isinstance(record.get("facts"), Mapping):
                self.facts.update(record["facts"])
            elif kind == "note" and record.get("kind") == "neutralised":
                self.neutralised.append(str(record.get("message")))
            elif kind == "end":
                self._end = record
        return lines, records

    def _pids(self) -> list[int]:
        """The processes that train, as far as they have told theirs."""
        self._ranks.poll()
        return [rank.pid for rank in self._ranks.ranks.values() if rank.pid is not None]

    def _recording_failed(self) -> str | None:
        """Why records or output are missing: the probe's words first, then ours."""
        told = [(self._end or {}).get("recording_failed")]
        told += [copy.recording_failed for copy in self._copies]
        failed = [copy.failed for copy in self._copies]
        return next((reason for reason in told + failed if reason), None)

    def _write_stop(self, content: str = "") -> None:
        # On a full disk the file cannot be made; the signal that follows does the same, and
        # without one the loop goes on to its end.
        stop = self._plan.folder / wire.STOP
        with contextlib.suppress(OSError):
            if stop.exists():
                return
            whole = stop.with_name(wire.STOP + ".new")
            whole.write_text(content, encoding="utf-8")
            whole.replace(stop)


def _is_command(plan: Plan) -> bool:
    return plan.entry.get("kind") == "command"


def _tell(
    lines: list[str], records: list[dict[str, Any]], on_record: OnRecord, on_line: OnLine
) -> None:
    for line in lines:
        on_line(line)
    for record in records:
        on_record(record)


def _close_unstarted(plan: Plan, redact: Redactor, message: str) -> None:
    manifest.redact_plan(plan, redact)
    ending = Ending(message=message, stage="setup")
    data = manifest.ending_data(
        ending,
        exit_status=None,
        signal=None,
        seconds=0.0,
        recording_failed=None,
        registered=None,
        left=[],
    )
    manifest.write_json(plan.folder / wire.ENDING, data)
