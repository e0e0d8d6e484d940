"""An ensemble of simple rules, each tuned on development runs: the rival that is hard to beat.

For every fault the one rule and setting is taken that finds most of its runs while it flags at
most 1.4 % of the healthy ones. The seeds it is tuned on are of the very generator that it is
scored on afterwards, which is more than a user's thumb rules can hope for.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from published import autotrainer, loss_not_decreasing, patience, three_sigma

Floats = NDArray[np.float64]
Rule = Callable[[Floats, int], set[str]]  # (total_loss, iterations between rows) -> flags

FLAGS = ("not_decreasing", "plateau", "oscillation", "divergence", "spikes")
FALSE_ALARMS = 0.014  # of the healthy development runs, at most
FIRST_SEED = 100
RUNS = {"short": 25, "long": 12}  # development runs of a class and level


@dataclass(frozen=True)
class Chosen:
    """The rule taken for one flag, and what it found of the runs it was tuned on."""

    flag: str
    name: str
    found: float
    rule: Rule


def tune(generator: ModuleType, mode: str) -> list[Chosen]:
    """The ensemble for one kind of runs of a generator with `make`, LEVELS and EXPECT."""
    faulty = {flag: _classes_with(generator.EXPECT, flag) for flag in FLAGS}
    used = sorted({"healthy", *itertools.chain(*faulty.values())})
    runs = {cls: list(_development(generator, cls, mode)) for cls in used}
    chosen = []
    for flag in FLAGS:
        sick = [run for cls in faulty[flag] for run in runs[cls]]
        best: Chosen | None = None
        for name, rule in _settings():
            if _share(rule, flag, runs["healthy"]) > FALSE_ALARMS:
                continue
            found = _share(rule, flag, sick)
            if best is None or found > best.found:
                best = Chosen(flag, name, found, rule)
        if best is not None:
            chosen.append(best)
    return chosen


def flags(chosen: Sequence[Chosen], loss: Floats, every: int) -> set[str]:
    """What the ensemble says of a run: each rule speaks for its own fault."""
    if not np.isfinite(loss).all():
        return {"nan"}
    return {one.flag for one in chosen if _fires(one.rule, one.flag, loss, every)}


def _classes_with(expected: Mapping[str, set[str]], flag: str) -> list[str]:
    """A late plateau is right when called "not decreasing", but is no example of it."""
    return [
        c for c, e in expected.items() if flag in e and (flag == "plateau" or "plateau" not in e)
    ]


def _development(generator: ModuleType, cls: str, mode: str) -> Iterator[tuple[Floats, int]]:
    for level in generator.LEVELS:
        for seed in range(FIRST_SEED, FIRST_SEED + RUNS[mode]):
            yield curve_of(generator.make(cls, level, mode, seed))


def curve_of(run: dict[str, Any]) -> tuple[Floats, int]:
    """(total_loss, iterations between rows) of a generated run."""
    loss = np.asarray(run["m"]["total_loss"], dtype=float)
    every = int(np.median(np.diff(run["it"]))) if len(loss) > 1 else 1
    return loss, max(every, 1)


def _share(rule: Rule, flag: str, runs: Sequence[tuple[Floats, int]]) -> float:
    return sum(_fires(rule, flag, *run) for run in runs) / max(len(runs), 1)


def _fires(rule: Rule, flag: str, loss: Floats, every: int) -> bool:
    if len(loss) < 10:
        return False
    said = rule(loss, every)
    return flag in said or (flag == "plateau" and "not_decreasing" in said)


def _settings() -> Iterator[tuple[str, Rule]]:
    """Every family at every setting that is tried."""
    yield from (
        (f"SageMaker {steps} steps, {percent} %, {row} in a row", _sagemaker(steps, percent, row))
        for steps, percent, row in itertools.product(
            (10, 20, 50, 100, 200), (0.1, 1, 5), (1, 2, 3, 5)
        )
    )
    yield from (
        (f"first {part:.0%} against last, ratio {flat}, rise {rise}", _first_last(part, flat, rise))
        for part, flat, rise in itertools.product(
            (0.1, 0.2, 0.3), (0.85, 0.9, 0.95, 1.0), (1.15, 1.3, 1.5, 2.0)
        )
    )
    yield from (
        (f"middle {part:.0%} against last, ratio {flat}", _middle_last(part, flat))
        for part, flat in itertools.product((0.1, 0.2, 0.3), (0.9, 0.95, 1.0, 1.05))
    )
    yield from ((f"Keras patience {n}", _keras(n)) for n in (10, 20, 50, 100, 200, 400))
    yield from (
        (f"AUTOTRAINER {epoch} rows, {zeta}, {eta}, {delta}", _unstable(epoch, zeta, eta, delta))
        for epoch, zeta, eta, delta in itertools.product(
            (1, 5, 10, 20), (0.03, 0.1, 0.2, 0.3), (0.1, 0.2), (0.002, 0.01)
        )
    )
    yield from ((f"rolling mean + {k} sd", _sigmas(k)) for k in (3, 4, 5, 6, 8, 10, 15))


def _sagemaker(steps: int, percent: float, in_a_row: int) -> Rule:
    return lambda loss, every: loss_not_decreasing(
        loss, math.ceil(steps / every), in_a_row, percent
    )


def _first_last(part: float, flat: float, rise: float) -> Rule:
    def rule(loss: Floats, every: int) -> set[str]:
        rows = max(5, int(len(loss) * part))
        first, last = loss[:rows].mean(), loss[-rows:].mean()
        tenths = sorted(tenth.mean() for tenth in np.array_split(loss, 10))
        said = {"not_decreasing"} if last > flat * first else set()
        return said | ({"divergence"} if last > rise * tenths[1] else set())

    return rule


def _middle_last(part: float, flat: float) -> Rule:
    def rule(loss: Floats, every: int) -> set[str]:
        rows, half = max(5, int(len(loss) * part)), len(loss) // 2
        middle = loss[half - rows // 2 : half + rows // 2 + 1].mean()
        return {"plateau"} if loss[-rows:].mean() > flat * middle else set()

    return rule


def _keras(rows: int) -> Rule:
    return lambda loss, every: patience(loss, rows)


def _unstable(epoch: int, zeta: float, eta: float, delta: float) -> Rule:
    return lambda loss, every: autotrainer(loss, epoch, zeta, eta, delta)


def _sigmas(sds: float) -> Rule:
    return lambda loss, every: three_sigma(loss, sds=sds)
