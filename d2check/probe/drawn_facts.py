"""What became of the first images and their boxes, as facts: counts, and the fault in words."""

from __future__ import annotations

import collections
import statistics
from typing import Any

from . import left_behind, moves

RESIZED_ALONE = "resized alone"


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
    stayed = [fate for fate in fates if fate.end == "stayed"]
    if stayed:
        as_in_file = any(fate.fault == left_behind.NEITHER for fate in stayed)
        kinds = [_kind(fate, as_in_file) for fate in stayed]
        kind = collections.Counter(kinds).most_common(1)[0][0]
        same = [fate for fate, its in zip(stayed, kinds) if its == kind]
        of = {kind[0], left_behind.UNMIRRORED} if as_in_file else {kind[0]}
        sound = [fate for fate in fates if fate.end == "followed" and fate.tells & of]
        told.update(
            drawn_fault=in_words(same),
            drawn_fault_kind=kind[0],
            drawn_fault_images=len(same),
            drawn_fault_of=len(same) + len(sound),
        )
    return told


def _kind(fate: left_behind.Fate, as_in_file: bool) -> tuple[str, moves.Move]:
    """What faults of several images have in common: the fault and, by chance or not, the move.

    as_in_file: boxes keep the pixels of the file. An image that is only mirrored, or only resized,
    shows half of it.
    """
    fault = str(fate.fault)
    halves = (left_behind.NEITHER, left_behind.UNMIRRORED, left_behind.UNSCALED)
    if as_in_file and fault in halves:
        fault = left_behind.UNSCALED
    if fault == left_behind.RESCALED and not fate.resized:
        fault = RESIZED_ALONE
    tells_move = fault in (left_behind.ALONE, left_behind.OTHERWISE)
    return fault, fate.boxes_moved if tells_move else moves.UNMOVED


def in_words(fates: list[left_behind.Fate]) -> str:
    """What happened to images and their boxes, from several that agree."""
    first, fault = fates[0], fates[0].fault
    moved = collections.Counter(fate.move.words for fate in fates).most_common(1)[0][0]
    scales = [fate.scale for fate in fates if fate.resized] or [fate.scale for fate in fates]
    resized = _resized(statistics.median(scales))
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
