"""What became of the first images and their boxes, as facts: counts, and the fault in words."""

from __future__ import annotations

import collections
import statistics
from typing import Any

from . import left_behind, moves


def summary(fates: list[left_behind.Fate], unclear: collections.Counter[str]) -> dict[str, Any]:
    """Facts `drawn_*` of all images that were seen."""
    ends = collections.Counter(fate.end for fate in fates)
    told: dict[str, Any] = {
        "drawn_compared": len(fates),
        "drawn_not_compared": sum(unclear.values()),
        "drawn_moved": sum(fate.move != moves.UNMOVED for fate in fates),
        "drawn_resized": sum(fate.resized for fate in fates),
        "drawn_followed": ends["followed"],
        "drawn_elsewhere": ends["elsewhere"],
        "drawn_untold": ends["untold"],
        "drawn_stayed": ends["stayed"],
    }
    if unclear:
        told["drawn_not_compared_why"] = unclear.most_common(1)[0][0]
    stayed = collections.Counter(_kind(fate) for fate in fates if fate.end == "stayed")
    if stayed:
        kind = stayed.most_common(1)[0][0]
        same = [fate for fate in fates if fate.end == "stayed" and _kind(fate) == kind]
        sound = [fate for fate in fates if fate.end == "followed" and kind[0] in fate.tells]
        told.update(
            drawn_fault=in_words(same),
            drawn_fault_kind=_kind_in_words(same),
            drawn_fault_images=len(same),
            drawn_fault_of=len(same) + len(sound),
        )
    return told


def _kind(fate: left_behind.Fate) -> tuple[Any, ...]:
    """What faults of several images have in common."""
    fault = fate.fault
    if fault == left_behind.NEITHER:
        fault = left_behind.UNSCALED  # images that are not mirrored show only half of it
    if fault in (left_behind.ALONE, left_behind.OTHERWISE):
        return fault, fate.boxes_moved
    return (fault,)


def _kind_in_words(fates: list[left_behind.Fate]) -> str:
    kind = str(_kind(fates[0])[0])
    alone = kind == left_behind.RESCALED and not any(fate.resized for fate in fates)
    return "resized alone" if alone else kind


def in_words(fates: list[left_behind.Fate]) -> str:
    """What happened to images and their boxes, from several that agree."""
    first, fault = fates[0], fates[0].fault
    moved = collections.Counter(fate.move.words for fate in fates).most_common(1)[0][0]
    resized = _resized(statistics.median(fate.scale for fate in fates))
    boxes = first.boxes_moved.words
    if any(fate.fault == left_behind.NEITHER for fate in fates):
        also = next(f.move.words for f in fates if f.fault == left_behind.NEITHER)
        return "images are %s and %s, and their boxes keep the pixels of the file" % (resized, also)
    if fault == left_behind.UNMIRRORED:
        return "images are %s, and their boxes are not" % moved
    if fault == left_behind.UNSCALED:
        return "images are %s, and their boxes keep the pixels of the file" % resized
    if fault == left_behind.ALONE:
        return "boxes are %s, and their images are not" % boxes
    if fault == left_behind.OTHERWISE:
        return "images are %s, and their boxes %s" % (moved, boxes)
    if fault == left_behind.RESCALED:
        own = _resized(statistics.median(fate.boxes_scale for fate in fates))
        other = "images are %s" % resized if any(f.resized for f in fates) else "images are not"
        return "boxes are %s, and their %s" % (own, other)
    if fault == left_behind.UNPADDED:
        return "images are padded, and their boxes are laid as if they were not"
    return "width and height of boxes are taken for their right and lower edge"


def _resized(scale: float) -> str:
    stretched = abs(scale - 1) < left_behind.RESIZED
    return "stretched" if stretched else "resized by %.2g" % scale
