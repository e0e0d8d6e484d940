"""The learning rate that a config asks for, by closed formula, for every Detectron2 scheduler.

Read from Detectron2's `solver/build.py` and `solver/lr_scheduler.py` (v0.1 to main) and from its
DeepLab project; exact against the real schedulers (tests/config/test_schedule.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from d2check.config import curves
from d2check.config.curves import Floats, ScheduleUnknown
from d2check.config.yacs import section, setting
from d2check.model import Config

__all__ = [
    "Formula",
    "ScheduleUnknown",
    "for_world_size",
    "formulas",
    "planned_iterations",
    "planned_lr",
]

Formula = Literal["current", "before-0.4"]


def planned_iterations(config: Config) -> int | None:
    """The length that the schedule is made for: SOLVER.MAX_ITER, or LazyConfig's train.max_iter."""
    if config.kind == "lazy":
        length = config.get("train.max_iter")
    else:
        length = setting(config, "SOLVER.MAX_ITER")
    whole = isinstance(length, (int, float)) and not isinstance(length, bool)
    return int(length) if whole and np.isfinite(length) and length >= 1 else None


def formulas(config: Config) -> tuple[Formula, ...]:
    """The formulas that this config's Detectron2 may have used, the likeliest first.

    v0.4 replaced the schedulers; the two differ inside the warm-up and where it outlasts the run.
    No key came with v0.4, MODEL.RPN.CONV_DIMS came with v0.4.1: a dump that has it is newer, one
    that has the rest of MODEL.RPN without it is older. Projects with their own scheduler often
    kept the old one, so that the other formula is worth trying where the first does not fit.
    """
    old = (
        config.kind == "yacs"
        and config.complete
        and "MODEL.RPN.HEAD_NAME" in config.values
        and "MODEL.RPN.CONV_DIMS" not in config.values
    )
    if config.kind == "lazy":
        return ("current",)
    return ("before-0.4", "current") if old else ("current", "before-0.4")


def planned_lr(
    config: Config,
    iterations: NDArray[np.int64] | Sequence[int],
    *,
    formula: Formula | None = None,
) -> Floats:
    """The learning rate that Detectron2 logs at each iteration under this config.

    iterations: int64[n], 0-based. Returns float64[n]; NaN where there is no plan (before 0, past
    the end of the schedule). formula: by default the first of `formulas(config)`.

    What is logged is the rate of the parameter group with the most tensors: with
    SOLVER.BIAS_LR_FACTOR or a project's backbone multiplier it may be a constant multiple of this.
    SOLVER.REFERENCE_WORLD_SIZE is not applied here: see `for_world_size`.

    Raises:
        ScheduleUnknown: the config names a scheduler that is not Detectron2's, lacks what the
            schedule needs, or asks for a schedule that Detectron2 refuses to build.
    """
    t = np.asarray(iterations, np.int64)
    length = planned_iterations(config)
    if length is None:
        raise ScheduleUnknown("the config does not say how many iterations the training has")
    with np.errstate(all="ignore"):
        if config.kind == "lazy":
            lr = _lazy_lr(config, t, length)
        else:
            lr = _yacs_lr(config, t, length, formula or formulas(config)[0])
    return np.where((t >= 0) & (t <= length), lr, np.nan)


def _lazy_lr(config: Config, t: NDArray[np.int64], length: int) -> Floats:
    multiplier = section(config, "lr_multiplier")
    if not multiplier:
        raise ScheduleUnknown("the config has no lr_multiplier")
    base = config.get("optimizer.lr")
    if isinstance(base, bool) or not isinstance(base, (int, float)):
        raise ScheduleUnknown("the config gives no number for optimizer.lr")
    return base * curves.from_lazy(multiplier)(t / length)


def _yacs_lr(config: Config, t: NDArray[np.int64], length: int, formula: Formula) -> Floats:
    base = _number(config, "SOLVER.BASE_LR")
    name = setting(config, "SOLVER.LR_SCHEDULER_NAME")
    if name == "WarmupPolyLR":
        power = _number(config, "SOLVER.POLY_LR_POWER")
        floor = _number(config, "SOLVER.POLY_LR_CONSTANT_ENDING")
        decay = curves.polynomial(1.0, power)(t / length)
        warm = _old_warmup(config, t)
        return base * np.where((warm == 1.0) & (decay < floor), floor, warm * decay)
    if formula == "before-0.4":
        return _old_lr(config, t, length, base, name)
    factor, method = _number(config, "SOLVER.WARMUP_FACTOR"), _method(config)
    warmup = min(_number(config, "SOLVER.WARMUP_ITERS") / length, 1.0)
    rescale = bool(setting(config, "SOLVER.RESCALE_INTERVAL"))
    main = _main_curve(config, length, base, name)
    return base * curves.warmed_up(main, factor, warmup, method, rescale=rescale)(t / length)


