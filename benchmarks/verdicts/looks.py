"""Judging while a run goes on: how often a healthy one would be ended, and when a sick one is.

`python benchmarks/verdicts/looks.py` feeds raw runs of 500 iterations, record by record, to what
`d2check run` looks with (d2check/looks.py), at every iteration at which it may look: each look by
itself may be wrong, and there are nearly fifty. A failure ends a run once it has held for so many
looks in a row. `--outputs FOLDER...` follows what trainings left behind, row by row, as `d2check
watch` would have, and prints what it would have told.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

import written
from score import RIGHT, load_generator
from side_by_side import wilson

from d2check import looks, sources
from d2check.model import Ending, EndingKind, Finding, Run, Verdict
from d2check.probe import wire
from d2check.rules.judge import judge_rule
from d2check.rules.load import load_rules
from d2check.rules.model import Rule
from d2check.watch import Told

LENGTH = 500
_STATE: dict[str, Any] = {}


@dataclass(frozen=True)
class Followed:
    """One run: at which looks each rule failed. onset: iteration at which its fault begins."""

    cls: str
    level: str
    expect: frozenset[str]
    at: tuple[int, ...]  # iterations done at each look
    failed: tuple[tuple[str, ...], ...]
    onset: int | None
    look_s: float  # processor time of one look


def follow(job: tuple[str, str, int]) -> Followed:
    """Look at one run at every iteration at which a check may look."""
    cls, level, seed = job
    made = _STATE["generator"].make(cls, level, "short", seed, **_STATE["length"])
    at, failed = [], []
    look_s = 0.0
    with tempfile.TemporaryDirectory() as place:
        folder = written.write(made, Path(place) / "run")
        growing = sources.GrowingRun(folder)
        due = looks.FIRST
        for line in (folder / wire.RECORDS).read_text().splitlines():
            record = wire.decode(line)
            growing.take(record)
            if growing.iterations >= due or looks.is_no_number(record):
                began_s = time.process_time()
                failed.append(tuple(looks.failing(_STATE["rules"], sources.so_far(growing))))
                look_s += time.process_time() - began_s
                at.append(growing.iterations)
                due = looks.next_look(growing.iterations)
    onset = made["truth"].get("onset")
    return Followed(
        cls,
        level,
        frozenset(made["expect"]),
        tuple(at),
        tuple(failed),
        None if onset is None else int(onset),
        look_s / max(len(at), 1),
    )


def ended(run: Followed, after: Mapping[str, int], every: int = 1) -> tuple[str, int] | None:
    """The rule that ends a run, and after how many iterations; only each n-th look is taken."""
    held = looks.Held(after)
    for at, failed in list(zip(run.at, run.failed, strict=True))[::every]:
        certain = held.look(failed, at, at - 1)
        if certain is not None:
            return certain.rule, at
    return None


def show(runs: Sequence[Followed], cls: str, after: Mapping[str, int], every: int) -> None:
    """One line for a class: how many of its runs are ended, by which rules, and when."""
    mine = [r for r in runs if r.cls == cls]
    ends = [(r, end) for r in mine if (end := ended(r, after, every)) is not None]
    low, high = wilson(len(ends), len(mine))
    text = f"  {cls:26s}{len(ends):5d} of {len(mine):5d} = {len(ends) / len(mine):6.2%}"
    text += f" ({low:.2%} to {high:.2%})"
    right = [
        (r, at)
        for r, (rule, at) in ends
        if any(rule.startswith(p) for flag in r.expect for p in RIGHT[flag])
    ]
    if right:
        text += f"   right {len(right) / len(mine):4.0%}, " + _when([at for _, at in right])
        late = [at - r.onset for r, at in right if r.onset is not None]
        if late:
            text += f", {int(np.median(late))} after the onset"
    by = Counter(rule for _, (rule, _) in ends)
    print(text + "   " + ", ".join(f"{rule} {count}" for rule, count in by.most_common()))


def _when(at: Sequence[int]) -> str:
    low, middle, high = np.quantile(at, (0.1, 0.5, 0.9)).astype(int)
    return f"at iteration {middle} ({low} to {high})"


def told_while_it_grew(run: Run, rules: Sequence[Rule]) -> Iterator[tuple[int, Finding]]:
    """(rows until then, what `watch` would have told) of what is wrong, as the run grew."""
    total = run.series.get("total_loss")
    told, rows = Told(), 1
    while total is not None and rows <= len(total):
        last = int(total.iterations[rows - 1])
        seen = {name: one.between(0, last) for name, one in run.series.items()}
        until = replace(run, series=seen, ending=Ending(EndingKind.RUNNING), rows=rows)
        findings = [judge_rule(rule, until).finding for rule in rules]
        for change in told.changes(findings):
            if change.finding.verdict in (Verdict.WARN, Verdict.FAIL):
                yield rows, change.finding
        rows += max(1, rows // 40)


def follow_outputs(folders: Sequence[Path]) -> None:
    """Print what watching these outputs would have told of their losses, times and memory."""
    rules = [r for r in load_rules() if r.id.startswith(("loss/", "time/", "memory/"))]
    for folder in folders:
        for run in sources.read(folder):
            total = run.series.get("total_loss")
            print(f"{folder.name}, training {run.segment + 1}: {len(total or ())} rows")
            for rows, finding in told_while_it_grew(run, rules):
                text = f"{finding.verdict.value} {finding.rule}: {finding.message}"
                print(f"  after {rows} rows  {text}")


def main() -> None:
    """Follow runs of every class and print."""
    here = Path(__file__).resolve().parent
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--generator", default=str(here / "curves.py"))
    ask.add_argument("--first-seed", type=int, default=720_000)
    ask.add_argument("--runs", type=int, default=40, help="seeds per class and level")
    ask.add_argument("--classes", default="", help="names, with commas between; all")
    ask.add_argument("--jobs", type=int, default=2)
    ask.add_argument("--keep", type=Path, help="write what every look saw into this file")
    ask.add_argument("--outputs", type=Path, nargs="+", help="follow these instead")
    given = ask.parse_args()
    if given.outputs:
        follow_outputs(given.outputs)
        return
    _STATE["generator"] = load_generator(given.generator)
    made_by = inspect.signature(_STATE["generator"].make)
    _STATE["length"] = {"n": LENGTH} if "n" in made_by.parameters else {}
    _STATE["rules"] = looks.deciding(load_rules())
    classes = [c for c in given.classes.split(",") if c] or list(_STATE["generator"].EXPECT)
    seeds = range(given.first_seed, given.first_seed + given.runs)
    jobs = [(c, level, s) for c in classes for level in _STATE["generator"].LEVELS for s in seeds]
    with Pool(given.jobs) as pool:
        runs = pool.map(follow, jobs, chunksize=4)
    if given.keep:
        given.keep.write_text(
            "".join(
                json.dumps([r.cls, r.level, sorted(r.expect), r.at, r.failed, r.onset]) + "\n"
                for r in runs
            )
        )
    own = looks.CERTAIN_AFTER
    for after, every in ((own, 1), (own, 4), (dict.fromkeys(own, 1), 1)):
        held = ", ".join(f"{rule} {count}" for rule, count in after.items())
        print(f"ends after so many looks: {held}; a look every {every * looks.EVERY} iterations")
        for cls in classes:
            show(runs, cls, after, every)
    print(f"processor time of a look: {np.median([r.look_s for r in runs]) * 1e3:.1f} ms")


if __name__ == "__main__":
    main()
