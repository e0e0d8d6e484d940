"""An output folder of Detectron2: what its files tell together, as one Run per training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from d2check.config.curves import ScheduleUnknown
from d2check.config.facts import config_facts
from d2check.config.load import load_config
from d2check.config.match import matches, planned_series
from d2check.config.schedule import for_world_size, planned_iterations, planned_lr
from d2check.errors import InputError
from d2check.model import Config, Run, Scalar, Series
from d2check.sources.metrics_json import MetricsFile, MetricsSegment, read_metrics_json

METRICS = ("metrics.json", "metrics.json.gz")
CONFIG = "config.yaml"

_NO_CONFIG_BESIDE_FILE = (
    "the run's config is not known; name the output folder, so that its config.yaml is read too"
)
_NO_CONFIG_IN_FOLDER = "the folder holds no config.yaml"
_EXPECTED = "an output folder of Detectron2 (metrics.json) or a run folder (records.jsonl)"


def is_output_folder(path: Path) -> bool:
    """Whether the folder holds metrics of Detectron2."""
    return any((path / name).is_file() for name in METRICS)


def read_folder(path: Path) -> tuple[Run, ...]:
    """One Run per training that wrote into an OUTPUT_DIR.

    Raises InputError when it holds no metrics, or none that can be read. A config.yaml that
    cannot be read is no obstacle: rules that need it are skipped with the reason.
    """
    found = [path / name for name in METRICS if (path / name).is_file()]
    if not found:
        raise InputError(
            str(path),
            "no metrics in it",
            _EXPECTED,
            "Name the folder that the config calls OUTPUT_DIR",
        )
    config, reason = _config(path)
    return _runs(read_metrics_json(found[0]), str(found[0]), config, reason)


def read_metrics_alone(path: Path) -> tuple[Run, ...]:
    """One Run per training of a metrics file named by itself. Nothing beside it is read."""
    return _runs(read_metrics_json(path), str(path), None, _NO_CONFIG_BESIDE_FILE)


def with_config(run: Run) -> Run:
    """The run with what its config, where it fits, tells: facts, length and planned rate.

    `planned_lr` stands at the iterations of `lr`, or of the losses where no rate was logged. Facts
    that were observed stay; epochs are added where images and batch are known.
    """
    config = run.config
    facts = dict(run.facts)
    planned = run.planned_iterations
    series, absent = dict(run.series), dict(run.absent)
    if config is not None and config.matches_run is False:
        absent.setdefault("planned_lr", config.mismatch or "config.yaml is of another run")
    elif config is not None:
        world_size = facts.get("world_size")
        known = world_size if isinstance(world_size, int) else None
        facts = {**config_facts(config, known), **facts}
        planned = planned_iterations(for_world_size(config, known)) or planned
        lr, reason = _planned_lr(config, series, known)
        if lr is not None:
            series["planned_lr"] = lr
        elif reason:
            absent.setdefault("planned_lr", reason)
    facts |= _epochs(facts, planned, run.last_iteration)
    return replace(run, facts=facts, planned_iterations=planned, series=series, absent=absent)


# ------------------------------------------------------------------------------------ the steps


def _runs(
    metrics: MetricsFile, source: str, config: Config | None, reason: str | None
) -> tuple[Run, ...]:
    count = len(metrics.segments)
    return tuple(
        _run(segment, number, count, source, config, reason)
        for number, segment in enumerate(metrics.segments)
    )


def _run(
    segment: MetricsSegment,
    number: int,
    count: int,
    source: str,
    config: Config | None,
    reason: str | None,
) -> Run:
    if config is not None:
        config = _judged_config(
            config, segment, segments=count, is_last=number == count - 1, world_size=None
        )
    run = with_config(
        Run(
            source=source,
            segment=number,
            series=segment.series,
            config=config,
            planned_iterations=segment.planned_iterations,
            events=segment.events,
            rows=segment.rows,
            malformed_lines=segment.malformed_lines,
            absent={"config": reason} if reason else {},
        )
    )
    return replace(run, ending=segment.ending(run.planned_iterations))


def _judged_config(
    config: Config, segment: MetricsSegment, *, segments: int, is_last: bool, world_size: int | None
) -> Config:
    """The config with whether these rows fit it: config.yaml is that of the last start only."""
    fits, reason = matches(
        config,
        segment.series.get("lr"),
        segment.last_training,
        segments=segments,
        is_last=is_last,
        world_size=world_size,
    )
    planned = planned_iterations(for_world_size(config, world_size))
    told = segment.planned_iterations
    if config.get("SOLVER.REFERENCE_WORLD_SIZE") and world_size is None:
        told = None  # the length was scaled by a number of GPUs that nobody tells
    if told is not None and planned is not None and planned not in (told, told + 1):
        fits = False
        reason = f"config.yaml plans {planned:,} iterations, these rows were to become {told:,}"
    elif fits is None and not is_last:
        fits, reason = False, "config.yaml is that of the last start, these rows are older"
    elif told is not None and "lr" not in segment.series:
        fits = True
    return replace(config, matches_run=fits, mismatch=None if fits else reason)


def _planned_lr(
    config: Config, series: Mapping[str, Series], world_size: int | None
) -> tuple[Series | None, str | None]:
    lr, loss = series.get("lr"), series.get("total_loss")
    try:
        if lr is not None:
            plan = planned_series(config, lr, world_size)
        elif loss is not None:
            values = planned_lr(for_world_size(config, world_size), loss.iterations)
            plan = Series("planned_lr", loss.iterations, values, loss.every)
        else:
            return None, None
    except ScheduleUnknown as unknown:
        return None, str(unknown)
    known = np.isfinite(plan.values)
    return replace(plan, iterations=plan.iterations[known], values=plan.values[known]), None


def _epochs(facts: dict[str, Scalar], planned: int | None, last: int | None) -> dict[str, Scalar]:
    images, batch = facts.get("images"), facts.get("images_per_batch")
    if not isinstance(images, int) or not isinstance(batch, int) or not images:
        return {}
    found: dict[str, Scalar] = {}
    if planned is not None:
        found["epochs_planned"] = planned * batch / images
    if last is not None:
        found["epochs_observed"] = (last + 1) * batch / images
    return found


def _config(folder: Path) -> tuple[Config | None, str | None]:
    path = folder / CONFIG
    if not path.is_file():
        return None, _NO_CONFIG_IN_FOLDER
    if not path.resolve().is_relative_to(folder.resolve()):
        return None, "config.yaml is a link that leads out of the folder"
    try:
        return load_config(path), None
    except InputError as error:
        return None, f"config.yaml cannot be read: {error.found}"
