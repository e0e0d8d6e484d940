"""What the shipped rules say of a config alone: of its settings and the rate that it plans."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from d2check.config.curves import ScheduleUnknown
from d2check.config.facts import config_facts
from d2check.config.schedule import planned_iterations, planned_lr
from d2check.model import Config, Ending, EndingKind, Finding, Fix, Run, Scalar, Series, Verdict
from d2check.rules.judge import judge
from d2check.rules.load import load_rules
from d2check.rules.model import Rule

WRONG = (Verdict.WARN, Verdict.FAIL, Verdict.ERROR)
# Facts that a config does not settle, and that no change of it moves.
OF_DATA = ("images", "images_before_filter", "instances", "instances_most", "instances_fewest",
           "commonest_class", "rarest_class", "object_size_px", "parameters", "world_size", "cpus",
           "configured_for", "device")  # fmt: skip
ROWS = 400


@cache
def rules_on_configs() -> tuple[Rule, ...]:
    """Those whose every series is the rate, recorded or planned, and whose facts a config tells."""
    found = []
    for rule in load_rules():
        sources = [source for read in rule.reads for source in read.sources if not read.optional]
        rates = all(s.name in ("lr", "planned_lr") for s in sources if s.room == "series")
        facts = all(s.name in (*OF_DATA, "images_per_batch", "classes", "epochs_planned",
                                  "sampler") for s in sources
                    if s.room == "facts")  # fmt: skip
        reads_config = any(s.room == "config" or s.name in ("config", "planned_lr")
                           for read in rule.reads for s in read.sources)  # fmt: skip
        if rates and facts and reads_config and rule.id.split("/")[0] in (
            "config", "schedule", "weights", "labels"
        ):  # fmt: skip
            found.append(rule)
    return tuple(found)


def run_as_planned(
    values: Mapping[str, Any], facts: Mapping[str, Scalar], *, complete: bool
) -> Run:
    """A training that did just what its config says, from the first iteration to the last."""
    batch = facts.get("images_per_batch")
    if batch is not None:
        values = {"SOLVER.IMS_PER_BATCH": batch, **values}
    config = Config("yacs", dict(values), complete=complete, matches_run=True)
    planned = planned_iterations(config)
    series = {}
    try:
        every = max(1, -(-(planned or 1) // ROWS))
        iterations = np.arange(0, planned or 1, every, dtype=np.int64)
        rate = planned_lr(config, iterations)
        series = {name: Series(name, iterations, rate, every) for name in ("lr", "planned_lr")}
    except ScheduleUnknown:
        pass
    told = {**{k: v for k, v in facts.items() if k in OF_DATA}, **config_facts(config)}
    if told.get("images") and told.get("images_per_batch") and planned:
        told["epochs_planned"] = planned * told["images_per_batch"] / told["images"]
    if "DATALOADER.SAMPLER_TRAIN" in values:
        told["sampler"] = values["DATALOADER.SAMPLER_TRAIN"]
    return Run("a config", series=series, facts=told, config=config, planned_iterations=planned,
               ending=Ending(EndingKind.FINISHED), rows=ROWS)  # fmt: skip


def wrong_in(
    values: Mapping[str, Any], facts: Mapping[str, Scalar], *, complete: bool
) -> dict[str, Finding]:
    """Rule -> finding of what warns or fails by the config alone."""
    found = judge(rules_on_configs(), run_as_planned(values, facts, complete=complete))
    return {one.rule: one for one in found if one.verdict in WRONG}


def changed(values: Mapping[str, Any], fix: Fix) -> dict[str, Any]:
    """The config with a fix."""
    return {**values, **{one.key: one.proposed for one in fix.overrides}}
