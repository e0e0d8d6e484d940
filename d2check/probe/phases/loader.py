"""What loading one image costs while nothing else is done: measured apart from the training."""

from __future__ import annotations

import contextlib
import random
import statistics
import time
from typing import Any, Callable, Iterator

import numpy as np
import torch

IMAGES = 24
LIMIT_S = 2.0


def measure(loader: Any, cost: Callable[[], Any]) -> dict[str, float] | None:
    """Facts of one image's loading, medians over images spread evenly over the data set.

    `cost()` begins a measurement, its `take()` ends it: (seconds, processor seconds, seconds of
    reading or None). None where the loader has no mapper over a data set of known length. The
    random generators are as before, so the training sees what it would have seen. Raises what the
    user's mapper raises.
    """
    mapped = find_mapped(loader)
    if mapped is None or not len(mapped._dataset):
        return None
    images, load = mapped._dataset, mapped._map_func
    step = max(1, len(images) // (IMAGES + 1))
    taken = []
    started_s = time.perf_counter()
    with unchanged_randomness():
        for index in range(0, len(images), step)[: IMAGES + 1]:
            one = cost()
            load(images[index])
            taken.append(one.take())
            if time.perf_counter() - started_s > LIMIT_S:
                break
    taken = taken[1:] or taken  # the first one warms caches and lazy imports
    parts = {
        "alone_load_s_per_image": [load_s for load_s, _, _ in taken],
        "alone_load_cpu_s_per_image": [cpu_s for _, cpu_s, _ in taken],
        "alone_read_s_per_image": [read_s for _, _, read_s in taken if read_s is not None],
    }
    return {name: round(statistics.median(values), 6) for name, values in parts.items() if values}


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
