"""Judging while a run goes on: false failures over all looks, and iterations to a verdict.

`python benchmarks/verdicts/looks.py` judges raw runs of 500 iterations at every tenth iteration
from 40 on, as a short run that may end early would be. A failure counts once it has held for
`--confirm` looks in a row: each look by itself may be wrong, and there are nearly fifty.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

import written
from score import RIGHT, load_generator, wilson

from d2check import sources
from d2check.model import Run, Verdict
from d2check.rules.judge import judge
from d2check.rules.load import load_rules

EVERY, FIRST = 10, 40
_STATE: dict[str, Any] = {}


def until(run: Run, last: int) -> Run:
    """The run as it was known after iteration `last`."""
    seen = {name: series.between(0, last) for name, series in run.series.items()}
    phases = tuple(replace(p, last_iteration=min(p.last_iteration, last)) for p in run.phases)
    return replace(run, series=seen, phases=phases)


def first_held(marks: Sequence[bool], confirm: int) -> int | None:
    """The look at which a mark has held for `confirm` looks in a row."""
    held = 0
    for look, mark in enumerate(marks):
        held = held + 1 if mark else 0
        if held >= confirm:
            return look
    return None


def follow(job: tuple[str, str, int]) -> dict[str, Any] | None:
    """Per loss rule, its verdicts at all looks of one run; None where the run is not long."""
    cls, level, seed = job
    made = _STATE["generator"].make(cls, level, "short", seed)
    if len(made["it"]) < 300:
        return None
    with tempfile.TemporaryDirectory() as place:
        (run,) = sources.read(written.write(made, Path(place) / "run"))
    verdicts: dict[str, list[str]] = {rule.id: [] for rule in _STATE["rules"]}
    for last in range(FIRST - 1, int(made["it"][-1]) + 1, EVERY):
        for finding in judge(_STATE["rules"], until(run, last)):
            verdicts[finding.rule].append(finding.verdict.value)
    return {"cls": cls, "level": level, "verdicts": verdicts, "expect": made["expect"],
            "onset": made["truth"].get("onset")}  # fmt: skip


def show(runs: Sequence[dict[str, Any]], cls: str, confirm: int) -> None:
    """One line for a class: failures, the right one, and when."""
    mine = [r for r in runs if r["cls"] == cls]
    at, wrong = [], 0
    for run in mine:
        right = [prefix for flag in run["expect"] for prefix in RIGHT[flag]]
        for rule, verdicts in run["verdicts"].items():
            look = first_held([v == Verdict.FAIL.value for v in verdicts], confirm)
            if look is None:
                continue
            if any(rule.startswith(p) for p in right):
                at.append(FIRST + EVERY * look)
            elif not right:
                wrong += 1
    low, high = wilson(wrong, len(mine))
    found = f"right {len(at) / len(mine):4.0%}, median iteration {int(np.median(at))}" if at else ""
    falsely = f"false failures {wrong / len(mine):.1%} ({low:.1%} to {high:.1%})"
    print(f"  {cls:22s} {len(mine):4d} runs   {found or falsely}")


def main() -> None:
    """Follow runs of every loss class and print."""
    here = Path(__file__).resolve().parent
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--generator", default=str(here / "curves.py"))
    ask.add_argument("--first-seed", type=int, default=720_000)
    ask.add_argument("--runs", type=int, default=40, help="seeds per class and level")
    ask.add_argument("--jobs", type=int, default=2)
    given = ask.parse_args()
    _STATE["generator"] = load_generator(given.generator)
    _STATE["rules"] = [rule for rule in load_rules() if rule.id.startswith("loss/")]
    losses = {"not_decreasing", "divergence", "head_stuck", "nan"}
    expected = _STATE["generator"].EXPECT
    classes = [c for c in expected if c.startswith("healthy") or expected[c] & losses]
    classes = [
        c for c in classes if "plateau_late" not in c and c not in ("late_plateau", "healthy_decay")
    ]
    seeds = range(given.first_seed, given.first_seed + given.runs)
    jobs = [(c, level, s) for c in classes for level in _STATE["generator"].LEVELS for s in seeds]
    with Pool(given.jobs) as pool:
        runs = [r for r in pool.map(follow, jobs, chunksize=4) if r is not None]
    for confirm in (1, 2, 3):
        print(f"a failure counts after {confirm} look(s) in a row, one every {EVERY} iterations")
        for cls in classes:
            show(runs, cls, confirm)


if __name__ == "__main__":
    main()
