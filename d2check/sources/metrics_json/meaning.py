"""What the values of a metrics file stand for: which are medians, over how many iterations."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d2check.model import Series
from d2check.sources._every import every_of

WINDOW = 20  # JSONWriter(window_size=20), engine/defaults.py and utils/events.py since v0.1

# put_scalar(..., smoothing_hint=False): LRScheduler, CommonMetricPrinter, keypoint_head.
_RAW = {"lr", "eta_seconds", "kpts_num_skipped_batches"}
# EvalHook puts its results unsmoothed, under the task's name, behind the data set's if several.
_TASKS = {"bbox", "segm", "keypoints", "box_proposals", "sem_seg", "panoptic_seg", "densepose"}
# Scalars that the model's forward puts in every iteration, smoothed, whatever their name.
_OF_THE_MODEL = re.compile(
    r"^(stage\d+/)?(fast_rcnn|roi_head|roi_heads|rpn|mask_rcnn|keypoint_head|point)/"
    r"|loss|time|num_pos_anchors"
)

# A median of 20 that moves on by few samples often stays the very same number: in 43, 28, 19, 14
# and 11 of 100 steps for periods 1 to 5 (simulated, log-normal noise in float32). Raw losses
# hardly ever repeat. From period 6 on the two cannot be told apart.
_MAX_PERIOD_TOLD = 5
_RAW_REPEATS = 0.02
_MIN_STEPS_TOLD = 50


def is_raw_writer(loss: NDArray[np.float64], period: int) -> bool:
    """Whether values are surely not running medians, as JSONWriter's are.

    True only for periods up to 5 and at least 50 steps of which fewer than 2 % repeat the value
    before; where it cannot be told the answer is False, because a median may prove a fault but
    must never clear one.
    """
    if period > _MAX_PERIOD_TOLD or len(loss) <= _MIN_STEPS_TOLD:
        return False
    return bool((np.diff(loss) == 0).mean() < _RAW_REPEATS)


@dataclass(frozen=True, eq=False)
class Samples:
    """Where keys were written that always came together.

    rows: int64[n]. iterations: int64[m], strictly increasing. order: how
    to bring values into that order, int64[m] or slice(None). every: the usual distance.
    """

    rows: NDArray[np.int64]
    iterations: NDArray[np.int64]
    order: NDArray[np.int64] | slice
    every: int


def samples_at(rows: NDArray[np.int64], iterations: NDArray[np.int64], period: int) -> Samples:
    """One sample an iteration, the last that was written, whatever order the rows are in.

    iterations: int64[n], those of the rows. period: `every` where there is one sample only.
    """
    order: NDArray[np.int64] | slice = slice(None)
    if (iterations[1:] <= iterations[:-1]).any():
        sort = np.argsort(iterations, kind="stable")
        ordered = iterations[sort]
        last = np.append(ordered[1:] != ordered[:-1], True)
        order, iterations = sort[last], ordered[last]
    every = every_of(iterations, period)
    return Samples(rows, iterations, order, every)


def series_of(
    name: str,
    samples: Samples,
    values: NDArray[np.float64],
    *,
    share_of_rows: float,
    raw_writer: bool,
) -> Series:
    """The series of one key.

    values: float64[n], as written. share_of_rows: in what part of the training rows the key
    occurs; evaluations are rare.
    """
    iterations, values, every = samples.iterations, values[samples.order], samples.every
    if raw_writer or _is_raw(name, share_of_rows):
        return Series(name, iterations, values, every=every)
    # Before main, the window counts samples and not iterations (events.py, median(window_size)),
    # so that a validation loss put every 500 iterations is a median over 10,000.
    window = WINDOW if share_of_rows > 0.5 or _OF_THE_MODEL.search(name) else WINDOW * every
    return Series(name, iterations, values, every=every, window=window, statistic="median")


def _is_raw(name: str, share_of_rows: float) -> bool:
    if name in _RAW or not _TASKS.isdisjoint(name.split("/")[:-1]):
        return True
    return "/" in name and share_of_rows < 0.34 and not _OF_THE_MODEL.search(name)
