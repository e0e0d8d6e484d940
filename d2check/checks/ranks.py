"""What the processes of a training have in common that they should not have."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

from d2check.checks._rows import rank_of
from d2check.checks._words import counted
from d2check.model import Measurement, Scalar, Series

Given = dict[int, set[float]]  # iteration -> marks of its images


def shared_images(
    given: Mapping[str, Series] | None = None,
    images: int | None = None,
    *,
    min_images: int = 16,
    most_chance: float = 0.2,
) -> Measurement:
    """Largest share of the images of one rank that another was given in the same iterations.

    given: `given_image_0` ... of rank 0 and `rank1/given_image_0` ... of the others, a number for
    each image of an iteration, equal for equal images. images: of the training set. What two ranks
    share by chance is the share that one has of what the other was given in other iterations;
    undecided where that is above `most_chance`, as it is of few images.

    extras: rank and other ("rank 1", "rank 0"), compared (images), in_words ("40 images"), chance,
    processes.
    """
    ranks = _by_rank(given or {})
    if not ranks:
        words = "nothing tells which images each process was given; `d2check run` does"
        return Measurement(None, undecided=words)
    if len(ranks) < 2:
        return Measurement(None, undecided="only one process was seen")
    found: list[Measurement] = []
    few = 0
    for (one, mine), (other, theirs) in combinations(sorted(ranks.items()), 2):
        common = sorted(mine.keys() & theirs.keys())
        compared = sum(len(theirs[at]) for at in common)
        if compared < min_images or len(common) < 2:
            few = max(few, compared)
            continue
        same = sum(len(theirs[at] & mine[at]) for at in common) / compared
        elsewhere = sum(len(theirs[a] & mine[b]) for a in common for b in common if a != b)
        extras: dict[str, Scalar] = {
            "rank": f"rank {other}",
            "other": f"rank {one}",
            "compared": compared,
            "in_words": counted(compared, "image"),
            "chance": elsewhere / compared / (len(common) - 1),
            "processes": len(ranks),
        }
        found.append(Measurement(same, "share", (common[0], common[-1]), extras))
    if not found:
        return Measurement(None, undecided=f"only {counted(few, 'image')} could be compared")
    most = max(found, key=lambda one: one.value or 0.0)
    if (most.value or 0.0) > most_chance and float(most.extras["chance"] or 0.0) > most_chance:
        of = f" of {images}" if images else ""
        return Measurement(None, undecided=f"batches of so few images{of} share some by chance")
    return most


def _by_rank(given: Mapping[str, Series]) -> dict[int, Given]:
    ranks: dict[int, Given] = {}
    for name, series in given.items():
        rank = ranks.setdefault(rank_of(name), {})
        for at, mark in zip(series.iterations.tolist(), series.values.tolist(), strict=True):
            rank.setdefault(at, set()).add(mark)
    return ranks
