"""Many outputs read and judged, here one by one or by a pool of processes, in the order found."""

from __future__ import annotations

import functools
import gc
import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from d2check import sources
from d2check.errors import InputError
from d2check.model import Run, RunReport, Unreadable
from d2check.rules.folding import root_causes
from d2check.rules.judge import judge
from d2check.rules.load import load_project, load_rules, shipped_rules
from d2check.rules.model import Rule
from d2check.rules.select import matching

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future
    from io import BufferedReader

# Two workers take 0.3 s to start; at 5 to 10 ms an output a pool pays from about 100 on.
POOL_FROM = 200
_CHUNK = 32
# Finished chunks wait for their turn in memory, so no more are under way than keep all busy.
_CHUNKS_AHEAD = 4

_GARBAGE_FROM = 100_000  # objects between two collections; Python's own 700 suits small programs

Judged = RunReport | Unreadable


@dataclass(frozen=True)
class RuleChoice:
    """Which rules to judge by, small enough to be sent to another process.

    folders: rule files beside the shipped ones. project: its thresholds and ignored rules.
    expression: as pytest's -k; empty for all.
    """

    folders: tuple[Path, ...] = ()
    project: Path | None = None
    expression: str = ""


@dataclass(frozen=True)
class Chosen:
    """The rules, and what the project file changed in them, in words."""

    rules: tuple[Rule, ...]
    notes: tuple[str, ...] = ()


@functools.lru_cache(maxsize=8)
def choose(choice: RuleChoice) -> Chosen:
    """Load the rules of a choice, once in each process. Raises RuleFileError or InputError."""
    rules = load_rules([shipped_rules(), *choice.folders], shipped_examples=False)
    notes: tuple[str, ...] = ()
    if choice.project is not None:
        project = load_project(choice.project, rules)
        rules, notes = project.apply(rules), project.notes()
    if choice.expression:
        rules = matching(rules, choice.expression)
    return Chosen(rules, notes)


def judge_run(rules: Sequence[Rule], run: Run) -> RunReport:
    """One run with its findings, and of its series those that a report shows."""
    findings = judge(rules, run)
    return RunReport(_slim(run), findings, root_causes(findings))


def judge_all(
    outputs: Iterable[Path | Unreadable], choice: RuleChoice, executor: Executor | None = None
) -> Iterator[Judged]:
    """Every run of every output, in order; what cannot be read in its place.

    executor: any engine of concurrent.futures, a cluster's too, on which d2check is installed and
    the paths mean the same. Without one, few outputs are judged in this process and many by a
    pool on this machine's cores.
    """
    found = iter(outputs)
    if executor is not None:
        yield from _by_executor(found, choice, executor)
        return
    first = list(islice(found, POOL_FROM))
    workers = _cores()
    if len(first) < POOL_FROM or workers < 2:
        for output in chain(first, found):
            yield from judge_output(output, choice)
        return
    _collect_seldom()
    with _pool(workers) as pool:
        yield from _by_executor(chain(first, found), choice, pool)


def judge_output(output: Path | Unreadable, choice: RuleChoice) -> Iterator[Judged]:
    """The runs of one output, each as soon as it is judged."""
    if isinstance(output, Unreadable):
        yield output
        return
    try:
        runs = sources.read(output)
    except InputError as error:
        yield Unreadable(str(output), str(error))
        return
    for run in runs:
        yield judge_run(choose(choice).rules, run)


def judge_text(stream: BufferedReader, name: str, choice: RuleChoice) -> Iterator[Judged]:
    """The runs in rows or log lines that come from a stream; name: what to call it."""
    try:
        runs = sources.read_text(stream, name)
    except InputError as error:
        yield Unreadable(name, str(error))
        return
    for run in runs:
        yield judge_run(choose(choice).rules, run)


def _by_executor(
    outputs: Iterator[Path | Unreadable], choice: RuleChoice, executor: Executor
) -> Iterator[Judged]:
    most = _CHUNKS_AHEAD * _cores()
    pending: deque[Future[list[Judged]]] = deque()
    try:
        while chunk := list(islice(outputs, _CHUNK)):
            pending.append(executor.submit(_judge_chunk, chunk, choice))
            if len(pending) >= most:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def _judge_chunk(outputs: Sequence[Path | Unreadable], choice: RuleChoice) -> list[Judged]:
    return [judged for output in outputs for judged in judge_output(output, choice)]


@contextmanager
def _pool(workers: int) -> Iterator[Executor]:
    # A single output needs neither of these, which take 10 ms to import.
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    # Not fork: the parent's threads (rich, numpy) would leave locks behind in the children.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context(method), initializer=_begin_worker
    )
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin_worker() -> None:
    """Ctrl-C reaches every process of the terminal; the parent alone decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _collect_seldom()


def _collect_seldom() -> None:
    """Rules and findings are thousands of objects without cycles; looking for some costs time."""
    gc.freeze()
    gc.set_threshold(_GARBAGE_FROM)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _slim(run: Run) -> Run:
    """The run with the series that a report shows or counts; thousands of runs must fit."""
    bounds = [s for s in run.series.values() if len(s)]
    if not bounds:
        return replace(run, series={})
    first = min(bounds, key=lambda s: int(s.iterations[0]))
    last = max(bounds, key=lambda s: int(s.iterations[-1]))
    kept = {first.name, last.name, "total_loss"}
    return replace(run, series={k: s for k, s in run.series.items() if s.name in kept})
