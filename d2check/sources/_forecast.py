"""What a run folder tells of the memory that batches will need."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2check.model import Event, Phase, Scalar, Series
from d2check.probe import wire

if TYPE_CHECKING:
    from d2check.checks.batches.draws import DataSet
    from d2check.checks.batches.fit import Batches
    from d2check.checks.batches.forecast import Observed

_COLUMNS = ("batch_images", "padded_pixels", "batch_instances", "batch_most_instances",
            "peak_allocated_mib", "peak_reserved_mib")  # fmt: skip
_AS_CONFIGURED = "as-configured"
_SKIPPED = "worst-batch: "  # how the note of a phase that was left out begins
_ENOUGH = 0.98  # of the GPU's memory: what is tried fits for certain only below


def memory_facts(
    path: Path,
    series: Mapping[str, Series],
    facts: Mapping[str, Scalar],
    trials: Sequence[Mapping[str, Any]],
    phases: Sequence[Phase],
) -> dict[str, Scalar]:
    """Facts of the batches to come, by the names of d2check.model.FACTS; none where too little is
    known; probabilities of 0 where the largest batch of all was tried and fits.

    trials: the records of the batches that were tried.
    """
    total = facts.get("gpu_total_mib")
    planned = _planned_iterations(facts)
    if (
        not isinstance(total, (int, float))
        or planned is None
        or not (path / wire.DATA_SET).exists()
    ):
        return {}
    worst = facts.get("worst_batch_mib")
    other = facts.get("gpu_other_mib")
    available = float(total) - (float(other) if isinstance(other, (int, float)) else 0.0)
    seen = series.get("peak_allocated_mib")
    bounds = isinstance(worst, (int, float)) and (seen is None or not (seen.values > worst).any())
    if bounds and isinstance(worst, (int, float)) and worst <= _ENOUGH * available:
        return {"overflow_probability": 0.0, "overflow_probability_low": 0.0}
    from d2check.checks.batches.forecast import Planned, fit_models, forecast

    read = _data_set(path / wire.DATA_SET)
    spans = [(p.first_iteration, p.last_iteration) for p in phases if p.name == _AS_CONFIGURED]
    rows = _rows(series, spans[0] if spans else None)
    if read is None or rows is None:
        return {}
    data, names, sampler_known = read
    tried = _sizes(trials)
    per_gpu = round(float((tried if len(tried) else rows.batches).images.max()))
    failed = _sizes([trial for trial in trials if trial.get("oom")])
    models = fit_models(_of_images(rows, per_gpu), _trials(trials), failed)
    if models is None:
        return {}
    ranks = facts.get("world_size")
    count = planned * (ranks if isinstance(ranks, int) else 1)
    told = forecast(models, data, Planned(per_gpu, count, available), names)
    if not sampler_known:  # it may never take what is drawn here
        told["overflow_probability_low"] = 0.0
    return told


def why_not_tried(events: Sequence[Event]) -> dict[str, str]:
    """Why `worst_batch_mib` is absent, as the probe told it."""
    told = (e.message for e in events if e.kind == "phase-skipped")
    reasons = [m.removeprefix(_SKIPPED) for m in told if m.startswith(_SKIPPED)]
    return {"worst_batch_mib": f"the largest batch was not tried: {reasons[0]}"} if reasons else {}


def _planned_iterations(facts: Mapping[str, Scalar]) -> int | None:
    end, start = facts.get("max_iter"), facts.get("start_iter", 0)
    if isinstance(end, int) and isinstance(start, int) and end > start:
        return end - start
    return None


def _rows(series: Mapping[str, Series], span: tuple[int, int] | None) -> Observed | None:
    import numpy as np

    from d2check.checks.batches.fit import Batches
    from d2check.checks.batches.forecast import Observed

    found = [series.get(name) for name in _COLUMNS]
    if any(one is None for one in found):
        return None
    present = [one.between(*span) if span else one for one in found if one is not None]
    common = present[0].iterations
    for one in present[1:]:
        common = np.intersect1d(common, one.iterations)
    if not len(common):
        return None
    columns = [one.values[np.isin(one.iterations, common)] for one in present]
    return Observed(Batches(*columns[:4]), columns[4], columns[5])


def _of_images(rows: Observed, images: int) -> Observed:
    """The rows with one batch of so many images; a trainer's own may gather several batches."""
    from d2check.checks.batches.fit import Batches
    from d2check.checks.batches.forecast import Observed

    keep, sizes = rows.batches.images == images, rows.batches
    kept = (sizes.images, sizes.pixels, sizes.objects, sizes.most_objects)
    return Observed(
        Batches(*(one[keep] for one in kept)), rows.allocated_mib[keep], rows.reserved_mib[keep]
    )


def _sizes(trials: Sequence[Mapping[str, Any]]) -> Batches:
    import numpy as np

    from d2check.checks.batches.fit import Batches

    names = ("images", "padded_pixels", "instances", "most_instances")
    table = [[wire.number(t[n]) for n in names] for t in trials if all(n in t for n in names)]
    return Batches(*np.asarray(table, float).reshape(len(table), len(names)).T)


def _trials(trials: Sequence[Mapping[str, Any]]) -> Observed:
    import numpy as np

    from d2check.checks.batches.fit import Batches
    from d2check.checks.batches.forecast import Observed

    names = ("images", "padded_pixels", "instances", "most_instances",
             "peak_allocated_mib", "peak_reserved_mib", "held_mib")  # fmt: skip
    table = [[wire.number(t[n]) for n in names] for t in trials if all(n in t for n in names)]
    columns = np.asarray(table, float).reshape(len(table), len(names)).T
    # What is held besides may have changed between two trials: all are told as if tried last.
    shift = columns[6][-1] - columns[6] if len(table) else columns[6]
    return Observed(Batches(*columns[:4]), columns[4] + shift, columns[5] + shift)


def _data_set(path: Path) -> tuple[DataSet, dict[int, str], bool] | None:
    """The images, file names of some, and whether the sampler is known; None for a broken file."""
    import numpy as np

    from d2check.checks.batches.draws import DataSet, transformed

    try:
        told = json.loads(path.read_bytes())
        height, width, objects = (
            np.asarray(told[name], np.int64) for name in ("height", "width", "objects")
        )
        weight = np.asarray(told["weight"], np.float64)
        if not len(weight) == len(height) == len(width) == len(objects):
            return None
        sound = min(height.min(), width.min()) > 0 and min(objects.min(), weight.min()) >= 0
        if not sound or not 0 < weight.sum() < math.inf:
            return None
        names = {int(place): str(name) for place, name in told["named"].items()}
        divisibility, transforms = max(1, int(told["divisibility"])), list(told["transforms"])
        one = np.full(1, 100.0)
        transformed(one, one, transforms, lambda: np.zeros(1))  # raises for what it does not know
        data = DataSet(
            height, width, objects, weight, transforms, bool(told["grouping"]), divisibility
        )
        return data, names, bool(told["sampler_known"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
