"""Whether the labels give the model something to learn from."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from d2check.checks._words import NO_ENDING, counted
from d2check.model import BROKEN, Ending, EndingKind, Event, Measurement, Scalar, Series


def foreground(
    foreground_samples: Series | None = None,
    losses: Mapping[str, Series] | None = None,
    positive_anchors: Series | None = None,
    *,
    min_rows: int = 5,
    skip_rows: int = 1,
) -> Measurement:
    """Foreground samples per image that the box head learns from (median of the rows).

    foreground_samples: roi_head/num_fg_samples. Where that is not recorded the box and mask
    losses tell: both are exactly zero when there is no foreground; the value is then 0, or
    undecided where they are not zero. extras: read_from, zero_share (share of rows in which
    every loss that needs foreground is zero), anchors (median positive anchors per image: some
    anchors without any foreground sample means that the labels are lost on the way).
    """
    needing = {
        k: v
        for k, v in (losses or {}).items()
        if k.startswith(("loss_box_reg", "loss_mask", "loss_keypoint")) and len(v) >= min_rows
    }
    zero_share = None
    if needing:
        rows = min(len(v) for v in needing.values())
        zero = np.all([v.values[-rows:] == 0.0 for v in needing.values()], axis=0)
        zero_share = float(zero[skip_rows:].mean()) if rows > skip_rows else None
    anchors = None
    if positive_anchors is not None and len(positive_anchors) >= min_rows:
        anchors = float(np.nanmedian(positive_anchors.values[skip_rows:]))
    extras: dict[str, Scalar] = {
        "zero_share": zero_share, "anchors": anchors, "losses": ", ".join(sorted(needing)) or None,
    }  # fmt: skip
    if foreground_samples is not None and len(foreground_samples) >= min_rows:
        values = foreground_samples.values[skip_rows:]
        extras["read_from"] = "roi_head/num_fg_samples"
        span = (int(foreground_samples.iterations[0]), int(foreground_samples.iterations[-1]))
        return Measurement(float(np.nanmedian(values)), "samples per image", span, extras)
    if zero_share is None or "loss_cls" not in " ".join(losses or {}):
        return Measurement(None, undecided="nothing recorded tells of foreground samples")
    extras["read_from"] = "losses"
    if zero_share < 0.9:
        return Measurement(
            None,
            extras=extras,
            undecided="foreground samples were not recorded, and the box loss is not zero",
        )
    return Measurement(0.0, "samples per image", None, extras)


def positive_anchors(anchors: Series, *, min_rows: int = 5, skip_rows: int = 1) -> Measurement:
    """Anchors per image that match an object (median): near zero nothing can be proposed.

    anchors: rpn/num_pos_anchors or RetinaNet's num_pos_anchors.
    """
    if len(anchors) < min_rows:
        return Measurement(None, undecided=f"only {counted(len(anchors), 'row')}")
    values = anchors.values[skip_rows:]
    extras: dict[str, Scalar] = {"lowest": float(np.nanmin(values)), "series": anchors.name}
    span = (int(anchors.iterations[0]), int(anchors.iterations[-1]))
    return Measurement(float(np.nanmedian(values)), "anchors per image", span, extras)


def foreground_accuracy(
    accuracy: Series,
    lr: Series | None = None,
    base_lr: float | None = None,
    *,
    min_effective: float = 300.0,
    min_rows: int = 20,
    last_share: float = 0.2,
) -> Measurement:
    """Share of the foreground samples that get their class right, over the last rows (median).

    accuracy: fast_rcnn/fg_cls_accuracy. Zero after hundreds of effective iterations means that
    everything is still called background. extras: first (median of the first fifth), best.
    """
    if len(accuracy) < min_rows:
        return Measurement(None, undecided=f"only {counted(len(accuracy), 'row')}")
    effective = float(accuracy.iterations[-1] + 1)
    if lr is not None and len(lr):
        peak = max(float(np.nanmax(lr.values)), base_lr or 0.0)
        mean = float(np.nanmean(lr.values)) / peak if peak > 0 else 1.0
        effective = mean * float(lr.iterations[-1] - lr.iterations[0] + lr.every)
    if effective < min_effective:
        return Measurement(None, undecided=f"only {effective:.0f} effective iterations")
    rows = max(4, int(last_share * len(accuracy)))
    extras: dict[str, Scalar] = {
        "first": float(np.nanmedian(accuracy.values[:rows])),
        "best": float(np.nanmax(accuracy.values)),
        "effective": effective,
    }
    span = (int(accuracy.iterations[-rows]), int(accuracy.iterations[-1]))
    return Measurement(float(np.nanmedian(accuracy.values[-rows:])), "share", span, extras)


def filtered_share(images: int, images_before_filter: int) -> Measurement:
    """Share of the training images that Detectron2 leaves out for want of usable annotations."""
    if images_before_filter <= 0:
        return Measurement(None, undecided="the size of the data set is not known")
    extras: dict[str, Scalar] = {
        "images": images,
        "images_before_filter": images_before_filter,
        "removed": images_before_filter - images,
    }
    return Measurement(1 - images / images_before_filter, "share", None, extras)


def training_images(images: int) -> Measurement:
    """Images that the training has to learn from, after filtering."""
    return Measurement(float(images), "images")


# A slip in the user's own code is none of his data, even where its words name a BoxMode.
_OF_CODE = ("NameError", "UnboundLocalError", "ImportError", "ModuleNotFoundError", "SyntaxError",
            "IndentationError", "AttributeError")  # fmt: skip
_DATA_ERRORS: Mapping[str, tuple[str, ...]] = {
    "class-out-of-range": ("device-side assert", "label_to_index", "index out of range in self",
                           "class index", r"\btarget -?\d+ is out of bounds"),
    "size-mismatch": ("SizeMismatchError", "Mismatched image shape", r"Mismatched \(W,H\)"),
    "empty": ("No valid data found", "Dataset is empty", "num_samples=0"),
    "box-format": ("boxes .*are not valid", "BoxMode", "bbox_mode",
                   "Relative mode not yet supported"),
    "degenerate-boxes": ("Box tensor contains infinite or NaN", "invalid boxes"),
}  # fmt: skip


def data_error(
    ending: Ending, kind: str, events: tuple[Event, ...] = (), last_iteration: int | None = None
) -> Measurement:
    """1 if the run was ended by this kind of mistake in its data, else 0.

    kind: a key of the table of Detectron2's own words for such errors. extras: message, where.
    Undecided where something else ended it before its first iteration: it may not have come as far
    as its data.
    """
    words = _DATA_ERRORS[kind]
    text = f"{ending.error or ''}: {ending.message or ''}"
    of_data = ending.kind is EndingKind.CRASHED and ending.error not in _OF_CODE
    found = of_data and any(re.search(w, text, re.IGNORECASE) for w in words)
    told = [e for e in events if e.kind == kind]
    extras: dict[str, Scalar] = {
        "message": ending.message if found else told[0].message if told else None,
        "where": ending.traceback[-1] if ending.traceback else None,
    }
    undecided = None
    if not told and ending.kind in (EndingKind.UNKNOWN, EndingKind.TRUNCATED):
        undecided = NO_ENDING[ending.kind]
    elif not (found or told) and ending.kind in BROKEN:
        if not ending.iteration and last_iteration is None:
            undecided = "the training ended before its first iteration"
    return Measurement(float(found or bool(told)), "yes/no", None, extras, undecided)


def box_format(
    ending: Ending,
    events: tuple[Event, ...] = (),
    sampled: int | None = None,
    misplaced: int | None = None,
    declared: str | None = None,
    reading: str | None = None,
    misplaced_so: int | None = None,
    last_iteration: int | None = None,
    *,
    min_boxes: int = 20,
) -> Measurement:
    """Share of the boxes that cannot be meant as they say; 1 where Detectron2 refused them.

    sampled, misplaced, ...: the facts `boxes_*`, counts. extras: refused (1 or 0), message and
    where of the refusal; count of the misplaced boxes, sampled, declared, reading (the other way to
    read the numbers that misplaces the fewest) and share_so (how many that are).
    """
    refusal = data_error(ending, "box-format", events, last_iteration)
    extras: dict[str, Scalar] = {
        "refused": refusal.value,
        **refusal.extras,
        "sampled": sampled,
        "count": misplaced,
        "declared": declared,
        "reading": reading,
        "share_so": misplaced_so / sampled if sampled and misplaced_so is not None else None,
    }
    if refusal.value:
        return Measurement(1.0, "share", None, extras)
    if sampled == 0:
        return Measurement(None, undecided="the data set has no upright boxes in pixels")
    if sampled is None or misplaced is None:
        why = refusal.undecided or "nobody looked at the boxes of the data set; `d2check run` does"
        return Measurement(None, undecided=why)
    if sampled < min_boxes:
        return Measurement(None, undecided=f"only {sampled} boxes could be looked at")
    return Measurement(misplaced / sampled, "share", None, extras)


def emptiness(
    ending: Ending,
    events: tuple[Event, ...] = (),
    last_iteration: int | None = None,
    instances: int | None = None,
    images: int | None = None,
) -> Measurement:
    """1 where there is nothing to train on: no usable image is left, or none has an object.

    instances, images: of the training set, after the filters. extras: message and where of the
    error that says so, images (that have no object).
    """
    broke = data_error(ending, "empty", events, last_iteration)
    if broke.value or instances is None:
        return broke
    return Measurement(float(instances == 0), "yes/no", None, {**broke.extras, "images": images})


def class_range(
    ending: Ending,
    events: tuple[Event, ...] = (),
    highest: int | None = None,
    classes: int | None = None,
    last_iteration: int | None = None,
) -> Measurement:
    """Classes by which the highest id exceeds the model's last; at least 1 where it broke the loss.

    highest: class id of the objects that the model was given. classes: that it is built for, so
    its ids are 0 to classes - 1 and `classes` itself is background. extras: message and where of
    the break, highest, last (the model's last id).
    """
    broke = data_error(ending, "class-out-of-range", events, last_iteration)
    extras: dict[str, Scalar] = {**broke.extras, "highest": highest, "last": None}
    beyond = 0.0
    if highest is not None and classes is not None:
        extras["last"] = classes - 1
        beyond = float(max(0, highest - (classes - 1)))
    if broke.value:
        return Measurement(max(1.0, beyond), "classes", None, extras)
    if extras["last"] is None:
        why = (
            "nobody looked at the class ids of the objects; `d2check run` does as it trains on them"
        )
        return Measurement(None, undecided=broke.undecided or why)
    return Measurement(beyond, "classes", None, extras)


def boxes_off_masks(compared: int, outside: int, *, min_objects: int = 20) -> Measurement:
    """Share of the objects that the loader yields whose mask lies mostly outside their box.

    extras: compared, outside.
    """
    if compared < min_objects:
        return Measurement(None, undecided=f"only {counted(compared, 'object')} with a mask")
    extras: dict[str, Scalar] = {"compared": compared, "outside": outside}
    return Measurement(outside / compared, "share", None, extras)


def boxes_left_behind(
    compared: int,
    not_compared: int,
    followed: int,
    stayed: int,
    elsewhere: int,
    moved: int,
    resized: int,
    why: str | None = None,
    fault: str | None = None,
    kind: str | None = None,
    agree: int | None = None,
    of: int | None = None,
    *,
    min_images: int = 4,
) -> Measurement:
    """Share of the images, of those that could show it, whose boxes did not go with the image.

    All are the facts `drawn_*`. The commonest fault counts, and the images in which it would have
    been seen. extras: compared, followed, told (images that could show a fault), stray (of them,
    images that neither followed nor agree), stray_share, moved, resized, fault (in words), kind,
    agree (images with that fault), of.
    """
    agree, of = agree or 0, of or 0
    told = followed + stayed + elsewhere
    if told < min_images:
        also = f", mostly because {why}" if why else ""
        seen = compared + not_compared
        return Measurement(
            None, undecided=f"the boxes of only {told} of {seen} images could be compared{also}"
        )
    stray = told - followed - (agree if agree > 1 else 0)
    extras: dict[str, Scalar] = {
        "compared": compared,
        "followed": followed,
        "told": told,
        "stray": stray,
        "stray_share": stray / told,
        "moved": moved,
        "resized": resized,
        "fault": fault,
        "kind": kind,
        "agree": agree,
        "of": of,
    }
    return Measurement(agree / of if of else 0.0, "share", None, extras)


def imbalance(rarest: int, commonest: int) -> Measurement:
    """Objects of the commonest class over those of the rarest that occurs. extras: both counts."""
    extras: dict[str, Scalar] = {"rarest": rarest, "commonest": commonest}
    return Measurement(commonest / max(rarest, 1), "ratio", None, extras)


def anchor_fit(object_size_px: float, anchor_sizes: Sequence[object]) -> Measurement:
    """Size of the middle object, as the network sees it, over that of the smallest anchor.

    object_size_px: median square root of the boxes' areas after resizing. anchor_sizes:
    MODEL.ANCHOR_GENERATOR.SIZES, sizes by level or one list for all. extras: object_px,
    smallest_anchor, proposed_smallest (the power of two nearest to the middle object, 8 or more).
    """
    levels = [level if isinstance(level, Sequence) else [level] for level in anchor_sizes]
    sizes = [float(s) for level in levels for s in level if isinstance(s, (int, float))]
    if not sizes or min(sizes) <= 0 or object_size_px <= 0:
        return Measurement(None, undecided="the sizes of the anchors are not known")
    extras: dict[str, Scalar] = {
        "object_px": float(object_size_px),
        "smallest_anchor": min(sizes),
        "proposed_smallest": max(8, 2 ** round(math.log2(object_size_px))),
    }
    return Measurement(object_size_px / min(sizes), "ratio", None, extras)
