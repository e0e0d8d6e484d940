"""How near the memory is to its end, and whether it keeps growing."""

from __future__ import annotations

import math
import re

import numpy as np
from numpy.typing import NDArray

from d2check.checks._growth import rise_of
from d2check.checks._words import counted
from d2check.model import Measurement, Scalar, Series

Floats = NDArray[np.float64]


def headroom(
    gpu_total_mib: float,
    peak_reserved: Series | None = None,
    peak_allocated: Series | None = None,
    planned_iterations: int | None = None,
    images_per_batch: int | None = None,
    worst_batch_mib: float | None = None,
    images_that_fit: int | None = None,
    world_size: int | None = None,
    *,
    tail_share: float = 0.2,
) -> Measurement:
    """Share of the GPU's memory that is still free at the highest peak seen.

    peak_reserved, peak_allocated: MiB, per iteration or running maxima. Reserved memory is what
    decides; where only allocated memory is known (log.txt's max_mem) the true share is lower.
    worst_batch_mib: what the largest possible batch reserves where nothing else is cached. No
    batch needs more, whatever the allocator has come to keep for itself. images_that_fit: per GPU,
    as measured.

    extras: peak_mib, measured ("reserved", "allocated", or
    "needed" where the largest batch tells), forecast_mib (peak to
    expect in the planned iterations), forecast_free (share free then), fitting_batch (images over
    all GPUs, as measured), else half_batch. Without the
    largest batch the forecast extends the records of the peaks by their logarithm: it knows
    nothing of batches larger than the data has shown.
    """
    series, measured = (
        (peak_reserved, "reserved") if peak_reserved is not None else (peak_allocated, "allocated")
    )
    if series is None or not len(series):
        return Measurement(None, undecided="no memory figures were recorded")
    values = series.values[np.isfinite(series.values)]
    if not len(values) or gpu_total_mib <= 0:
        return Measurement(None, undecided="no memory figures were recorded")
    peak = float(values.max())
    seen = int(series.iterations[-1] - series.iterations[0]) + series.every
    forecast = _log_record(values, seen, planned_iterations or seen, tail_share)
    if worst_batch_mib is not None:
        used = peak_allocated.values if peak_allocated is not None else values
        needed = max(worst_batch_mib, float(np.nanmax(used)))
        forecast = needed
        if needed < peak:
            peak, measured = needed, "needed"
    extras: dict[str, Scalar] = {
        "peak_mib": peak,
        "measured": measured,
        "gpu_total_mib": gpu_total_mib,
        "forecast_mib": forecast,
        "forecast_free": 1 - forecast / gpu_total_mib,
        "fitting_batch": images_that_fit * (world_size or 1) if images_that_fit else None,
        "half_batch": None,
    }
    if not images_that_fit and images_per_batch and images_per_batch > 1:
        extras["half_batch"] = images_per_batch // 2
    span = (int(series.iterations[0]), int(series.iterations[-1]))
    return Measurement(1 - peak / gpu_total_mib, "share", span, extras)


def worst_batch(
    gpu_total_mib: float,
    peak_mib: float | None = None,
    out_of_memory: bool | None = None,
    overflow: float | None = None,
    overflow_low: float | None = None,
    model_error: float | None = None,
    images_per_batch: int | None = None,
    images_that_fit: int | None = None,
    world_size: int | None = None,
    gpu_other_mib: float = 0.0,
) -> Measurement:
    """Share of the GPU's memory that the largest possible batch leaves free.

    peak_mib: peak of reserved memory with the largest padded size, the most objects and the most
    foreground at once, an upper bound. out_of_memory: that batch did not fit. overflow,
    overflow_low: probabilities, at most and at least, that one of the planned batches needs more
    than there is; model_error: of the memory they rest on, as a share of it. images_that_fit: per
    GPU. gpu_other_mib: what is not PyTorch's.

    value: negative where more would be needed, 0 where it is only known that it does not fit.
    extras: peak_mib, overflow, likely (overflow_low, 0 where the model's error is not known),
    model_error, fitting_batch (images over all GPUs), half_batch (where no fit is known).
    """
    likely = (overflow_low or 0.0) if model_error is not None else 0.0
    if peak_mib is None and not out_of_memory and not likely:
        return Measurement(None, undecided="the largest batch was not tried")
    extras: dict[str, Scalar] = {
        "peak_mib": peak_mib,
        "overflow": overflow,
        "likely": likely,
        "model_error": model_error if model_error is not None else 1.0,
        "fitting_batch": images_that_fit * (world_size or 1) if images_that_fit else None,
        "half_batch": None,
    }
    if overflow is None and images_per_batch and images_per_batch > 1:
        extras["half_batch"] = images_per_batch // 2
    there = gpu_total_mib - (gpu_other_mib or 0.0)
    free = 0.0 if out_of_memory or peak_mib is None else (there - peak_mib) / gpu_total_mib
    return Measurement(free, "share", None, extras)


