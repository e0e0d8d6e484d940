"""Peak memory of an iteration, from the size of its batch."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Constant; images; pixels; pixels of each image x its objects, summed; the same, of one image.
TERMS = 5
_HUBER = (
    1.345  # residual spreads beyond which a row counts less; 95 % efficient where all is normal
)
_ROUNDS = 8
_MEGAPIXEL = 1e6


@dataclass(frozen=True)
class Batches:
    """Sizes of batches of one GPU, one entry each.

    images: count. pixels: of one image, as padded with the others to one size. objects: of all
    images together. most_objects: of the image that has the most.
    """

    images: Floats
    pixels: Floats
    objects: Floats
    most_objects: Floats

    def __len__(self) -> int:
        return len(self.images)

    def terms(self) -> Floats:
        """float64[n, TERMS], each a number that memory can only grow with.

        Activations grow with the pixels of the batch, and with the images where a head takes so
        many proposals of each. Masks of objects have the size of their image, and the RPN compares
        all objects of one image with all of its anchors at once.
        """
        return np.stack(
            (
                np.ones_like(self.pixels),
                self.images,
                self.images * self.pixels / _MEGAPIXEL,
                self.objects * self.pixels / _MEGAPIXEL,
                self.most_objects * self.pixels / _MEGAPIXEL,
            ),
            axis=1,
        )


@dataclass(frozen=True)
class PeakModel:
    """MiB = terms @ weights, none of which is negative.

    covariance: of the weights in use, zero elsewhere. spread: standard deviation of single
    iterations around the model, MiB. rows: so many it rests on.
    """

    weights: Floats
    covariance: Floats
    spread: float
    rows: int

    def peak_mib(self, batches: Batches) -> Floats:
        """The peak to expect, float64[n]."""
        found: Floats = batches.terms() @ self.weights
        return found

    def error_mib(self, batches: Batches) -> Floats:
        """Standard error of that expectation, float64[n], MiB."""
        terms = batches.terms()
        variance = np.einsum("ij,jk,ik->i", terms, self.covariance, terms)
        found: Floats = np.sqrt(np.maximum(variance, 0.0))
        return found


def fit_peaks(
    batches: Batches, peaks_mib: Floats, *, per_image: bool, robust: bool = True
) -> PeakModel | None:
    """The model for measured peaks; None for fewer rows than it has terms in use, plus one.

    per_image: the batches differ in their number of images, so that it can be told from what is
    always there. robust: rows far off count less (Huber), as the first steps of cuDNN's search.

    Least squares under the condition that no weight is negative: of all choices of terms the best
    with none. So few terms can be tried one and all, and what such a search leaves out is what no
    row speaks for.
    """
    finite = np.isfinite(peaks_mib)
    terms, peaks = batches.terms()[finite], peaks_mib[finite]
    allowed = [t for t in range(TERMS) if t != 1 or per_image]
    allowed = [t for t in allowed if t == 0 or np.ptp(terms[:, t]) > 0] if len(terms) else []
    counts = np.ones(len(peaks))
    used: tuple[int, ...] = ()
    weights = np.zeros(TERMS)
    for _ in range(_ROUNDS if robust else 1):
        best = _best_subset(terms, peaks, counts, allowed)
        if best is None:
            return None
        used, weights = best
        off = np.abs(peaks - terms @ weights)
        scale = 1.4826 * float(np.median(off))
        if not robust or scale <= 0:
            break
        counts = np.minimum(1.0, _HUBER * scale / np.maximum(off, 1e-12))
    return _with_errors(terms, peaks, counts, used, weights)


def _best_subset(
    terms: Floats, peaks: Floats, counts: Floats, allowed: list[int]
) -> tuple[tuple[int, ...], Floats] | None:
    root = np.sqrt(counts)
    best: tuple[float, tuple[int, ...], Floats] | None = None
    for size in range(1, len(allowed) + 1):
        for used in itertools.combinations(allowed, size):
            if len(peaks) <= size:
                continue
            columns = terms[:, used]
            found, _, rank, _ = np.linalg.lstsq(columns * root[:, None], peaks * root, rcond=None)
            if rank < size or (found < 0).any():
                continue
            loss = float((counts * (peaks - columns @ found) ** 2).sum())
            if best is None or loss < best[0] * (1 - 1e-9):
                weights = np.zeros(TERMS)
                weights[list(used)] = found
                best = loss, used, weights
    return None if best is None else best[1:]


def _with_errors(
    terms: Floats, peaks: Floats, counts: Floats, used: tuple[int, ...], weights: Floats
) -> PeakModel:
    columns = terms[:, used]
    off = peaks - terms @ weights
    free = max(float(counts.sum()) - len(used), 1.0)
    variance = float((counts * off**2).sum()) / free
    covariance = np.zeros((TERMS, TERMS))
    inner = np.linalg.pinv(columns.T @ (columns * counts[:, None]))
    covariance[np.ix_(used, used)] = variance * inner
    return PeakModel(weights, covariance, float(np.sqrt(variance)), len(peaks))
