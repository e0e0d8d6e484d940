"""The config of an output folder: whether it belongs to the rows, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from d2check.config.curves import ScheduleUnknown
from d2check.config.facts import config_facts
from d2check.config.load import config_from_text, load_config
from d2check.config.match import matches, planned_series
from d2check.config.schedule import for_world_size, planned_iterations, planned_lr
from d2check.errors import InputError
from d2check.model import Config, Run, Scalar, Series
from d2check.sources._links import leads_out
from d2check.sources._unpack import Unpacked

CONFIG = "config.yaml"
_CONFIG_BYTES = 2**16


def config_in(folder: Path) -> tuple[Config | None, str | None]:
    """The config.yaml of a folder, or why there is none."""
    path = folder / CONFIG
    if not path.is_file():
        return _packed_config_in(folder)
    if not path.resolve().is_relative_to(folder.resolve()):
        return None, "config.yaml is a link that leads out of the folder"
    try:
        return load_config(path, within=folder), None
    except InputError as error:
        return None, f"config.yaml cannot be read: {error.found}"


def _packed_config_in(folder: Path) -> tuple[Config | None, str | None]:
    """The same of a folder of which every file was packed."""
    path = folder / f"{CONFIG}.gz"
    if not path.is_file() or leads_out(path, folder.resolve()):
        return None, "the folder holds no config.yaml"
    with path.open("rb") as stream:
        content = Unpacked(stream)
        text = b"".join(iter(lambda: content.read(_CONFIG_BYTES), b""))
    if content.damage:
        return None, f"config.yaml.gz cannot be unpacked ({content.damage})"
    try:
        return config_from_text(text, str(path)), None
    except InputError as error:
        return None, f"config.yaml.gz cannot be read: {error.found}"


def compared(
    config: Config,
    lr: Series | None,
    *,
    last_iteration: int | None,
    planned: int | None,
    segments: int,
    is_last: bool,
    starts: int | None,
    world_size: int | None,
) -> Config:
    """The config with whether the rows of a training fit it: it is that of the last start only.

    planned: the length that the rows themselves tell. segments: trainings in the folder. starts:
    how often a log says that one was begun.
    """
    fits, reason = matches(
        config,
        lr,
        last_iteration,
        segments=segments,
        is_last=is_last,
        starts=starts,
        world_size=world_size,
    )
    length = planned_iterations(for_world_size(config, world_size))
    if config.get("SOLVER.REFERENCE_WORLD_SIZE") and world_size is None:
        planned = None  # the length was scaled by a number of GPUs that nobody tells
    if planned is not None and length is not None and length not in (planned, planned + 1):
        fits = False
        reason = f"config.yaml plans {length:,} iterations, these rows were to become {planned:,}"
    elif fits is None and not is_last:
        fits, reason = False, "config.yaml is that of the last start, these rows are older"
    elif planned is not None and lr is None:
        fits = True
    return replace(config, matches_run=fits, mismatch=None if fits else reason)


def of_same_length(config: Config, told: int | None, world_size: int | None) -> Config:
    """A config that a log printed: that of these rows, unless they tell of another length.

    A log that goes on over a resume holds the config of its last start.
    """
    length = planned_iterations(for_world_size(config, world_size))
    if told is None or length is None or length in (told, told + 1):
        return replace(config, matches_run=True)
    reason = f"{config.source} plans {length:,} iterations, these rows were to become {told:,}"
    return replace(config, matches_run=False, mismatch=reason)


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
        config = for_world_size(config, known)  # as the training saw it, for every rule
        facts = {**config_facts(config, known), **facts}
        planned = planned_iterations(config) or planned
        lr, reason = _planned_lr(config, series, known)
        if lr is not None:
            series["planned_lr"] = lr
        elif reason:
            absent.setdefault("planned_lr", reason)
    facts |= _epochs(facts, planned, run.last_iteration)
    return replace(
        run,
        config=config,
        facts=facts,
        planned_iterations=planned,
        series=series,
        absent=absent,
    )


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


def _epochs(
    facts: Mapping[str, Scalar], planned: int | None, last: int | None
) -> dict[str, Scalar]:
    images, batch = facts.get("images"), facts.get("images_per_batch")
    if not isinstance(images, int) or not isinstance(batch, int) or not images:
        return {}
    found: dict[str, Scalar] = {}
    if planned is not None:
        found["epochs_planned"] = planned * batch / images
    if last is not None:
        step = facts.get("images_per_step")  # fewer than a batch where a share of it was trained
        seen = step if isinstance(step, int) else batch
        found["epochs_observed"] = (last + 1) * seen / images
    return found
