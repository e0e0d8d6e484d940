"""Whether the classes of the objects that a detector finds are learned, or guessed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from d2check.checks._words import counted
from d2check.model import Measurement, Scalar, Series

Floats = NDArray[np.float64]

BLOCK = 10  # rows
DENSE = "dense/"  # names of what the probe records of a dense detector's anchors
DENSE_BLOCK = 3  # of its rows, which are some iterations apart


def class_choice(
    fg_accuracy: Series,
    accuracy: Series | None,
    missed: Series | None,
    foreground: Series | None,
    background: Series | None,
    commonest: int,
    objects: int,
    lr: Series | None = None,
    base_lr: float | None = None,
    anchors_found: Series | None = None,
    anchors: Series | None = None,
    images: int | None = None,
    images_per_batch: int | None = None,
    classes: int | None = None,
    processes: int | None = None,
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

    Where fg_accuracy is dense/fg_cls_accuracy, the rest is as in `_dense_choice`.

    extras: right (c), guess (g), lower and upper (three standard errors from blocks of rows; two
    for a dense detector), rising (whether the later half of the rows is better than the earlier
    one by as much).
    """
    guess = commonest / max(objects, 1)
    if guess > 0.9:
        return Measurement(None, undecided=f"{guess:.0%} of the objects are of one class")
    if fg_accuracy.name.startswith(DENSE):
        if anchors_found is None or anchors is None:
            return _unknown("how many objects are found")
        if not (images and images_per_batch and classes):
            return _unknown("how often each class was seen")
        per_step = objects / images * images_per_batch
        return _dense_choice(
            (fg_accuracy, anchors_found, anchors), guess, lr, base_lr,
            seen_per_step=per_step / classes, objects_per_row=per_step / (processes or 1),
            min_se=min_se,
        )  # fmt: skip
    if accuracy is None or missed is None or foreground is None or background is None:
        return _unknown("how many objects are found")
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
    blocks = _last_true(apart)
    if blocks * BLOCK < min_rows:
        return _not_apart()
    effective = _effective(lr, base_lr, int(iterations[-blocks * BLOCK]), int(iterations[-1]))
    if effective < min_effective:
        return _apart_since(effective)
    found, right = found[-blocks:], right[-blocks:]
    half = blocks // 2
    early, late = (_share(right[part], found[part]) for part in (slice(half), slice(half, None)))
    span = (int(iterations[-(blocks - half) * BLOCK]), int(iterations[-1]))
    return _choice(late, early, late, guess, 3.0, min_se, span)


def _dense_choice(
    series: Sequence[Series],
    guess: float,
    lr: Series | None,
    base_lr: float | None,
    *,
    seen_per_step: float,
    objects_per_row: float,
    min_se: float,
    min_effective: float = 100.0,
    min_seen: float = 300.0,
    most_missed: float = 0.2,
    errors: float = 2.0,
) -> Measurement:
    """`class_choice` of a detector whose anchors choose by themselves (RetinaNet, FCOS).

    series: dense/fg_cls_accuracy, fg_found, fg_anchors. seen_per_step: objects of one class that
    an iteration shows on average. objects_per_row: objects in what a row was measured on.

    A focal loss learns objects and their classes at the same time, each class on its own, and
    hard classes come later. So objects count as told from background when at most `most_missed`
    of their anchors score lower than the highest 5 % of the background, and since then each class
    must have been seen `min_seen` times, in `min_effective` iterations or more, both weighted by
    the rate, and in half as many as it took to find objects, which are many at a low rate. The
    first third of that stretch is left out.
    """
    iterations, (accuracy, found, anchors) = _joined(series)
    rows = len(iterations) // DENSE_BLOCK * DENSE_BLOCK
    of_objects, found, right = (
        v[len(v) - rows :].reshape(-1, DENSE_BLOCK).sum(axis=1)
        for v in (anchors, anchors * found, anchors * accuracy)
    )
    blocks = _last_true(found > (1 - most_missed) * of_objects)
    if blocks < 4:
        return _not_apart()
    first = int(iterations[-blocks * DENSE_BLOCK])
    effective = _effective(lr, base_lr, first, int(iterations[-1]))
    if effective < max(min_effective, _effective(lr, base_lr, 0, first) / 2):
        return _apart_since(effective)
    if effective * seen_per_step < min_seen:
        times = f"{effective * seen_per_step:.0f} times"
        words = f"each class was seen {times} only since objects are told from background"
        return Measurement(None, undecided=words)

    def share(part: slice) -> tuple[float, float]:
        rights, all_ = right[-blocks:][part], of_objects[-blocks:][part]
        return _share(rights, all_, objects_per_row * DENSE_BLOCK * len(rights))

    half, third = blocks // 2, blocks // 3
    span = (int(iterations[-(blocks - third) * DENSE_BLOCK]), int(iterations[-1]))
    found_right, early, late = (
        share(p) for p in (slice(third, None), slice(half), slice(half, None))
    )
    return _choice(found_right, early, late, guess, errors, min_se, span)


def _choice(
    found_right: tuple[float, float],
    early: tuple[float, float],
    late: tuple[float, float],
    guess: float,
    errors: float,
    min_se: float,
    span: tuple[int, int],
) -> Measurement:
    """The measurement from (share, standard error) of all that counts, and of two halves."""
    (right, error), scale = found_right, 1 - guess
    if error > min_se * scale:
        return Measurement(None, undecided="too few objects were found to tell")
    rise, rise_error = late[0] - early[0], float(np.hypot(early[1], late[1]))
    extras: dict[str, Scalar] = {
        "right": right,
        "guess": guess,
        "lower": (right - guess - errors * error) / scale,
        "upper": (right - guess + errors * error) / scale,
        "rising": "yes" if rise > errors * rise_error else "no",
    }
    return Measurement((right - guess) / scale, "share", span, extras)


def _unknown(what: str) -> Measurement:
    return Measurement(None, undecided=f"it is not known {what}")


def _not_apart() -> Measurement:
    return Measurement(None, undecided="objects are not yet told from background")


def _apart_since(effective: float) -> Measurement:
    time = f"{effective:.0f} effective iterations"
    return Measurement(None, undecided=f"objects are told from background for {time} only")


def _last_true(flags: NDArray[np.bool_]) -> int:
    """How many at the end are all true."""
    return len(flags) if flags.all() else int(np.argmin(flags[::-1]))


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


def _share(right: Floats, found: Floats, independent: float | None = None) -> tuple[float, float]:
    """(sum of right over sum of found, its standard error).

    From the spread of the blocks, for samples around one object are alike; but a few blocks may
    agree by luck, so not less than that of as many independent samples (of one image, where their
    number is not given).
    """
    share = float(right.sum() / found.sum())
    residuals = right - share * found
    blocks = np.sqrt(np.sum(residuals**2) * len(found) / (len(found) - 1)) / found.sum()
    least = share * max(0.0, 1 - share) / (independent or found.sum())
    return share, float(max(blocks, np.sqrt(least)))
