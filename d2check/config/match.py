"""Whether a config belongs to the rows beside it.

`config.yaml` in an output folder is that of the last start only, be it a resume, an evaluation or a
start that died before its first row; the rows beside it may be older. What the rows themselves show
decides: their rate and their length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d2check.config.curves import Floats
from d2check.config.schedule import (
    Formula,
    ScheduleUnknown,
    for_world_size,
    formulas,
    planned_iterations,
    planned_lr,
)
from d2check.config.yacs import setting
from d2check.model import Config, Series

# A recorded rate is off beyond 2 % of the planned one; one odd row in fifty is forgiven (v0.5 and
# v0.6 log the first iteration's rate once after a resume).
_OFF = 0.02
_FORGIVEN = 0.02
# Compared after a free factor, shapes must agree better: another warm-up length is nearly a factor.
_SHAPE_OFF = 0.005
_SHAPE_VARIES = 1.05


@dataclass(frozen=True)
class RateFit:
    """How recorded rates follow the planned ones.

    rows: rows compared. fits: they are the planned rates. same_shape: they are a constant multiple
    (`factor`) of them, over a stretch where the plan varies enough to tell. factor: median of
    recorded / planned. formula: the generation of schedulers that fits best. shift: 0, or -1 where
    iterations are counted from 1. worst: iteration, recorded and planned rate of the row that is
    furthest off.
    """

    rows: int
    fits: bool
    same_shape: bool
    factor: float
    formula: Formula
    shift: int
    worst: tuple[int, float, float]


def rate_fit(config: Config, lr: Series) -> RateFit | None:
    """The best fit of the config's schedule to recorded rates; None when there is nothing to try.

    lr: rates as logged, per iteration or at any distance. Each formula that the config may stand
    for is tried, also one iteration later (v0.1's plain_train_net counts from 1), until one leaves
    nothing to improve.
    """
    found = []
    for formula in formulas(config):
        for shift in (0, -1):
            try:
                planned = planned_lr(config, lr.iterations + shift, formula=formula)
            except ScheduleUnknown:
                continue
            fit = _compare(lr, planned, formula, shift)
            if fit is not None and fit.fits and fit.same_shape:
                return fit
            if fit is not None:
                found.append(fit)
    return max(found, key=lambda fit: (fit.fits, fit.same_shape), default=None)


def _compare(lr: Series, planned: Floats, formula: Formula, shift: int) -> RateFit | None:
    usable = np.isfinite(lr.values) & np.isfinite(planned) & (planned > 0)
    if not usable.any():
        return None
    recorded, wanted, at = lr.values[usable], planned[usable], lr.iterations[usable]
    # Logs before v0.3 print six decimals; at tiny rates that rounding is all that there is to see.
    rounding = 5.1e-7 if np.all(recorded == np.round(recorded, 6)) else 0.0
    away = np.maximum(np.abs(recorded - wanted) - rounding, 0.0) / wanted
    factor = float(np.median(recorded / wanted))
    shape_away = np.abs(recorded - factor * wanted) - rounding
    varies = wanted.max() / wanted.min() > _SHAPE_VARIES
    worst = int(np.argmax(away))
    return RateFit(
        rows=len(recorded),
        fits=_few(away > _OFF),
        same_shape=bool(varies and factor > 0 and _few(shape_away > _SHAPE_OFF * factor * wanted)),
        factor=factor,
        formula=formula,
        shift=shift,
        worst=(int(at[worst]), float(recorded[worst]), float(wanted[worst])),
    )


def planned_series(config: Config, lr: Series, world_size: int | None = None) -> Series:
    """The planned rate at the iterations of a recorded one, as the series `planned_lr`.

    By the formula that fits the recorded rates best, so that a rate is never called wrong only
    because an older Detectron2 computed it. world_size: to redo Detectron2's scaling, where known.

    Raises:
        ScheduleUnknown: as `planned_lr`.
    """
    config = for_world_size(config, world_size)
    fit = rate_fit(config, lr)
    formula, shift = (fit.formula, fit.shift) if fit else (None, 0)
    values = planned_lr(config, lr.iterations + shift, formula=formula)
    return Series("planned_lr", lr.iterations, values, lr.every, lr.window, lr.statistic)


def _few(off: NDArray[np.bool_]) -> bool:
    return int(off.sum()) <= _FORGIVEN * len(off)


def matches(
    config: Config,
    lr: Series | None,
    last_iteration: int | None,
    *,
    segments: int = 1,
    is_last: bool = True,
    starts: int | None = None,
    world_size: int | None = None,
) -> tuple[bool | None, str | None]:
    """Whether a config belongs to a segment of rows, and if not or not known, why.

    lr, last_iteration: of the segment. segments: how many runs the rows beside the config hold;
    is_last: whether this is the last of them. starts: how often a training was started in the
    folder, where a log tells. world_size: GPUs, where known, to redo Detectron2's scaling.

    True: the rates and the length fit, or there was one start only: whatever differs then is a
    fault of the training. False: the rows are surely another run's. None: not to be told. Rates
    that differ in the *only* segment are None and not False, so that rules on the schedule may
    still speak; among several segments they are False, since the config is the last start's.
    """
    if starts == 1 and segments == 1:
        return True, None
    scaling_unknown = _asks_for_scaling(config) and world_size is None
    config = for_world_size(config, world_size)
    length = planned_iterations(config)
    if length is not None and last_iteration is not None and last_iteration > length:
        reason = (
            f"the rows go on to iteration {last_iteration:,}, but the config ends at {length:,}: "
            "it is from another start"
        )
        return (None, _SCALING) if scaling_unknown else (False, reason)
    fit = rate_fit(config, lr) if lr is not None and len(lr) else None
    if fit is None:
        return None, "no learning rate to compare the config with"
    if fit.fits:
        return True, None
    if scaling_unknown:
        return None, _SCALING
    if segments == 1 and fit.same_shape:
        return True, None
    at, recorded, planned = fit.worst
    rates = f"at iteration {at:,} the rate is {recorded:.4g}, the config plans {planned:.4g}"
    if segments == 1:
        return None, f"{rates}: another start may have overwritten the config"
    if is_last and fit.same_shape:
        return None, f"{rates}, by a constant factor of {fit.factor:.3g}"
    return False, f"{rates}: it is from another of the {segments} starts"


_SCALING = "the config is scaled to the number of GPUs (REFERENCE_WORLD_SIZE), which is not known"


def _asks_for_scaling(config: Config) -> bool:
    return config.kind == "yacs" and bool(setting(config, "SOLVER.REFERENCE_WORLD_SIZE"))
