"""How likely it is that a batch of the planned iterations needs more memory than the GPU has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d2check.checks.batches.draws import DataSet, Draw, draw, transformed
from d2check.checks.batches.fit import Batches, Floats, PeakModel, fit_peaks
from d2check.model import Scalar

# Rows as configured that a model may rest on, taken from the second half of them: before that the
# foreground is still growing, and mask heads with it.
MIN_ROWS = 30
MIN_TRIALS = 4
ERRORS = 2.0  # standard errors that an estimate is moved by, to either side
RARE = 0.01  # a batch that comes in fewer than one training of so many is let be
_SEARCH_DRAWS = 4_000
_LONGEST_STEPS = (0.9, 0.8, 0.7, 0.6, 0.5)
_NAMED = 3


@dataclass(frozen=True)
class Observed:
    """Batches with what they needed at most, MiB, float64[n]. reserved holds allocated."""

    batches: Batches
    allocated_mib: Floats
    reserved_mib: Floats


@dataclass(frozen=True)
class Planned:
    """What the training will draw: batches of so many images, on all GPUs together so often.

    available_mib: what a GPU has for PyTorch, without its context and other processes.
    """

    images_per_gpu: int
    batches: int
    available_mib: float


@dataclass(frozen=True)
class Models:
    """Two models that the truth lies between.

    most: with all the foreground that the heads may sample, what the allocator cannot use of its
    blocks (gap_mib), and its own error on top. least: what the batches as configured needed, of
    tensors alone, with its own error taken away; None where they tell too little. tried, failed:
    what was measured outright, which no model may gainsay.
    """

    most: PeakModel
    gap_mib: float
    least: PeakModel | None
    tried: Observed
    failed: Batches

    def most_mib(self, batches: Batches) -> Floats:
        """float64[n], MiB."""
        found: Floats = (
            self.most.peak_mib(batches) + self.gap_mib + ERRORS * self.most.error_mib(batches)
        )
        return found

    def least_mib(self, batches: Batches) -> Floats:
        """float64[n], MiB; 0 where there is no such model."""
        if self.least is None:
            return np.zeros(len(batches))
        found: Floats = self.least.peak_mib(batches) - ERRORS * self.least.error_mib(batches)
        return found


def fit_models(rows: Observed, trials: Observed, failed: Batches) -> Models | None:
    """Models from the iterations as configured and from the batches that were tried.

    failed: batches that did not fit. None where neither rows nor trials tell enough. Without trials
    the foreground is what it was in the rows.
    """
    late = slice(len(rows.batches) // 2, None)
    seen = Batches(*(part[late] for part in _parts(rows.batches)))
    held, used = rows.reserved_mib[late], rows.allocated_mib[late]
    least = fit_peaks(seen, used, per_image=False) if len(rows.batches) >= MIN_ROWS else None
    if len(trials.batches) >= MIN_TRIALS:
        several = float(np.ptp(trials.batches.images)) > 0
        most = fit_peaks(trials.batches, trials.allocated_mib, per_image=several, robust=False)
        gap = float((trials.reserved_mib - trials.allocated_mib).max())
        if most is not None:
            return Models(most, gap, least, trials, failed)
    if least is None:
        return None
    return Models(least, float(held.max() - used.max()), least, trials, failed)


def forecast(
    models: Models, data: DataSet, planned: Planned, names: Mapping[int, str]
) -> dict[str, Scalar]:
    """Facts, by the names of d2check.model.FACTS. names: files of some images of `data`."""
    drawn = draw(data, planned.images_per_gpu)
    most = models.most_mib(drawn.batches)
    over, least = _too_large(models, drawn.batches, planned.available_mib)
    probability = _ever(drawn, over, planned)
    told: dict[str, Scalar] = {
        "overflow_probability": probability,
        "overflow_probability_low": _ever(drawn, least, planned),
        "batch_peak_mib": _expected_highest(drawn, most, planned.batches),
    }
    chosen = models.least if least.any() and models.least is not None else models.most
    share = ERRORS * chosen.error_mib(drawn.batches) / np.maximum(chosen.peak_mib(drawn.batches), 1)
    at = least if least.any() else over if over.any() else np.ones(len(over), bool)
    told["memory_model_error"] = float(np.average(share[at], weights=drawn.probability[at]))
    if probability > RARE:
        told |= _what_fits(models, data, planned)
    if over.any():
        told["heaviest_images"] = _heaviest(models, data, planned, drawn.images[over], names)
    return {name: value for name, value in told.items() if value is not None}


def _too_large(
    models: Models, batches: Batches, available_mib: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which batches may need more than there is, and which of them surely do, bool[n] each.

    What is no larger in anything than a batch that was tried and fitted, fits; what is no smaller
    in anything than one that did not, does not.
    """
    sizes = _parts(batches)
    fits = np.zeros(len(batches), bool)
    for *tried, reserved in zip(
        *_parts(models.tried.batches), models.tried.reserved_mib, strict=True
    ):
        if reserved <= available_mib:
            fits |= np.all([size <= most for size, most in zip(sizes, tried, strict=True)], axis=0)
    fails = np.zeros(len(batches), bool)
    for failed in zip(*_parts(models.failed), strict=True):
        fails |= np.all([size >= least for size, least in zip(sizes, failed, strict=True)], axis=0)
    over = ((models.most_mib(batches) > available_mib) & ~fits) | fails
    return over, (models.least_mib(batches) > available_mib) & ~fits


