"""Settings that contradict each other or the batch, and that Detectron2 accepts silently."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from d2check.checks._words import counted
from d2check.model import Measurement, Scalar, Series


def unknown_keys(keys: Sequence[str], nearest: Sequence[str | None] | None = None) -> Measurement:
    """How many keys of the config Detectron2 does not know; extras name the first ones."""
    nearest = nearest or [None] * len(keys)
    meant = [f"{k} (meant {n}?)" if n else k for k, n in zip(keys, nearest, strict=False)]
    extras: dict[str, Scalar] = {
        "keys": ", ".join(meant[:5]) or None,
        "first": keys[0] if keys else None,
        "first_nearest": nearest[0] if keys else None,
    }
    return Measurement(float(len(keys)), "keys", None, extras)


def invalid_steps(
    steps: Sequence[float], planned_iterations: int, scheduler: str | None = None
) -> Measurement:
    """How many of SOLVER.STEPS are out of order, negative, or at or past the planned end.

    extras: past_end, disordered ("yes", "no"), fault (in words, or None), given (the steps, None
    where there are none), planned_end, proposed_first, proposed_second (2/3 and 8/9 of the run, as
    in the model zoo).
    """
    if scheduler is not None and "Step" not in scheduler:
        return Measurement(0.0, "steps", None, {"past_end": 0, "disordered": "no"})
    past = [s for s in steps if s >= planned_iterations]
    negative = [s for s in steps if s < 0]
    disordered = any(b <= a for a, b in itertools.pairwise(steps))
    faults = [
        f"{len(past)} of {len(steps)} at or past the planned end" if past else "",
        "out of order" if disordered else "",
        "a negative one" if negative else "",
    ]
    extras: dict[str, Scalar] = {
        "past_end": len(past),
        "disordered": "yes" if disordered else "no",
        "fault": " and ".join(filter(None, faults)) or None,
        "given": f"({', '.join(f'{s:g}' for s in steps)})" if steps else None,
        "planned_end": planned_iterations,
        "proposed_first": int(planned_iterations * 2 / 3),
        "proposed_second": int(planned_iterations * 8 / 9),
    }
    return Measurement(float(len(past) + len(negative) + disordered), "steps", None, extras)


def batch_remainder(
    images_per_batch: int, world_size: int, loss: Series | None = None
) -> Measurement:
    """Images left over when the batch is divided over the processes (0 is needed).

    Detectron2's loader asserts that (data/build.py), so a training that has a loss all the same has
    a loader of its own: undecided. extras: batch, world_size, per_process ("4 images"),
    proposed_batch.
    """
    left_over = images_per_batch % world_size
    if left_over and loss is not None and len(loss):
        return Measurement(
            None,
            undecided=f"{images_per_batch} images do not divide by {world_size} processes, and it "
            "trained all the same: what its loader makes of that is not known",
        )
    extras: dict[str, Scalar] = {
        "batch": images_per_batch,
        "world_size": world_size,
        "per_process": counted(images_per_batch // world_size, "image"),
        "proposed_batch": max(world_size, images_per_batch // world_size * world_size),
    }
    return Measurement(float(left_over), "images", None, extras)


def norm_batch(
    images_per_batch: int | None = None,
    norms: Sequence[str | None] = (),
    world_size: int | None = None,
    backbone_norm: str | None = None,
    backbone: str | None = None,
    batch_norms: int | None = None,
    sync_batch_norms: int | None = None,
    batch_images: Series | None = None,
    batches: Series | None = None,
) -> Measurement:
    """Images per process that a trainable batch norm computes its statistics from.

    batch_norms, sync_batch_norms: how many layers of the model itself take their statistics from
    the batch of a process or of all; infinite where there is none. batch_images: images that the
    process was given per iteration, in so many batches (1 where that is not told). What was seen
    counts; where nobody saw the model or its batches, the config must tell. images_per_batch: of
    all processes. norms: the NORM settings of the heads. backbone_norm: MODEL.RESNETS.NORM,
    which counts where the backbone (MODEL.BACKBONE.NAME) is a ResNet or not known; undecided where
    they show no batch norm that is trained. SyncBN pools over the processes. extras: norm (None
    where there is none), counted ("4 images").
    """
    if batch_norms is not None:
        if not batch_norms + (sync_batch_norms or 0):
            return Measurement(math.inf, "images", None, {"norm": None, "counted": None})
        norm = "BN" if batch_norms else "SyncBN"
    else:
        named = _norm_by_config(norms, backbone_norm, backbone)
        if isinstance(named, Measurement):
            return named
        norm = named
    own = _images_at_once(batch_images, batches)
    if own is None:
        if images_per_batch is None:
            return Measurement(None, undecided="nobody saw how many images a batch has")
        own = images_per_batch / (world_size or 1)
    images = own if norm == "BN" else own * (world_size or 1)
    extras: dict[str, Scalar] = {"norm": norm, "counted": counted(images, "image")}
    return Measurement(images, "images", None, extras)


def _norm_by_config(
    norms: Sequence[str | None], backbone_norm: str | None, backbone: str | None
) -> str | Measurement:
    """The kind of batch norm that a config trains, or why none is known."""
    is_resnet = backbone is None or "resnet" in backbone.lower()
    if is_resnet:
        norms = [*norms, *([backbone_norm] if backbone_norm is not None else [])]
    if not norms:
        return Measurement(None, undecided="nothing tells how the model normalises")
    trained = [n for n in norms if n in ("BN", "SyncBN", "nnSyncBN", "NaiveSyncBN")]
    if trained:
        return "BN" if "BN" in trained else str(trained[0])
    words = "no batch normalisation is trained"
    if not is_resnet:
        words = f"the config does not tell how {backbone} normalises"
    return Measurement(None, undecided=words)


def _images_at_once(batch_images: Series | None, batches: Series | None) -> float | None:
    """Images of the usual batch of one process; None where none was seen."""
    if batch_images is None or not len(batch_images):
        return None
    images = float(np.median(batch_images.values))
    times = float(np.median(batches.values)) if batches is not None and len(batches) else 1.0
    return images / max(times, 1.0)


def evaluations(eval_period: int, test_sets: Sequence[str], planned_iterations: int) -> Measurement:
    """How many evaluations the planned run makes before its end.

    extras: eval_period, test_sets, test_sets_in_words, counted.
    """
    if not test_sets:
        none: dict[str, Scalar] = {
            "test_sets": 0,
            "eval_period": eval_period,
            "test_sets_in_words": "no test set",
        }
        return Measurement(0.0, "evaluations", None, none)
    count = (planned_iterations - 1) // eval_period if eval_period > 0 else 0
    extras: dict[str, Scalar] = {
        "test_sets": len(test_sets),
        "eval_period": eval_period,
        "test_sets_in_words": counted(len(test_sets), "test set"),
        "counted": counted(count, "evaluation"),
    }
    return Measurement(float(count), "evaluations", None, extras)
