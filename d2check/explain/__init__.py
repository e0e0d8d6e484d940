"""What the fields of a training line say, as numbers and candidates; `report.explained` words it.

Facts of the formats and levels: Detectron2's utils/events.py (CommonMetricPrinter), the
initialisers of its heads, and engine/train_loop.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np

from d2check.config.facts import config_facts
from d2check.config.lr_shape import LrShape, describe_lr
from d2check.config.schedule import (
    ScheduleUnknown,
    for_world_size,
    formulas,
    planned_iterations,
    planned_lr,
)
from d2check.explain.kinds import kind_of, layers_of
from d2check.explain.readings import (
    Eta,
    Explanation,
    Known,
    Layers,
    Loss,
    LossKind,
    Memory,
    Other,
    Progress,
    Rate,
    Reading,
    Time,
    Total,
)
from d2check.model import Config, Run, Scalar, Series

__all__ = [
    "Eta",
    "Explanation",
    "Known",
    "Layers",
    "Loss",
    "LossKind",
    "Memory",
    "Other",
    "Progress",
    "Rate",
    "Reading",
    "Time",
    "Total",
    "explain",
]

_LN2 = math.log(2.0)
# Printed with three or four digits, medians of 20 iterations: chance is met within 0.02 nats.
_CHANCE_NATS = 0.02
_KEYPOINT_CELLS = 56 * 56  # MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION x its upsampling
_EARLY_SHARE = 0.1
_EARLY_ITERATIONS = 1000
_USUAL_PERIOD = 20  # Detectron2's trainers print after iterations 19, 39 ... counted from 0
_RATE_DIGITS = 5  # `lr: {:.5g}`
_TIME_NAMES = ("time", "data_time", "last_time", "last_data_time", "rank_data_time")
_OTHERS_KNOWN = ("eta_s", "eta_seconds", "wall_s", "clock", "iteration", "planned_lr")


def explain(run: Run, known: Known | None = None) -> Explanation | None:
    """What the last row of a run says; the rows before it help. None for a run without rows."""
    last = _last_row(run)
    if last is None:
        return None
    known = _with_facts(known or Known(), run)
    values = {
        name: float(one.values[-1])
        for name, one in run.series.items()
        if len(one) and int(one.iterations[-1]) == last and math.isfinite(one.values[-1])
    }
    time = _time(run.series, values, known)
    eta_s = values.get("eta_s", values.get("eta_seconds"))
    eta = None if eta_s is None else _eta(eta_s, time)
    if not known.iteration:
        return _without_iteration(run, known, values, time, eta)
    progress = _progress(last, run, known, eta)
    if eta is not None and progress.planned_from == "told" and progress.planned is not None:
        left = max(progress.planned - last - 1, 0)
        eta = replace(eta, iterations_left=left, told=True)
    rate = _rate(run.series, known) if "lr" in values else None
    early = _early(progress, rate)
    readings: list[Reading] = [one for one in (eta, progress) if one is not None]
    readings += _losses(run.series, values, known, early=early)
    readings += [one for one in (time, rate) if one is not None]
    readings += _others(values, known)
    total = run.series.get("total_loss")
    rows = len(total) if total is not None else max(map(len, run.series.values()))
    return Explanation(rows, run.first_iteration or 0, early, tuple(readings))


def _without_iteration(
    run: Run, known: Known, values: Mapping[str, float], time: Time | None, eta: Eta | None
) -> Explanation:
    """Of a line that does not tell where in the run it stands: no progress, no schedule."""
    readings: list[Reading] = [] if eta is None else [eta]
    readings += _losses(run.series, values, known, early=None)
    readings += [] if time is None else [time]
    if "lr" in values:
        readings.append(Rate(values["lr"], 1, (), False, None, None, None))
    readings += _others(values, known)
    return Explanation(1, 0, None, tuple(readings))


def _losses(
    series: Mapping[str, Series], values: Mapping[str, float], known: Known, *, early: bool | None
) -> list[Reading]:
    """The total, each loss by itself, and those of a decoder's layers together."""
    names = [n for n in values if "loss" in n and n != "total_loss"]
    found: list[Reading] = []
    if "total_loss" in values:
        found.append(_total(series, values, names))
    layered = dict(layers_of(names))
    among = {name: base for base, members in layered.items() for name in members}
    for name in names:
        base = among.get(name)
        if base is None:
            found.append(_loss(name, series, values, known, early=early))
        elif name == layered[base][0]:
            members = layered[base]
            found.append(Layers(base, members, tuple(values[one] for one in members)))
    return found