def _log_record(values: Floats, seen: int, planned: int, tail_share: float) -> float:
    """Expected highest value of `planned` draws, from `seen`: M + a ln(planned / seen).

    a is the mean excess over the upper tail (an exponential tail's scale); of running maxima,
    whose tail is not that of the draws, the steps between records give it.
    """
    peak = float(values.max())
    if planned <= seen or len(values) < 20:
        return peak
    if np.all(np.diff(values) >= 0):  # running maxima: one record in each e-fold of time
        half = float(values[len(values) // 2])
        scale = (peak - half) / math.log(2)
        scale = min(scale, (peak - float(values[len(values) // 4])) / math.log(4) or scale)
    else:
        threshold = float(np.quantile(values, 1 - tail_share))
        above = values[values > threshold]
        scale = float((above - threshold).mean()) if len(above) else 0.0
        scale = min(scale, 0.1 * peak)
    return peak + max(scale, 0.0) * math.log(planned / seen)


def growth(
    allocated: Series | None = None,
    peak: Series | None = None,
    gpu_total_mib: float | None = None,
    planned_iterations: int | None = None,
    *,
    blocks: int = 10,
    skip_share: float = 0.1,
    min_rows: int = 60,
) -> Measurement:
    """MiB by which memory grows per 1,000 iterations, after its first steps.

    allocated: MiB held after each iteration (a leak shows here plainly). peak: MiB, running
    maximum, used where allocated is not known: a leak goes on making new records where batches
    of varying size make them ever more rarely.

    extras: z (slope / standard error, of allocated), rising_blocks (share of block-to-block
    steps that go up), records_late (new maxima in the second half of the rows), surprise (-log10 of
    the probability of so many new maxima among draws that do not grow: Poisson with mean ln k over
    the last 1 - 1/k of them, Renyi 1962), octave_ratio (rise in the second half / rise in the
    quarter before), rise_mib, exhausted_at (iteration at which the GPU is full at this pace).
    """
    series, name = (allocated, "allocated") if allocated is not None else (peak, "peak")
    if series is None or len(series) < min_rows:
        rows = 0 if series is None else len(series)
        return Measurement(None, undecided=f"only {counted(rows, 'row')} with memory figures")
    skip = max(5, int(skip_share * len(series)))
    values = series.values[skip:]
    iterations = series.iterations[skip:].astype(np.float64)
    half, quarter = float(values[len(values) // 2]), float(values[len(values) // 4])
    records_late = int((np.diff(np.maximum.accumulate(values))[len(values) // 2 :] > 0).sum())
    octave = (float(values[-1]) - half) / (half - quarter) if half > quarter else None
    rise = rise_of(iterations, values, blocks)
    extras: dict[str, Scalar] = {
        "measured": name,
        "z": rise.z,
        "rising_blocks": rise.rising_blocks,
        "records_late": records_late,
        "surprise": _surprise_of_records(series.values),
        "octave_ratio": octave,
        "rise_mib": rise.amount,
        "exhausted_at": _exhausted_at(series, rise.per_iteration, gpu_total_mib),
        "planned": planned_iterations,
    }
    span = (int(iterations[0]), int(iterations[-1]))
    return Measurement(1000 * rise.per_iteration, "MiB per 1,000 iterations", span, extras)


def _surprise_of_records(peaks: Floats) -> float:
    """-log10 P of the new maxima, for the tail of the rows in which they are most surprising."""
    new = np.diff(np.maximum.accumulate(peaks), prepend=peaks[0]) > 0
    best = 0.0
    for start in (0.125, 0.2, 0.333, 0.5, 0.667, 0.75, 0.85):
        records = int(new[int(start * len(new)) :].sum())
        best = max(best, -_log10_poisson_tail(records, -math.log(start)))
    return best


def _log10_poisson_tail(count: int, mean: float) -> float:
    """log10 P(N >= count) for N Poisson with this mean."""
    if count <= 0:
        return 0.0
    terms = np.arange(count, count + 60)
    logs = terms * math.log(mean) - mean - np.array([math.lgamma(k + 1) for k in terms])
    top = float(logs.max())
    return min((top + math.log(float(np.exp(logs - top).sum()))) / math.log(10), 0.0)


def _exhausted_at(series: Series, per_iteration: float, total: float | None) -> int | None:
    if total is None or per_iteration <= 0:
        return None
    left = total - float(series.values[-1])
    return int(series.iterations[-1] + max(left, 0.0) / per_iteration)


def fragmentation(
    reserved: Series,
    allocated: Series,
    gpu_total_mib: float | None = None,
    retries: Series | None = None,
    torch: str | None = None,
    *,
    skip_rows: int = 20,
) -> Measurement:
    """Share of the reserved memory that no tensor uses at the peaks.

    reserved, allocated: MiB, peaks per iteration. extras: unused_mib, reserved_share (of the
    GPU), retries (times the allocator had to free its cache and try again), can_expand ("yes" where
    PyTorch knows segments that can grow, from 2.1 on; an older one ends at that setting).
    """
    if len(reserved) <= skip_rows or len(allocated) <= skip_rows:
        return Measurement(None, undecided="too few rows with memory figures")
    held, used = float(reserved.values[skip_rows:].max()), float(allocated.values[skip_rows:].max())
    extras: dict[str, Scalar] = {
        "unused_mib": held - used,
        "reserved_share": held / gpu_total_mib if gpu_total_mib else None,
        "can_expand": _can_expand(torch),
        "retries": float(retries.values[-1]) if retries is not None and len(retries) else None,
    }
    span = (int(reserved.iterations[skip_rows]), int(reserved.iterations[-1]))
    return Measurement(1 - used / max(held, 1e-9), "share", span, extras)


def underused(
    gpu_total_mib: float,
    peak_reserved: Series,
    images_per_batch: int | None = None,
    world_size: int | None = None,
    *,
    target: float = 0.8,
) -> Measurement:
    """Share of the GPU's memory that the training reserves at most.

    extras: batch_factor (power of two by which the batch could grow and stay under `target`),
    proposed_batch.
    """
    if not len(peak_reserved) or gpu_total_mib <= 0:
        return Measurement(None, undecided="no memory figures were recorded")
    peak = float(np.nanmax(peak_reserved.values))
    factor = 2 ** max(0, math.floor(math.log2(max(target * gpu_total_mib / max(peak, 1.0), 1.0))))
    extras: dict[str, Scalar] = {
        "peak_mib": peak,
        "batch_factor": factor,
        "proposed_batch": images_per_batch * factor if images_per_batch else None,
        "per_gpu": images_per_batch / (world_size or 1) if images_per_batch else None,
    }
    span = (int(peak_reserved.iterations[0]), int(peak_reserved.iterations[-1]))
    return Measurement(peak / gpu_total_mib, "share", span, extras)


def _can_expand(torch: str | None) -> str:
    """Whether a version of PyTorch has expandable_segments: "yes", "no" or "unknown"."""
    found = re.match(r"(\d+)\.(\d+)", torch or "")
    if found is None:
        return "unknown"
    return "yes" if (int(found[1]), int(found[2])) >= (2, 1) else "no"
