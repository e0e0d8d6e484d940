"""Where the time of an iteration goes, and whether it stays."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from d2check.checks._rows import in_common, rank_of
from d2check.checks._words import counted
from d2check.model import Measurement, Scalar, Series

Floats = NDArray[np.float64]

PREFETCHED_SHARE = 2  # Detectron2's workers hold 2 images each: half a batch of workers refill it


def data_share(
    data_time: Series,
    time: Series,
    wall: Series | None = None,
    images_per_batch: int | None = None,
    world_size: int | None = None,
    workers: int | None = None,
    load_s_per_image: float | None = None,
    cpus: int | None = None,
    load_cpu_s_per_image: float | None = None,
    grouping: bool | None = None,
    gpu_busy: Series | None = None,
    *,
    skip_rows: int = 5,
    tail: float = 0.005,
    min_rows: int = 10,
    safety: float = 1.2,
) -> Measurement:
    """Share of the time that the training waits for data: sum of waits / sum of iterations.

    data_time, time: seconds per iteration. The first rows (workers start) are left out and the
    longest `tail` of the waits is capped, so that one hiccup is not a slow loader. Sums, not
    medians: a loader that stalls every fourth iteration has a median wait of zero. wall: the clock,
    seconds; where a wait is longer than the iteration that it belongs to (one is recent, the other
    an older mean) the clock tells how long the iteration was.

    load_s_per_image and load_cpu_s_per_image: seconds that loading an image takes, and how many
    of them the processor works; a worker that waits for a disk needs no core. grouping: batches
    of one aspect ratio (DATALOADER.ASPECT_RATIO_GROUPING). gpu_busy: share of the moments before a
    look at the GPU in which it computed.

    extras: sampling (of data_time; a low share of medians clears nothing), data_s, iteration_s,
    loaded_s (an iteration whose batch is already loaded: the device's own pace), speedup
    (iteration time / time without waiting), gpu_busy (mean, None for fewer than three looks),
    images_per_s, workers_needed (per process),
    workers_proposed (the same, as far as the processor's cores carry them), cores_needed (per
    process), cores_suffice ("yes", "no", "unknown").
    """
    waits, whole, span = _paired(data_time, time, skip_rows, wall)
    if len(waits) < min_rows:
        return Measurement(
            None, undecided=f"only {counted(len(waits), 'timed row')} after the first {skip_rows}"
        )
    ceiling = float(np.sort(waits)[int((1 - tail) * (len(waits) - 1))])
    cut = np.minimum(waits, ceiling)
    whole = whole - (waits - cut)
    share = min(float(cut.sum() / max(whole.sum(), 1e-12)), 1.0)
    data_s, iteration_s = float(cut.mean()), float(whole.mean())
    extras: dict[str, Scalar] = {
        "sampling": data_time.statistic,
        "data_s": data_s,
        "iteration_s": iteration_s,
        "loaded_s": max(iteration_s - data_s, 0.0),
        "speedup": 1 / max(1 - share, 0.01),
        "gpu_busy": _mean_of_looks(gpu_busy),
        "images_per_s": images_per_batch / iteration_s if images_per_batch else None,
    }
    extras.update(
        _workers(data_s, iteration_s, images_per_batch, world_size or 1, workers,
                 load_s_per_image, load_cpu_s_per_image, cpus, grouping, safety)
    )  # fmt: skip
    return Measurement(share, "share", span, extras)


def _paired(
    data_time: Series, time: Series, skip_rows: int, wall: Series | None = None
) -> tuple[Floats, Floats, tuple[int, int] | None]:
    """(waits, iteration times, span) on common iterations. A mean since the start is undone."""
    common, waits, whole = in_common(data_time, time)
    if time.statistic == "mean" and time.window > 2 * max(time.every, 1) and len(common) > 2:
        sums = whole * (common + 1.0)
        whole = np.concatenate((whole[:1], np.diff(sums) / np.diff(common)))
    if wall is not None and len(wall) > 1:
        pace = np.diff(wall.values) / np.diff(wall.iterations)
        clocked = np.interp(common, wall.iterations[1:], pace, left=np.nan, right=np.nan)
        whole = np.where((waits > whole) & (clocked > whole), clocked, whole)
    keep = np.isfinite(waits) & np.isfinite(whole) & (whole > 0)
    keep[:skip_rows] = False
    common, waits, whole = common[keep], waits[keep], whole[keep]
    if not len(common):
        return waits, whole, None
    return np.minimum(waits, whole), whole, (int(common[0]), int(common[-1]))


def _workers(
    data_s: float,
    iteration_s: float,
    images_per_batch: int | None,
    world_size: int,
    workers: int | None,
    load_s_per_image: float | None,
    load_cpu_s_per_image: float | None,
    cpus: int | None,
    grouping: bool | None,
    safety: float,
) -> dict[str, Scalar]:
    """Workers that hide the loading: enough throughput, and half a batch to prefetch it.

    With aspect-ratio grouping workers prefetch single images, two each, so a batch waits ready
    only from images per GPU / 2 workers on (measured on Detectron2 main). Workers may be more
    than the cores where they mostly wait: what the cores must carry is their processor time.
    """
    nothing: dict[str, Scalar] = {
        "workers_needed": None, "workers_proposed": None, "cores_needed": None,
        "cores_suffice": "unknown",
    }  # fmt: skip
    if not images_per_batch:
        return nothing
    per_gpu = max(images_per_batch // world_size, 1)
    load_s = load_s_per_image
    if load_s is None and workers is not None:
        # A starved loader delivers as fast as it can: its pace is the training's pace.
        load_s = (data_s if workers == 0 else workers * iteration_s) / per_gpu
    if load_s is None:
        return nothing
    compute_s = max(iteration_s - data_s, 0.02 * iteration_s)
    for_pace = math.ceil(load_s * per_gpu / compute_s * safety)
    for_a_batch = math.ceil(per_gpu / PREFETCHED_SHARE) if grouping is not False else 1
    needed = max(for_pace, for_a_batch, 1)
    cores = max(cpus // world_size, 1) if cpus else None
    cores_needed = min(load_cpu_s_per_image or load_s, load_s) * per_gpu / compute_s
    carried = None
    if cores is not None:
        # Each worker keeps a core busy for its share of processor time.
        busy = max(min((load_cpu_s_per_image or load_s) / load_s, 1.0), 1e-3)
        carried = max(math.floor(cores / busy), 1)
    return {
        "workers_needed": needed,
        "workers_proposed": needed if carried is None else min(needed, carried),
        "cores_needed": cores_needed,
        "cores_suffice": "unknown" if cores is None else "yes" if cores_needed <= cores else "no",
    }


def stalls(
    time: Series,
    wall: Series | None = None,
    evaluated: Series | None = None,
    eval_period: int | None = None,
    *,
    skip_rows: int = 5,
    factor: float = 5.0,
    min_rows: int = 50,
    down_s: float = 900.0,
) -> Measurement:
    """Share of the time lost in iterations that take more than `factor` times the median.

    value: time above the median spent in such iterations / all time. extras: stalls (their
    number), longest_s, median_s, every (iterations between them, median). With `wall` (seconds
    since the start, one per row) rows that are medians or means are compared with the clock
    instead: what the clock saw and the rows do not show is the loss. An evaluation between two rows
    (evaluated: its results; eval_period: TEST.EVAL_PERIOD) is none, nor are more than `down_s`
    seconds, in which the process was down rather than stalled; extras are then stretches (pairs of
    rows that took twice as long as their iterations), longest_s and median_s.
    """
    if wall is not None and time.statistic != "raw":
        known = evaluated.iterations if evaluated is not None else np.zeros(0, np.int64)
        return _hidden_from_medians(time, wall, skip_rows, known, eval_period or 0, down_s)
    if time.statistic != "raw":
        return Measurement(None, undecided="medians of several iterations hide stalls")
    values = time.values[skip_rows:]
    values = values[np.isfinite(values)]
    if len(values) < min_rows:
        return Measurement(None, undecided=f"only {counted(len(values), 'timed iteration')}")
    median = float(np.median(values))
    slow = values > factor * median
    at = np.flatnonzero(slow)
    extras: dict[str, Scalar] = {
        "stalls": int(slow.sum()),
        "longest_s": float(values.max()),
        "median_s": median,
        "every": float(np.median(np.diff(at))) if len(at) > 1 else None,
    }
    lost = float((values[slow] - median).sum() / values.sum())
    span = (int(time.iterations[min(skip_rows, len(time) - 1)]), int(time.iterations[-1]))
    return Measurement(lost, "share", span, extras)


def _hidden_from_medians(
    time: Series,
    wall: Series,
    skip_rows: int,
    evaluated: NDArray[np.int64],
    eval_period: int,
    down_s: float,
) -> Measurement:
    at = in_common(time, wall)[0][skip_rows:]
    if len(at) < 10:
        return Measurement(None, undecided=f"only {counted(len(at), 'row')} with a clock")
    length = np.diff(at)
    clock_s = np.diff(np.interp(at, wall.iterations, wall.values))
    shown_s = np.interp(at[1:], time.iterations, time.values) * length
    lost_s = np.maximum(clock_s - shown_s, 0.0)
    # Results carry the iteration before or after which they were made: both ends of a pair count.
    between = [np.searchsorted(evaluated, at + shift) for shift in (-1, 2)]
    usable = (between[1][1:] == between[0][:-1]) & (lost_s <= down_s)
    if eval_period > 0:
        usable &= (at[1:] + 1) // eval_period == at[:-1] // eval_period
    if usable.sum() < 10:
        return Measurement(None, undecided="hardly two rows without an evaluation between them")
    clock_s, shown_s, lost_s = clock_s[usable], shown_s[usable], lost_s[usable]
    extras: dict[str, Scalar] = {
        "stalls": None,
        "stretches": int((lost_s > shown_s).sum()),
        "longest_s": float(lost_s.max()),
        "median_s": float(np.median(shown_s / length[usable])),
        "every": None,
    }
    span = (int(at[0]), int(at[-1]))
    return Measurement(float(lost_s.sum() / max(clock_s.sum(), 1e-12)), "share", span, extras)


def slowdown(
    time: Series,
    data_time: Series | None = None,
    slowed: Series | None = None,
    *,
    skip_rows: int = 5,
    blocks: int = 10,
    min_rows: int = 40,
) -> Measurement:
    """By what share iterations get slower over the run (Theil-Sen over block medians).

    slowed: 1 where a look at the GPU found its clocks held down by heat or power, else 0.

    value: rise over the run / median iteration time. extras: concordance (Mann-Kendall S over
    its maximum, 1 = every block slower than the one before), in_data (rise of the waits for
    data over the same median), loader ("yes" where most of the rise is waiting for data), held_down
    (share of the looks in the second half that found the clocks held down, less that in the first;
    0 where there are few).
    """
    values = time.values[skip_rows:]
    if len(values) < min_rows:
        return Measurement(None, undecided=f"only {counted(len(values), 'timed row')}")
    rise, concordance = _trend(values, blocks)
    median = float(np.median(values))
    in_data = None
    if data_time is not None and len(data_time) - skip_rows >= min_rows:
        in_data = _trend(data_time.values[skip_rows:], blocks)[0] / median
    extras: dict[str, Scalar] = {
        "concordance": concordance,
        "in_data": in_data,
        "loader": "unknown" if in_data is None else "yes" if in_data > rise / median / 2 else "no",
        "held_down": _more_in_second_half(slowed),
        "median_s": median,
    }
    span = (int(time.iterations[skip_rows]), int(time.iterations[-1]))
    return Measurement(rise / median, "share", span, extras)


def _mean_of_looks(looks: Series | None) -> float | None:
    return None if looks is None or len(looks) < 3 else float(looks.values.mean())


def _more_in_second_half(looks: Series | None) -> float:
    if looks is None or len(looks) < 10:
        return 0.0
    middle = len(looks) // 2
    return float(looks.values[middle:].mean() - looks.values[:middle].mean())


def _trend(values: Floats, blocks: int) -> tuple[float, float]:
    """(Theil-Sen rise over the whole length, Mann-Kendall S / its maximum) of block means.

    Means of the lower 95 % rather than medians: a bursty wait has a median of zero.
    """
    usable = values[len(values) % blocks :].reshape(blocks, -1)
    kept = np.sort(usable, axis=1)[:, : max(1, int(0.95 * usable.shape[1]))]
    level = kept.mean(axis=1)
    first, second = np.triu_indices(blocks, 1)
    slopes = (level[second] - level[first]) / (second - first)
    concordance = float(np.sign(level[second] - level[first]).mean())
    return float(np.median(slopes)) * (blocks - 1), concordance


def slow_outliers(time: Series, *, skip_rows: int = 5, min_rows: int = 50) -> Measurement:
    """How much longer the slowest hundredth of the iterations takes than the median one.

    value: 99 % quantile / median. extras: p99_s, median_s. Raw rows only.
    """
    if time.statistic != "raw":
        return Measurement(None, undecided="medians of several iterations hide slow ones")
    values = time.values[skip_rows:]
    values = values[np.isfinite(values)]
    if len(values) < min_rows:
        return Measurement(None, undecided=f"only {counted(len(values), 'timed iteration')}")
    median, p99 = float(np.median(values)), float(np.quantile(values, 0.99))
    extras: dict[str, Scalar] = {"p99_s": p99, "median_s": median}
    span = (int(time.iterations[skip_rows]), int(time.iterations[-1]))
    return Measurement(p99 / max(median, 1e-12), "ratio", span, extras)


def hooks_share(hooks: Series, total: Series, *, skip_rows: int = 2) -> Measurement:
    """Share of the time spent in hooks (evaluation, checkpoints, writers): sum / sum.

    hooks, total: seconds per iteration, raw. extras: hooks_s, iteration_s (means).
    """
    spent, whole, span = _paired(hooks, total, skip_rows)
    if len(spent) < 10:
        return Measurement(None, undecided=f"only {counted(len(spent), 'timed iteration')}")
    extras: dict[str, Scalar] = {
        "hooks_s": float(spent.mean()), "iteration_s": float(whole.mean()),
    }  # fmt: skip
    return Measurement(float(spent.sum() / whole.sum()), "share", span, extras)


def slow_start(time: Series, *, first_rows: int = 3, min_rows: int = 30) -> Measurement:
    """How many later iterations the first ones cost.

    value: time of the first rows above the usual, in iterations. extras: lost_s, median_s, cost
    ("2 iterations").
    """
    if time.statistic != "raw":
        return Measurement(None, undecided="medians of several iterations hide the first ones")
    if len(time) < min_rows:
        return Measurement(None, undecided=f"only {counted(len(time), 'timed iteration')}")
    median = float(np.median(time.values[first_rows:]))
    lost = float(np.maximum(time.values[:first_rows] - median, 0.0).sum())
    cost = lost / max(median, 1e-12)
    in_words = counted(round(cost), "iteration")
    extras: dict[str, Scalar] = {"lost_s": lost, "median_s": median, "cost": in_words}
    span = (int(time.iterations[0]), int(time.iterations[first_rows - 1]))
    return Measurement(cost, "iterations", span, extras)


def straggler(
    by_rank: Mapping[str, Series],
    data: Mapping[str, Series] | None = None,
    hooks: Mapping[str, Series] | None = None,
    *,
    skip_rows: int = 5,
) -> Measurement:
    """How much slower the slowest rank's own work is than the median rank's.

    by_rank: name -> seconds of the forward pass per iteration; data, hooks: of the wait for its own
    loader and of its hooks, where they are known of every rank. The backward pass is left out:
    there a rank waits for the others, so that a slow one has the shortest. Of each part the median
    iteration counts, as one rank's evaluation or stall is none of its pace. value: slowest /
    median. extras: rank ("rank 1", the slowest), slowest_s, median_s, lost_s (their difference).
    """
    own = _paces(by_rank, skip_rows)
    for part in (data, hooks):
        more = _paces(part or {}, skip_rows)
        if set(more) == set(own):
            own = {rank: seconds + more[rank] for rank, seconds in own.items()}
    if len(own) < 2:
        return Measurement(None, undecided="only one rank was timed")
    slowest = max(own, key=lambda rank: own[rank])
    median = float(np.median([seconds for rank, seconds in own.items() if rank != slowest]))
    extras: dict[str, Scalar] = {
        "rank": f"rank {slowest}", "slowest_s": own[slowest], "median_s": median,
        "lost_s": own[slowest] - median,
    }  # fmt: skip
    return Measurement(own[slowest] / max(median, 1e-12), "ratio", None, extras)


def _paces(series: Mapping[str, Series], skip_rows: int) -> dict[int, float]:
    """Seconds of the median iteration by the rank's number, of those with rows enough."""
    return {
        rank_of(name): float(np.median(one.values[skip_rows:]))
        for name, one in series.items()
        if len(one) > 20
    }