def _parts(batches: Batches) -> tuple[Floats, Floats, Floats, Floats]:
    return batches.images, batches.pixels, batches.objects, batches.most_objects


def _ever(drawn: Draw, over: NDArray[np.bool_], planned: Planned) -> float:
    """Probability that one of the planned batches is among these."""
    each = float(drawn.probability[over].sum())
    return -math.expm1(planned.batches * math.log1p(-min(each, 1 - 1e-12)))


def _expected_highest(drawn: Draw, peaks_mib: Floats, batches: int) -> float:
    """The median of the highest of so many batches, MiB."""
    order = np.argsort(peaks_mib)
    below = np.cumsum(drawn.probability[order])
    at = int(np.searchsorted(below, 0.5 ** (1 / max(batches, 1)) - 1e-12))
    return float(peaks_mib[order[min(at, len(order) - 1)]])


def _what_fits(models: Models, data: DataSet, planned: Planned) -> dict[str, Scalar]:
    """The most images per GPU, and the longest side, with which hardly any batch is over."""

    def rarely_over(tried: DataSet, images: int) -> bool:
        drawn = draw(tried, images, count=_SEARCH_DRAWS)
        over, _ = _too_large(models, drawn.batches, planned.available_mib)
        return _ever(drawn, over, planned) <= RARE

    told: dict[str, Scalar] = {}
    # Without trials of other numbers of images, what belongs to an image is not told apart, and
    # counts as always there: fewer images then seem to save less than they do.
    fits, too_many = 0, planned.images_per_gpu
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if rarely_over(data, middle):
            fits = middle
        else:
            too_many = middle
    if fits:
        told["images_per_gpu_that_fit"] = fits
    resize = next((t for t in data.transforms if t["kind"] == "shortest"), None)
    longest, short = (resize["longest"], max(resize["lengths"])) if resize else (0, 0)
    for step in _LONGEST_STEPS:
        tried = int(longest * step) // data.divisibility * data.divisibility
        if tried < max(short, 1):  # below it every image becomes smaller, not the long ones
            break
        if rarely_over(data.with_longest(tried), planned.images_per_gpu):
            told["longest_side_that_fits"] = tried
            break
    return told


def _heaviest(
    models: Models,
    data: DataSet,
    planned: Planned,
    over: NDArray[np.int64],
    names: Mapping[int, str],
) -> str:
    """The images that need the most of those in batches that are over, in words."""
    found = np.unique(over)
    tall, wide = transformed(
        data.height[found].astype(float),
        data.width[found].astype(float),
        data.transforms,
        lambda: np.full(found.shape, 1 - 1e-9),
    )
    count = float(planned.images_per_gpu)
    objects = data.objects[found].astype(float)
    alone = Batches(np.full(len(found), count), tall * wide, objects * count, objects)
    order = found[np.argsort(-models.most_mib(alone), kind="stable")][:_NAMED]
    return ", ".join(
        f"{names.get(int(i)) or 'an image'} ({data.height[i]} x {data.width[i]}, "
        f"{data.objects[i]} objects)"
        for i in order
    )
