"""What loading one image costs while nothing else is done: measured apart from the training."""

from __future__ import annotations

import contextlib
import math
import random
import statistics
import time
from typing import Any, Callable, Iterator

import numpy as np
import torch

FEWEST, IMAGES = 8, 24
LIMIT_S = 2.0
# Of the median: a standard error this small changes the number of workers that hide the loading
# only where it stands between two anyway.
PRECISE = 0.05
_SURE = 1.96  # standard errors to either side of what is known at 95 %


def measure(loader: Any, cost: Callable[[], Any]) -> dict[str, float] | None:
    """Facts of one image's loading, medians over images spread evenly over the data set.

    As many images as make the time precise, 8 to 24, and no more than fit into two seconds.
    `cost()` begins a measurement, its `take()` ends it: (seconds, processor seconds, seconds of
    reading or None). None where the loader has no mapper over a data set of known length. The
    random generators are as before, so the training sees what it would have seen. Raises what the
    user's mapper raises.
    """
    mapped = find_mapped(loader)
    if mapped is None or not len(mapped._dataset):
        return None
    images, load = mapped._dataset, mapped._map_func
    taken: list[tuple[float, float, float | None]] = []
    started_s = time.perf_counter()
    with unchanged_randomness():
        for index in spread(len(images), IMAGES + 1):
            one = cost()
            load(images[index])
            taken.append(one.take())
            if is_precise([load_s for load_s, _, _ in taken[1:]]):
                break
            if time.perf_counter() - started_s > LIMIT_S:
                break
    taken = taken[1:] or taken  # the first one warms caches and lazy imports
    parts = {
        "alone_load_s_per_image": [load_s for load_s, _, _ in taken],
        "alone_load_cpu_s_per_image": [cpu_s for _, cpu_s, _ in taken],
        "alone_read_s_per_image": [read_s for _, _, read_s in taken if read_s is not None],
    }
    return {name: round(statistics.median(values), 6) for name, values in parts.items() if values}


def spread(length: int, most: int) -> list[int]:
    """Up to `most` indices of a data set, every beginning of which is spread over all of it."""
    count = min(length, most)
    bits = max(1, (count - 1).bit_length())
    order = sorted(range(count), key=lambda k: int(format(k, "0%db" % bits)[::-1], 2))
    return [k * length // count for k in order]


def is_precise(seconds: list[float]) -> bool:
    """Whether the median of these times is known well enough, however they are distributed.

    By the ranks between which it lies at 95 %: cached and uncached images may make two heaps.
    """
    count = len(seconds)
    if count < FEWEST:
        return False
    ordered = sorted(seconds)
    low = max(0, int(count / 2 - _SURE * math.sqrt(count) / 2))
    width_s = ordered[count - 1 - low] - ordered[low]
    return width_s <= 2 * _SURE * PRECISE * statistics.median(ordered)


def find_mapped(loader: Any) -> Any:
    """Detectron2's MapDataset inside nested loaders and data sets; None without one."""
    for _ in range(10):
        own = getattr(loader, "__dict__", {})
        if "_map_func" in own and hasattr(own.get("_dataset"), "__getitem__"):
            return loader if hasattr(own["_dataset"], "__len__") else None
        loader = own.get("dataset", own.get("_dataset"))
        if loader is None:
            return None
    return None


@contextlib.contextmanager
def unchanged_randomness() -> Iterator[None]:
    """Python's, numpy's and torch's generators, of the GPUs too, end where they began."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if on_gpu is not None:
            torch.cuda.set_rng_state_all(on_gpu)
