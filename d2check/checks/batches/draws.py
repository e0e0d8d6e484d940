"""Batches as a training's loader draws them from its data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2check.checks.batches.fit import Batches

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Images are sorted into levels by how heavy they are at most, so many of the draws in each above.
# Batches with an image of the top level are drawn as often as those without: what happens once in
# a million batches is seen among some ten thousand.
_LEVELS = (0.1, 0.01, 0.001)
_DRAWN_IMAGES = 100_000  # of each kind: 0.3 to 0.8 s of CPU time for all there is to tell
_REDRAWS = 20  # of batches with an image twice; of fewer images than a batch takes some stay


@dataclass(frozen=True)
class DataSet:
    """The images of a training, or those that stand for them.

    height, width (pixels), objects: before the transforms, int64[n]. weight: how often each comes
    in an epoch, or those that it stands for. transforms: as `data-set.json` has them, in their
    order. grouping: wide images meet only wide ones in a batch. divisibility: of padded sizes.
    """

    height: Ints
    width: Ints
    objects: Ints
    weight: Floats
    transforms: Sequence[Mapping[str, Any]]
    grouping: bool
    divisibility: int

    def with_longest(self, longest: int) -> DataSet:
        """The same with another INPUT.MAX_SIZE_TRAIN."""
        changed = [
            {**one, "longest": longest} if one["kind"] == "shortest" else one
            for one in self.transforms
        ]
        return replace(self, transforms=changed)


@dataclass(frozen=True)
class Draw:
    """Batches with the probability that each stands for, and their images (indices, int64[n, k]).

    The probabilities of all together are 1.
    """

    batches: Batches
    probability: Floats
    images: Ints


def draw(data: DataSet, images_per_gpu: int, *, count: int | None = None, seed: int = 0) -> Draw:
    """Batches of one GPU, `count` of each kind: by group of aspect and by level.

    Images are drawn as the sampler's permutations do in the long run: by their weight, and none
    twice that comes once in an epoch. The draws are the same for the same data.
    """
    count = max(4_000, _DRAWN_IMAGES // images_per_gpu) if count is None else count
    rng = np.random.default_rng(seed)
    wide = data.width > data.height if data.grouping else np.zeros(len(data.width), bool)
    total = float(data.weight.sum())
    parts = []
    for group in np.unique(wide):
        members = np.flatnonzero((wide == group) & (data.weight > 0))
        if not len(members):
            continue
        share = float(data.weight[members].sum()) / total
        levels = _levels(data, members)
        for level in range(int(levels.max()) + 1):
            found = _of_level(data, members, levels, level, images_per_gpu, count, rng)
            if found is not None:
                indices, probability = found
                parts.append((indices, np.full(len(indices), share * probability / len(indices))))
    images = np.concatenate([indices for indices, _ in parts])
    each = np.concatenate([probabilities for _, probabilities in parts])
    return Draw(_batches(data, images, rng), each, images)


def _levels(data: DataSet, members: Ints) -> Ints:
    """0 for most images; those among the heaviest tenth, hundredth, thousandth of draws: 1, 2, 3.

    Heaviest by size, by height, by width or by objects, whichever is most.
    """
    tall, wide = _largest(data, members)
    keys = (tall * wide, tall, wide, data.objects[members].astype(float))
    weight = data.weight[members] / data.weight[members].sum()
    levels = np.zeros(len(members), np.int64)
    for key in keys:
        order = np.argsort(-key, kind="stable")
        before = np.cumsum(weight[order]) - weight[order]
        of_key = np.zeros(len(members), np.int64)
        for share in _LEVELS:
            of_key[order] += before < share
        # Where all are alike, none is heavy.
        of_key[key <= np.median(key)] = 0
        levels = np.maximum(levels, of_key)
    return levels


def _of_level(
    data: DataSet,
    members: Ints,
    levels: Ints,
    level: int,
    size: int,
    count: int,
    rng: np.random.Generator,
) -> tuple[Ints, float] | None:
    """(Batches whose heaviest image is of this level, the probability of such a batch)."""
    weight = data.weight[members]
    total = float(weight.sum())
    here, below = levels == level, levels < level
    up_to = float(weight[here | below].sum()) / total
    under = float(weight[below].sum()) / total
    probability = up_to**size - under**size
    if not here.any() or probability <= 0:
        return None

    def pick(batches: int) -> Ints:
        images = _pick(members[here], weight[here], (batches, size), rng)
        if under <= 0:
            return images
        # How many of the batch are of this level, given that one is.
        own = 1 - under / up_to
        none = (1 - own) ** size
        number = _binomial_quantile(size, own, none + rng.random(batches) * (1 - none))
        number = np.minimum(number, max(1, math.ceil(weight[here].sum())))
        lighter = _pick(members[below], weight[below], (batches, size), rng)
        return np.where(np.arange(size)[None, :] < number[:, None], images, lighter)

    images = pick(count)
    for _ in range(_REDRAWS):
        again = _repeats(images, data.weight)
        if not again.any():
            break
        images[again] = pick(int(again.sum()))
    return images, probability


def _repeats(images: Ints, weight: Floats) -> NDArray[np.bool_]:
    """Which batches have an image twice that comes once in an epoch, bool[n]."""
    ordered = np.sort(images, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (weight[ordered[:, 1:]] <= 1)
    found: NDArray[np.bool_] = twice.any(axis=1)
    return found


def _binomial_quantile(size: int, share: float, chance: Floats) -> Ints:
    steps = np.arange(size + 1)
    mass = np.ones(size + 1)
    for k in range(1, size + 1):
        mass[k] = mass[k - 1] * (size - k + 1) / k
    mass = mass * share**steps * (1 - share) ** (size - steps)
    return np.clip(np.searchsorted(np.cumsum(mass), chance), 1, size).astype(np.int64)


def _pick(members: Ints, weight: Floats, shape: tuple[int, int], rng: np.random.Generator) -> Ints:
    edges = np.cumsum(weight)
    at = np.searchsorted(edges, rng.random(shape) * edges[-1], side="right")
    found: Ints = members[np.minimum(at, len(members) - 1)]
    return found


def _batches(data: DataSet, images: Ints, rng: np.random.Generator) -> Batches:
    uniform: Callable[[], Floats] = lambda: rng.random(images.shape)  # noqa: E731  one word
    tall = data.height[images].astype(float)
    wide = data.width[images].astype(float)
    tall, wide = transformed(tall, wide, data.transforms, uniform)
    divisor = data.divisibility
    height = np.ceil(tall.max(axis=1) / divisor) * divisor
    width = np.ceil(wide.max(axis=1) / divisor) * divisor
    objects = data.objects[images].astype(float)
    count = np.full(len(images), float(images.shape[1]))
    return Batches(count, height * width, objects.sum(axis=1), objects.max(axis=1))


def transformed(
    tall: Floats,
    wide: Floats,
    transforms: Sequence[Mapping[str, Any]],
    uniform: Callable[[], Floats],
) -> tuple[Floats, Floats]:
    """(heights, widths) after the transforms, as Detectron2's augmentations compute them.

    uniform: draws from [0, 1), one for each image; a constant just below 1 gives the largest.
    """
    for one in transforms:
        kind = one["kind"]
        if kind == "shortest":
            tall, wide = _resize_shortest(tall, wide, one, uniform)
        elif kind == "crop":
            tall, wide = _crop(tall, wide, one, uniform)
        elif kind == "scale":
            factor = one["least"] + (one["most"] - one["least"]) * uniform()
            scale = np.minimum(one["size"][0] * factor / tall, one["size"][1] * factor / wide)
            tall, wide = np.round(tall * scale), np.round(wide * scale)
        elif kind == "fixed":
            tall, wide = np.full_like(tall, one["size"][0]), np.full_like(wide, one["size"][1])
        elif kind == "at-most":
            tall, wide = np.minimum(tall, one["size"][0]), np.minimum(wide, one["size"][1])
        else:
            raise ValueError(f"{kind!r} is no transform that is known here")
    return tall, wide


def _resize_shortest(
    tall: Floats, wide: Floats, one: Mapping[str, Any], uniform: Callable[[], Floats]
) -> tuple[Floats, Floats]:
    lengths = sorted(one["lengths"])
    if one["range"]:
        short = np.floor(lengths[0] + (lengths[-1] - lengths[0] + 1) * uniform())
    else:
        short = np.asarray(lengths, float)[(len(lengths) * uniform()).astype(np.int64)]
    scale = short / np.minimum(tall, wide)
    scale = np.minimum(scale, one["longest"] / np.maximum(tall, wide))
    scale = np.where(short > 0, scale, 1.0)  # 0: left as it is
    return np.floor(tall * scale + 0.5), np.floor(wide * scale + 0.5)


def _crop(
    tall: Floats, wide: Floats, one: Mapping[str, Any], uniform: Callable[[], Floats]
) -> tuple[Floats, Floats]:
    first, second = one["size"]
    if one["type"] == "absolute":
        return np.minimum(tall, first), np.minimum(wide, second)
    if one["type"] == "absolute_range":
        sides = []
        for side in (tall, wide):
            low, high = np.minimum(side, first), np.minimum(side, second)
            sides.append(np.floor(low + (high - low + 1) * uniform()))
        return sides[0], sides[1]
    if one["type"] == "relative_range":
        share_tall, share_wide = (part + (1 - part) * uniform() for part in (first, second))
    else:
        share_tall, share_wide = np.full_like(tall, first), np.full_like(wide, second)
    return np.floor(tall * share_tall + 0.5), np.floor(wide * share_wide + 0.5)


def _largest(data: DataSet, members: Ints) -> tuple[Floats, Floats]:
    tall = data.height[members].astype(float)
    wide = data.width[members].astype(float)
    top: Callable[[], Floats] = lambda: np.full(tall.shape, 1 - 1e-9)  # noqa: E731  one word
    return transformed(tall, wide, data.transforms, top)
