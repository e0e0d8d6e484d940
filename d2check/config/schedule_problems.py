"""Mistakes that a schedule's numbers show by themselves, before any training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from d2check.config.schedule import planned_iterations
from d2check.config.yacs import setting
from d2check.model import Config

ProblemKind = Literal[
    "step-at-end",
    "steps-unsorted",
    "step-not-positive",
    "step-past-end",
    "step-inside-warmup",
    "warmup-longer-than-run",
    "warmup-never-ends",
    "rate-not-positive",
    "end-above-base",
    "unknown-warmup",
    "decays-fail-at-end",
]
_OWN = ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR")


@dataclass(frozen=True)
class ScheduleProblem:
    """One mistake in SOLVER.

    fatal: Detectron2 stops with an error (most at the start, `decays-fail-at-end` and
    `warmup-never-ends` under RESCALE_INTERVAL in the very last step); otherwise it trains, with
    another rate than was meant. key, value: the setting at fault; limit: what it collides with
    (MAX_ITER for a step past the end); proposed: a value that mends it, None where only the user
    can know.
    """

    kind: ProblemKind
    key: str
    value: Any
    fatal: bool
    limit: float | None = None
    proposed: Any = None


def problems(config: Config) -> tuple[ScheduleProblem, ...]:
    """All mistakes of a yacs schedule, fatal ones first; nothing for a LazyConfig.

    Settings of the wrong type are not judged here (`keys.wrong_types` tells them), nor is a
    scheduler of the project's own.
    """
    if config.kind != "yacs":
        return ()
    length = planned_iterations(config)
    name = setting(config, "SOLVER.LR_SCHEDULER_NAME")
    if length is None or name not in _OWN:
        return ()
    found = [*_rate_problems(config, name), *_warmup_problems(config, length, name)]
    if name == "WarmupMultiStepLR":
        found += _step_problems(config, length)
    elif name == "WarmupStepWithFixedGammaLR":
        # fvcore reads one value past its list at progress 1, which the last scheduler.step reaches.
        found.append(ScheduleProblem("decays-fail-at-end", "SOLVER.LR_SCHEDULER_NAME", name, True))
    return tuple(sorted(found, key=lambda problem: not problem.fatal))


def _number(config: Config, key: str) -> float | None:
    value = setting(config, key)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _rate_problems(config: Config, name: str) -> Iterator[ScheduleProblem]:
    base = _number(config, "SOLVER.BASE_LR")
    if base is not None and base <= 0:
        # Cosine divides by it.
        fatal = base == 0 and name == "WarmupCosineLR"
        yield ScheduleProblem("rate-not-positive", "SOLVER.BASE_LR", base, fatal, limit=0)
    end = _number(config, "SOLVER.BASE_LR_END")
    if name == "WarmupCosineLR" and base and end is not None and not 0 <= end / base <= 1:
        yield ScheduleProblem("end-above-base", "SOLVER.BASE_LR_END", end, True, base, 0.0)


def _warmup_problems(config: Config, length: int, name: str) -> Iterator[ScheduleProblem]:
    method = setting(config, "SOLVER.WARMUP_METHOD")
    if method not in ("linear", "constant"):
        yield ScheduleProblem(
            "unknown-warmup", "SOLVER.WARMUP_METHOD", method, True, proposed="linear"
        )
    iters = _number(config, "SOLVER.WARMUP_ITERS")
    if iters is None or iters < length:
        return
    # A tenth of the run, as the stock 1x schedule's share of 1,000 in 90,000 would give too few
    # iterations in a short run.
    proposed = max(1, length // 10)
    fatal = bool(setting(config, "SOLVER.RESCALE_INTERVAL")) or name == _OWN[2]
    if method == "constant" or fatal:
        kind: ProblemKind = "warmup-never-ends"
    else:
        kind = "warmup-longer-than-run"
    yield ScheduleProblem(kind, "SOLVER.WARMUP_ITERS", iters, fatal, length, proposed)


def _step_problems(config: Config, length: int) -> Iterator[ScheduleProblem]:
    steps = setting(config, "SOLVER.STEPS")
    if not isinstance(steps, list) or not all(
        isinstance(s, (int, float)) and not isinstance(s, bool) for s in steps
    ):
        return
    mended = sorted({s for s in steps if 0 < s < length})
    key = "SOLVER.STEPS"
    used = [s for s in steps if s <= length]
    if length in used:
        yield ScheduleProblem("step-at-end", key, steps, True, length, mended)
    if any(s <= 0 for s in used):
        yield ScheduleProblem("step-not-positive", key, steps, True, 0, mended)
    if any(later <= earlier for earlier, later in pairwise(used)):
        yield ScheduleProblem("steps-unsorted", key, steps, True, None, mended)
    if any(s > length for s in steps):
        yield ScheduleProblem("step-past-end", key, steps, False, length, mended)
    warmup = _number(config, "SOLVER.WARMUP_ITERS")
    rescaled = bool(setting(config, "SOLVER.RESCALE_INTERVAL"))
    if warmup is None or rescaled:
        return
    early = [s for s in mended if s <= min(warmup, length)]
    if early:
        # The warm-up's end value is the rate *after* these steps: BASE_LR is never reached.
        yield ScheduleProblem("step-inside-warmup", key, steps, False, warmup)
