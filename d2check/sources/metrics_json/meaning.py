"""What the values of a metrics file stand for: which are medians, over how many iterations."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from d2check.model import Series

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


def series_of(
    name: str,
    iterations: NDArray[np.int64],
    values: NDArray[np.float64],
    *,
    period: int,
    share_of_rows: float,
    raw_writer: bool,
) -> Series:
    """The series of one key, sorted, one value an iteration (the last that was written).

    share_of_rows: in what part of the training rows the key occurs; evaluations are rare.
    """
    if len(iterations) > 1 and not (np.diff(iterations) > 0).all():
        order = np.argsort(iterations, kind="stable")
        iterations, values = iterations[order], values[order]
        last = np.append(iterations[1:] != iterations[:-1], True)
        iterations, values = iterations[last], values[last]
    every = int(np.median(np.diff(iterations))) if len(iterations) > 1 else period
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