def _main_curve(config: Config, length: int, base: float, name: Any) -> curves.Curve:
    gamma = _number(config, "SOLVER.GAMMA")
    if name == "WarmupMultiStepLR":
        steps = [s for s in _steps(config) if s <= length]
        return curves.multi_step([gamma**k for k in range(len(steps) + 1)], steps, length)
    if name == "WarmupCosineLR":
        # main only; v0.4 to v0.6 end at 0, which is main's default.
        end = _number(config, "SOLVER.BASE_LR_END") / base if base else np.nan
        if not 0.0 <= end <= 1.0:
            raise ScheduleUnknown("Detectron2 refuses a BASE_LR_END that is not 0 to BASE_LR")
        return curves.cosine(1.0, end)
    if name == "WarmupStepWithFixedGammaLR":
        decays = _number(config, "SOLVER.NUM_DECAYS")
        if gamma <= 0 or decays < 1 or decays != int(decays):
            raise ScheduleUnknown("Detectron2 refuses this GAMMA or NUM_DECAYS")
        return curves.fixed_gamma(1.0, gamma, int(decays))
    raise ScheduleUnknown(
        f"SOLVER.LR_SCHEDULER_NAME is {name}, a scheduler of the project's own code"
    )


def _old_lr(config: Config, t: NDArray[np.int64], length: int, base: float, name: Any) -> Floats:
    """v0.1 to v0.3: the warm-up multiplies the decayed rate, and MAX_ITER does not limit it."""
    warm = _old_warmup(config, t)
    if name == "WarmupMultiStepLR":
        steps, gamma = _steps(config), _number(config, "SOLVER.GAMMA")
        if steps != sorted(steps):
            raise ScheduleUnknown("Detectron2 refuses SOLVER.STEPS that do not rise")
        powers = np.array([gamma**k for k in range(len(steps) + 1)], np.float64)
        decayed: Floats = powers[np.searchsorted(np.asarray(steps, float), t, side="right")]
        return base * warm * decayed
    if name == "WarmupCosineLR":
        return base * warm * 0.5 * (1.0 + np.cos(np.pi * t / length))
    raise ScheduleUnknown(
        f"SOLVER.LR_SCHEDULER_NAME is {name}, a scheduler of the project's own code"
    )


def _old_warmup(config: Config, t: NDArray[np.int64]) -> Floats:
    factor, iters = _number(config, "SOLVER.WARMUP_FACTOR"), _number(config, "SOLVER.WARMUP_ITERS")
    if iters <= 0:
        return np.ones(t.shape)
    alpha = t / iters
    ramp = factor if _method(config) == "constant" else factor * (1 - alpha) + alpha
    return np.where(t >= iters, 1.0, ramp)


def _method(config: Config) -> str:
    method = setting(config, "SOLVER.WARMUP_METHOD")
    if method not in ("linear", "constant"):
        raise ScheduleUnknown(f"Detectron2 knows no warm-up method {method!r}")
    return str(method)


def _steps(config: Config) -> list[float]:
    steps = setting(config, "SOLVER.STEPS")
    if not isinstance(steps, list) or not all(
        isinstance(s, (int, float)) and not isinstance(s, bool) for s in steps
    ):
        raise ScheduleUnknown(f"SOLVER.STEPS is {steps!r}, not a list of iterations")
    return steps


def _number(config: Config, key: str) -> float:
    value = setting(config, key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ScheduleUnknown(f"{key} is {value!r}, not a number")
    return value


def for_world_size(config: Config, world_size: int | None) -> Config:
    """The config that trains on this many GPUs: what DefaultTrainer.auto_scale_workers does to it.

    config.yaml is written before that scaling. It acts only where SOLVER.REFERENCE_WORLD_SIZE is
    neither 0 (the default) nor the world size. A batch that the reference does not divide stops
    Detectron2 at the start; such a config comes back unchanged, as does one with odd values.
    """
    reference = setting(config, "SOLVER.REFERENCE_WORLD_SIZE") if config.kind == "yacs" else 0
    if not reference or not world_size or reference == world_size:
        return config
    keys = ("IMS_PER_BATCH", "BASE_LR", "MAX_ITER", "WARMUP_ITERS", "CHECKPOINT_PERIOD")
    old = {f"SOLVER.{name}": setting(config, f"SOLVER.{name}") for name in keys}
    old["TEST.EVAL_PERIOD"] = setting(config, "TEST.EVAL_PERIOD")
    steps = setting(config, "SOLVER.STEPS")
    numbers = [reference, *old.values(), *(steps if isinstance(steps, list) else [None])]
    if any(isinstance(n, bool) or not isinstance(n, (int, float)) for n in numbers):
        return config
    if old["SOLVER.IMS_PER_BATCH"] % reference:
        return config
    scale = world_size / reference
    new: dict[str, Any] = {key: round(value / scale) for key, value in old.items()}
    new["SOLVER.IMS_PER_BATCH"] = round(old["SOLVER.IMS_PER_BATCH"] * scale)
    new["SOLVER.BASE_LR"] = old["SOLVER.BASE_LR"] * scale
    new["SOLVER.STEPS"] = [round(step / scale) for step in steps]
    new["SOLVER.REFERENCE_WORLD_SIZE"] = world_size
    return dataclasses.replace(config, values={**config.values, **new})