def _others(values: Mapping[str, float], known: Known) -> list[Reading]:
    found: list[Reading] = []
    if "max_mem" in values:
        found.append(Memory(values["max_mem"], known.gpu_total_mib))
    found += [
        Other(name, value)
        for name, value in values.items()
        if "loss" not in name and name not in (*_TIME_NAMES, *_OTHERS_KNOWN, "lr", "max_mem")
    ]
    return found


def _last_row(run: Run) -> int | None:
    for name in ("total_loss", "lr", "time"):
        series = run.series.get(name)
        if series is not None and len(series):
            return int(series.iterations[-1])
    return run.last_iteration


def _with_facts(known: Known, run: Run) -> Known:
    """What the user said, completed by the run's own facts and its config."""
    config = known.config
    if config is None and run.config is not None and run.config.matches_run is not False:
        config = run.config
    facts: dict[str, Scalar] = dict(run.facts)
    world_size = known.world_size or _whole(facts.get("world_size"))
    if config is not None:
        facts = {**config_facts(config, world_size), **facts}
    memory = facts.get("gpu_total_mib")
    return replace(
        known,
        images=known.images or _whole(facts.get("images")),
        images_per_batch=known.images_per_batch or _whole(facts.get("images_per_batch")),
        classes=known.classes or _whole(facts.get("classes")),
        gpu_total_mib=known.gpu_total_mib
        or (float(memory) if isinstance(memory, (int, float)) and memory else None),
        world_size=world_size,
        config=config,
    )


def _whole(value: Scalar) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


# --------------------------------------------------------------------------------- the readings


def _eta(seconds: float, time: Time | None) -> Eta:
    per_iteration = time.iteration_s if time else None
    left = round(seconds / per_iteration) if per_iteration else None
    return Eta(seconds, left, per_iteration)


def _progress(iteration: int, run: Run, known: Known, eta: Eta | None) -> Progress:
    planned = run.planned_iterations
    origin: Literal["told", "eta"] | None = "told"
    if planned is None and known.config is not None:
        planned = planned_iterations(for_world_size(known.config, known.world_size))
    if planned is None or planned <= iteration:
        planned, origin = None, None
        if eta is not None and eta.iterations_left is not None:
            planned, origin = iteration + 1 + eta.iterations_left, "eta"
    per_epoch = None
    if known.images and known.images_per_batch:
        per_epoch = known.images / known.images_per_batch
    return Progress(
        iteration,
        planned,
        origin,
        (iteration + 1) / planned if planned else None,
        (iteration + 1) / per_epoch if per_epoch else None,
        planned / per_epoch if per_epoch and planned else None,
        per_epoch,
        from_one=iteration > 0 and iteration % _USUAL_PERIOD == 0,
    )


def _early(progress: Progress, rate: Rate | None) -> bool:
    """Whether so little was trained, at so low a rate, that chance levels are normal."""
    if rate is not None and rate.readings:
        first = rate.readings[0]
        if first.warmup == "linear" and first.progress is not None and first.progress < 1:
            return True
    if progress.share is not None and progress.share > _EARLY_SHARE:
        return False
    return progress.iteration < _EARLY_ITERATIONS


def _total(series: Mapping[str, Series], values: Mapping[str, float], losses: list[str]) -> Total:
    parts = [values[name] for name in losses if not name.startswith(("val", "validation"))]
    return Total(
        values["total_loss"],
        sum(parts) if parts else None,
        len(parts),
        _first(series, "total_loss"),
    )


def _first(series: Mapping[str, Series], name: str) -> float | None:
    one = series[name]
    return float(one.values[0]) if len(one) > 1 and math.isfinite(one.values[0]) else None


