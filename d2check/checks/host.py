"""Whether the host's memory holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from d2check.checks._growth import Rise, rise_of
from d2check.checks._words import counted
from d2check.model import Measurement, Scalar, Series

TRAINER, WORKERS = "the trainer", "the loader's workers"


def host_headroom(
    free: Series, host_total_mib: float, family: Series | None = None, *, min_looks: int = 3
) -> Measurement:
    """Share of the host's memory that was free when least of it was.

    free: MiB that the kernel could hand out, of the host or of the container, at looks a second or
    more apart. family: MiB of the training with its loader's workers. extras: free_gib, total_gib,
    family_gib (the training's own part, most seen; None where it was not looked at).
    """
    if len(free) < min_looks or host_total_mib <= 0:
        return Measurement(None, undecided=f"memory was looked at only {len(free)} times")
    least = float(free.values.min())
    held = float(family.values.max()) / 1024 if family is not None and len(family) else None
    extras: dict[str, Scalar] = {
        "free_gib": least / 1024,
        "total_gib": host_total_mib / 1024,
        "family_gib": held,
    }
    span = (int(free.iterations[0]), int(free.iterations[-1]))
    return Measurement(least / host_total_mib, "share", span, extras)


@dataclass(frozen=True)
class _Grown:
    """What one of the processes, or some of them together, came to hold after their start."""

    who: str
    rise: Rise
    span: tuple[int, int]


@dataclass(frozen=True)
class _FirstSight:
    """Of workers that have not yet had most images: share that each has had, and where they end.

    level_mib: what all workers of the process would hold more once each has had every image, if
    all of the growth is of images that come for the first time.
    """

    seen: float
    level_mib: float


def host_growth(
    rss: Series,
    workers: Series | None = None,
    worker_set: Series | None = None,
    family: Series | None = None,
    family_processes: Series | None = None,
    images: int | None = None,
    images_per_batch: int | None = None,
    workers_per_process: int | None = None,
    world_size: int | None = None,
    free: Series | None = None,
    planned_iterations: int | None = None,
    batch_images: Series | None = None,
    *,
    skip_share: float = 0.3,
    min_rows: int = 60,
    min_looks: int = 14,
    seen_most: float = 0.95,
    level_share: float = 0.25,
    sure_z: float = 6.0,
) -> Measurement:
    """MiB by which the trainer or its loader's workers grow per 1,000 iterations, after the start.

    rss: MiB, resident memory of the trainer, per iteration. At looks a second or more apart, in
    MiB: workers, what the processes that it started hold of their own; family, the trainer with
    them, what is shared counted once, so that pages which a worker copies as it uses them count
    too; free, what the host has left. worker_set, family_processes: equal while these are the same
    processes. images_per_batch: of the whole step, where batch_images, those that this process was
    given per iteration, are not known. Of the one that surely grows most, by its slope
    less three standard errors. Undecided for workers that grow while images come to them for the
    first time, up to a level that needs no more than `level_share` of what is free.

    extras: who, of_workers (1 or 0), watched (in words), z, rising_blocks, rise_mib, steady (rise
    in the second half over that in the first, 1 where it goes on as it began), seen and level_gib
    (only for workers that have had fewer than `seen_most` of the images: share of them that each
    has had, what they would hold more after all), full_at (iteration of the planned ones at which
    the host's memory is full at this pace, or None).
    """
    found = []
    if len(rss) >= min_rows:
        found.append(_grown(TRAINER, rss, skip_share, 10))
    beyond = _same(workers, worker_set), _beyond(rss, _same(family, family_processes))
    watched = [one for one in beyond if one is not None and len(one) >= min_looks]
    found += [_grown(WORKERS, one, skip_share, 5) for one in watched]
    if not found:
        return Measurement(None, undecided=f"only {counted(len(rss), 'row')} with memory figures")
    most = max(found, key=lambda one: one.rise.certain_per_iteration)
    growing = most.rise.z > sure_z and most.rise.per_iteration > 0
    sight = None
    own = _own_images(batch_images, images_per_batch, world_size)
    if growing and most.who == WORKERS and images and own and workers_per_process:
        iterations = int(rss.iterations[-1]) - int(rss.iterations[0]) + 1
        ranks = world_size or 1
        epochs = iterations * own * ranks / images
        sight = _first_sight(most, epochs, images / own, workers_per_process, ranks, seen_most)
    left_mib = float(free.values[-1]) if free is not None and len(free) else None
    if sight is not None and left_mib is not None and sight.level_mib < level_share * left_mib:
        return Measurement(None, undecided=_room_for_all(sight.level_mib, left_mib))
    extras: dict[str, Scalar] = {
        "who": most.who,
        "of_workers": float(most.who == WORKERS),
        "watched": f"{TRAINER} and {WORKERS}" if watched else TRAINER,
        "z": most.rise.z,
        "rising_blocks": most.rise.rising_blocks,
        "rise_mib": most.rise.amount,
        "steady": most.rise.steady or 0.0,
        "seen": sight.seen if sight else None,
        "level_gib": sight.level_mib / 1024 if sight else None,
        "full_at": _full_at(most, sight, left_mib, planned_iterations) if growing else None,
    }
    value = 1000 * most.rise.per_iteration
    return Measurement(value, "MiB per 1,000 iterations", most.span, extras)


def copied_memory(
    copied_mib: float,
    iterations: int,
    shared_mib: float,
    free: Series,
    world_size: int | None = None,
    *,
    min_iterations: int = 100,
    per_machine: int = 8,
) -> Measurement:
    """MiB per 1,000 iterations that loader workers copy of what they inherited when forked.

    copied_mib: in so many iterations, by one process of the training. shared_mib: what they still
    share at the end, so that it is the most that is left to copy. free: MiB that the host has left.
    world_size: processes; `per_machine` at most are taken to be on this one. extras: copied_gib,
    shared_gib (of all processes here), free_gib, of_free (shared / free), copied_mib.
    """
    if iterations < min_iterations or not len(free):
        words = f"the workers were watched for only {counted(iterations, 'iteration')}"
        return Measurement(None, undecided=words)
    left_mib = max(float(free.values[-1]), 1.0)
    all_mib = shared_mib * min(world_size or 1, per_machine)
    extras: dict[str, Scalar] = {
        "copied_mib": copied_mib,
        "in_words": counted(iterations, "iteration"),
        "shared_gib": all_mib / 1024,
        "free_gib": left_mib / 1024,
        "of_free": all_mib / left_mib,
    }
    return Measurement(1000 * copied_mib / iterations, "MiB per 1,000 iterations", None, extras)


def _room_for_all(level_mib: float, left_mib: float) -> str:
    return (
        f"{WORKERS} grow while images come to them for the first time; once each has had them all "
        f"that would be {level_mib / 1024:.1f} GiB of the {left_mib / 1024:.1f} GiB that are free"
    )


def _own_images(
    batch_images: Series | None, images_per_batch: int | None, world_size: int | None
) -> float | None:
    """Images that one process is given per iteration."""
    if batch_images is not None and len(batch_images):
        return float(np.median(batch_images.values))
    return images_per_batch / (world_size or 1) if images_per_batch else None


def _grown(who: str, held: Series, skip_share: float, blocks: int) -> _Grown:
    skip = max(4, int(skip_share * len(held)))
    iterations, values = held.iterations[skip:].astype(np.float64), held.values[skip:]
    span = (int(iterations[0]), int(iterations[-1]))
    return _Grown(who, rise_of(iterations, values, blocks), span)


def _same(held: Series | None, processes: Series | None) -> Series | None:
    """The longest part of a series in which it is of the same processes."""
    if held is None or processes is None:
        return None
    common, here, there = np.intersect1d(
        held.iterations, processes.iterations, assume_unique=True, return_indices=True
    )
    if not len(common):
        return None
    which = processes.values[there]
    starts = np.flatnonzero(np.diff(which, prepend=which[0] - 1))
    ends = np.append(starts[1:], len(which))
    longest = int(np.argmax(ends - starts))
    part = here[starts[longest] : ends[longest]]
    return Series(held.name, held.iterations[part], held.values[part], held.every)


def _beyond(rss: Series, family: Series | None) -> Series | None:
    """What a family holds beyond its trainer, at the looks at the family."""
    if family is None or not len(rss):
        return None
    own = np.interp(family.iterations, rss.iterations, rss.values)
    return Series("beyond_trainer", family.iterations, family.values - own, family.every)


def _first_sight(
    grown: _Grown, epochs: float, iterations: float, workers: int, world_size: int, most: float
) -> _FirstSight | None:
    """How far the workers of a process have come, or None where each has had most images.

    iterations: in which one process loads as many images as there are. Each worker is given its
    part of an epoch at random, so that of n workers one has had 1 - (1 - 1/n)^epochs of the images.
    """
    of_all = workers * world_size
    seen = epochs / of_all if epochs < 1 else 1 - (1 - 1 / of_all) ** epochs
    if seen >= most:
        return None
    return _FirstSight(seen, grown.rise.per_iteration * iterations * workers)


def _full_at(
    grown: _Grown, sight: _FirstSight | None, left_mib: float | None, planned: int | None
) -> int | None:
    if left_mib is None or planned is None or (sight and sight.level_mib < left_mib):
        return None
    at = int(grown.span[1] + left_mib / grown.rise.per_iteration)
    return at if at < planned else None
