"""Whether the classes of the objects that a detector finds are learned, or guessed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from d2check.checks._words import counted
from d2check.model import Measurement, Scalar, Series

Floats = NDArray[np.float64]

BLOCK = 10  # rows


def class_choice(
    fg_accuracy: Series,
    accuracy: Series,
    missed: Series,
    foreground: Series,
    background: Series,
    commonest: int,
    objects: int,
    lr: Series | None = None,
    base_lr: float | None = None,
    *,
    min_rows: int = 60,
    min_effective: float = 60.0,
    most_missed: float = 0.4,
    least_background: float = 0.8,
    min_se: float = 0.1,
) -> Measurement:
    """How much better than a guess the classes of found objects are: 0 a guess, 1 all right.

    (c - g) / (1 - g) with c the share of the foreground samples not called background that get
    their class, and g what always saying the commonest class would get. Labels that say nothing
    leave it at or below 0, for then the classes of samples are distributed as those of the objects.

    fg_accuracy, accuracy, missed: fast_rcnn/fg_cls_accuracy, cls_accuracy, false_negative.
    foreground, background: roi_head/num_fg_samples, num_bg_samples. commonest, objects: counts of
    the training set. Only the rows at the end are used in which objects and background are told
    apart (at most `most_missed` of the objects called background, at least `least_background` of
    the background right): a fresh head guesses, and one that calls all background chooses no
    class. They must be worth `min_effective` iterations at the peak rate (sum of lr over its peak),
    for a rate that has decayed leaves classes where they are. Of those rows the later half.

    extras: right (c), guess (g), lower and upper (three standard errors from blocks of rows),
    rising (whether the later half of the rows is better than the earlier one by as much).
    """
    guess = commonest / max(objects, 1)
    if guess > 0.9:
        return Measurement(None, undecided=f"{guess:.0%} of the objects are of one class")
    iterations, columns = _joined((fg_accuracy, accuracy, missed, foreground, background))
    found, right, fg, bg_right, bg = _counts(*columns)
    rows = len(iterations) // BLOCK * BLOCK
    if rows < min_rows:
        return Measurement(None, undecided=f"only {counted(rows, 'row')}")
    found, right, fg, bg_right, bg = (
        v[-rows:].reshape(-1, BLOCK).sum(axis=1) for v in (found, right, fg, bg_right, bg)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = (found > (1 - most_missed) * fg) & (bg_right > least_background * bg)
    blocks = len(apart) if apart.all() else int(np.argmin(apart[::-1]))
    if blocks * BLOCK < min_rows:
        return Measurement(None, undecided="objects are not yet told from background")
    effective = _effective(lr, base_lr, int(iterations[-blocks * BLOCK]), int(iterations[-1]))
    if effective < min_effective:
        time = f"{effective:.0f} effective iterations"
        return Measurement(None, undecided=f"objects are told from background for {time} only")
    found, right = found[-blocks:], right[-blocks:]
    half = blocks // 2
    (early, early_se), (late, late_se) = (
        _share(right[part], found[part]) for part in (slice(0, half), slice(half, None))
    )
    scale = 1 - guess
    if late_se > min_se * scale:
        return Measurement(None, undecided="too few objects were found to tell")
    extras: dict[str, Scalar] = {
        "right": late,
        "guess": guess,
        "lower": (late - guess - 3 * late_se) / scale,
        "upper": (late - guess + 3 * late_se) / scale,
        "rising": "yes" if late - early > 3 * float(np.hypot(early_se, late_se)) else "no",
    }
    span = (int(iterations[-(blocks - half) * BLOCK]), int(iterations[-1]))
    return Measurement((late - guess) / scale, "share", span, extras)


def _joined(series: Sequence[Series]) -> tuple[NDArray[np.int64], list[Floats]]:
    """The iterations at which all have a value, and the values there."""
    common = series[0].iterations
    for one in series[1:]:
        common = np.intersect1d(common, one.iterations)
    columns = [one.values[np.searchsorted(one.iterations, common)] for one in series]
    good = np.all([np.isfinite(column) for column in columns], axis=0)
    return common[good], [column[good] for column in columns]


def _counts(
    fg_accuracy: Floats, accuracy: Floats, missed: Floats, fg: Floats, bg: Floats
) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Samples per image: objects found, of them right, objects, background right, background."""
    right = fg * fg_accuracy
    return fg * (1 - missed), right, fg, accuracy * (fg + bg) - right, bg


def _effective(lr: Series | None, base_lr: float | None, first: int, last: int) -> float:
    """Iterations from first to last, each as the share that its rate is of the peak."""
    if lr is None or not len(lr):
        return float(last - first + 1)
    peak = max(float(np.nanmax(lr.values)), base_lr or 0.0)
    within = lr.values[(lr.iterations >= first) & (lr.iterations <= last)]
    return float(np.nansum(within)) * lr.every / peak if peak > 0 else 0.0


def _share(right: Floats, found: Floats) -> tuple[float, float]:
    """(sum of right over sum of found, its standard error).

    From the spread of the blocks, for samples around one object are alike; but a few blocks may
    agree by luck, so not less than that of as many independent samples as an image has.
    """
    share = float(right.sum() / found.sum())
    residuals = right - share * found
    blocks = np.sqrt(np.sum(residuals**2) * len(found) / (len(found) - 1)) / found.sum()
    return share, float(max(blocks, np.sqrt(share * max(0.0, 1 - share) / found.sum())))