def _loss(
    name: str,
    series: Mapping[str, Series],
    values: Mapping[str, float],
    known: Known,
    *,
    early: bool | None,
) -> Loss:
    value, kind = values[name], kind_of(name, values)
    first = _first(series, name)
    chance, classes, at_chance = None, None, None
    near = 5 * _CHANCE_NATS
    if kind in ("classifier", "identity"):
        background = 1 if kind == "classifier" else 0
        if known.classes:
            chance = math.log(known.classes + background)
            at_chance = abs(value - chance) <= near
        elif value >= _LN2 - _CHANCE_NATS:
            classes = max(1, round(math.exp(min(value, 20.0)) - background))
            fell = first is not None and value < first - near
            at_chance = False if fell else (None if early is not False else False)
        else:
            at_chance = False  # one class already has its chance level at ln 2
    elif kind in ("mask", "objectness", "points"):
        chance = _LN2
        at_chance = abs(value - chance) <= _CHANCE_NATS
    elif kind == "keypoint":
        chance = math.log(_KEYPOINT_CELLS)
        at_chance = abs(value - chance) <= near
    return Loss(name, value, kind, chance, at_chance, classes, first)


def _time(series: Mapping[str, Series], values: Mapping[str, float], known: Known) -> Time | None:
    whole, wait = values.get("time"), values.get("data_time")
    if whole is None and wait is None:
        return None
    data = series.get("data_time")
    rows = 1
    if wait is not None and data is not None and len(data) > 1:
        finite = data.values[np.isfinite(data.values)]
        wait, rows = float(np.mean(finite)), len(finite)
    share = min(wait / whole, 1.0) if whole and wait is not None else None
    batch, images = known.images_per_batch, known.images
    return Time(
        iteration_s=whole,
        data_s=wait,
        share=share,
        time_is_mean="time" in series and series["time"].statistic == "mean",
        data_is_median=data is not None and data.statistic == "median",
        images_per_s=batch / whole if batch and whole else None,
        epoch_s=images / batch * whole if batch and images and whole else None,
        rows=rows,
        last_s=values.get("last_time"),
        last_data_s=values.get("last_data_time"),
    )


def _rate(series: Mapping[str, Series], known: Known) -> Rate:
    lr = series["lr"]
    value = float(lr.values[-1])
    shape = describe_lr(lr.iterations, lr.values)
    readings = tuple(_shorter(one) for one in (shape.candidates or (shape,)))
    planned, agrees = None, None
    if known.config is not None:
        planned, agrees = _planned(for_world_size(known.config, known.world_size), lr)
    return Rate(
        value=value,
        rows=len(lr),
        readings=readings,
        exact=_gives(readings[0], int(lr.iterations[-1]), value),
        planned=planned,
        agrees=agrees,
        reference=_linear_rule(series, known),
    )


def _shorter(shape: LrShape) -> LrShape:
    return replace(shape, candidates=())


def _gives(shape: LrShape, iteration: int, value: float) -> bool:
    """Whether a linear warm-up gives the very digits of the line."""
    iters, factor, peak = shape.warmup_iters, shape.warmup_factor, shape.peak
    if shape.warmup != "linear" or not iters or factor is None or peak is None:
        return False
    rate = peak * (factor + (1 - factor) * min(iteration / iters, 1.0))
    if f"{rate:.{_RATE_DIGITS}g}" == f"{value:.{_RATE_DIGITS}g}":
        return True
    # Logs before v0.3 have six decimals, which say little of a rate below a millionth.
    return value == round(value, 6) >= 1e-5 and round(rate, 6) == value


def _planned(config: Config, lr: Series) -> tuple[float | None, bool | None]:
    """What the config plans at the last row, and whether the rows follow it."""
    planned: float | None = None
    for formula in formulas(config):
        try:
            plan = planned_lr(config, lr.iterations, formula=formula)
        except ScheduleUnknown:
            return None, None
        planned = float(plan[-1]) if planned is None else planned
        near = np.abs(plan - lr.values) <= 1e-3 * np.abs(plan) + 1e-9
        if bool(np.all(near | ~np.isfinite(plan))) and np.isfinite(plan).any():
            return float(plan[-1]), True
    known = planned is not None and math.isfinite(planned)
    return (planned, False) if known else (None, None)


def _linear_rule(series: Mapping[str, Series], known: Known) -> float | None:
    """BASE_LR that Detectron2's own configs would have for this batch; None for other models."""
    if known.images_per_batch is None:
        return None
    if "loss_rpn_cls" in series and {"loss_cls", "loss_cls_stage0"} & series.keys():
        return 0.02 * known.images_per_batch / 16
    if {"loss_box_reg", "loss_cls"} <= series.keys():
        return 0.01 * known.images_per_batch / 16
    return None
