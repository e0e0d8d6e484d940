"""How large the images of a training are, and what its transforms make of them.

Enough for the checker to draw batches as the loader does: `data-set.json` in the run folder.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from . import wire
from .phases.loader import find_mapped
from .redact import redact

if TYPE_CHECKING:
    from .session import Session

LISTED = 20000  # images told one by one; of a larger set these stand for the others
HEAVIEST = 200  # always listed: the largest, and those with the most objects
NAMED = 20  # of each kind told by file name
SAME_SIZE = (
    "RandomFlip",
    "RandomBrightness",
    "RandomContrast",
    "RandomSaturation",
    "RandomLighting",
    "NoOpTransform",
    "HFlipTransform",
    "VFlipTransform",
    "BlendTransform",
)


class SizesUnknown(Exception):
    """Why the sizes of the training's images cannot be foretold, in words for the user."""


def transforms_of(loader: Any) -> list[dict[str, Any]]:
    """What the mapper's augmentations do to the size of an image, in their order.

    Raises SizesUnknown for a mapper without a list of them, or an augmentation that is not known.
    """
    mapper = getattr(find_mapped(loader), "_map_func", None)
    mapper = getattr(mapper, "_obj", mapper)  # out of Detectron2's PicklableWrapper
    listed = getattr(mapper, "augmentations", None)
    listed = getattr(listed, "augs", None) or listed
    if not listed:
        raise SizesUnknown("the data mapper shows no list of augmentations")
    return [made for made in map(_transform, listed) if made is not None]


def _transform(one: Any) -> dict[str, Any] | None:
    kind = type(one).__name__
    if kind in SAME_SIZE:
        return None
    if kind == "ResizeShortestEdge":
        lengths = [int(length) for length in one.short_edge_length]
        longest = min(int(one.max_size), 2**31)
        return {"kind": "shortest", "lengths": lengths, "range": bool(one.is_range),
                "longest": longest}  # fmt: skip
    if kind == "RandomCrop":
        size = [float(part) for part in one.crop_size]
        return {"kind": "crop", "type": str(one.crop_type), "size": size}
    if kind == "Resize":
        return {"kind": "fixed", "size": [int(part) for part in one.shape]}
    if kind == "FixedSizeCrop":
        return {"kind": "fixed" if getattr(one, "pad", True) else "at-most",
                "size": [int(part) for part in one.crop_size]}  # fmt: skip
    if kind == "ResizeScale":
        return {"kind": "scale", "least": float(one.min_scale), "most": float(one.max_scale),
                "size": [int(one.target_height), int(one.target_width)]}  # fmt: skip
    raise SizesUnknown("what the augmentation %s makes of an image's size is not known" % kind)


def largest_sizes(
    height: Any, width: Any, transforms: list[dict[str, Any]]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The largest (heights, widths) that the transforms make of images, in pixels.

    A crop of random shape may come out at any: its images count as high and as wide as they can
    be, one at a time.
    """
    tall, wide = np.asarray(height, float), np.asarray(width, float)
    for one in transforms:
        kind = one["kind"]
        if kind == "crop":
            tall, wide = _largest_crop(tall, wide, one)
        elif kind == "shortest":
            short = max(one["lengths"])
            if short:
                scale = short / np.minimum(tall, wide)
                scale = np.minimum(scale, one["longest"] / np.maximum(tall, wide))
                tall, wide = np.floor(tall * scale + 0.5), np.floor(wide * scale + 0.5)
        elif kind == "scale":
            target = [part * one["most"] for part in one["size"]]
            scale = np.minimum(target[0] / tall, target[1] / wide)
            tall, wide = np.round(tall * scale), np.round(wide * scale)
        else:
            at_most = kind == "at-most"
            tall, wide = (
                np.minimum(side, part) if at_most else np.full_like(side, part)
                for side, part in zip((tall, wide), one["size"])
            )
    return tall, wide


def _largest_crop(tall: Any, wide: Any, crop: dict[str, Any]) -> tuple[Any, Any]:
    first, second = crop["size"]
    if crop["type"] == "relative":
        return np.floor(tall * first + 0.5), np.floor(wide * second + 0.5)
    if crop["type"] == "absolute":
        return np.minimum(tall, first), np.minimum(wide, second)
    if crop["type"] == "absolute_range":
        return np.minimum(tall, second), np.minimum(wide, second)
    return tall, wide


def largest_padded(
    heights: Any, widths: Any, wide_group: Any, *, grouping: bool
) -> tuple[int, int]:
    """(height, width) that a batch can be padded to: the largest height and the largest width.

    wide_group: of each image whether it is wider than high before the transforms; with grouping
    (DATALOADER.ASPECT_RATIO_GROUPING) wide images meet only wide ones.
    """
    group = np.asarray(wide_group, bool) & grouping
    sizes = [
        (int(heights[group == one].max()), int(widths[group == one].max()))
        for one in np.unique(group)
    ]
    return max(sizes, key=lambda size: size[0] * size[1])


def groups_by_aspect(loader: Any) -> bool:
    """Whether the loader makes batches of wide and of tall images apart."""
    layer = loader
    for _ in range(10):
        if "AspectRatioGrouped" in type(layer).__name__:
            return True
        own = getattr(layer, "__dict__", {})
        layer = own.get("dataset", own.get("_dataset"))
        if layer is None:
            return False
    return False


def frequencies(loader: Any, images: int) -> tuple[str, np.ndarray[Any, Any] | None]:
    """The training sampler's name, and how often it takes each image against the others.

    None where that is not known.
    """
    sampler, layer = None, loader
    for _ in range(10):
        own = getattr(layer, "__dict__", {})
        found = own.get("sampler", own.get("_sampler"))
        # A DataLoader over an iterable has a sampler without end of its own.
        if found is not None and "Infinite" not in type(found).__name__:
            sampler = found
        layer = own.get("dataset", own.get("_dataset"))
        if layer is None:
            break
    name = type(sampler).__name__
    even = np.ones(images)
    whole, part = getattr(sampler, "_int_part", None), getattr(sampler, "_frac_part", None)
    if whole is not None and part is not None:
        repeats = np.asarray(whole + part, float)
        return name, repeats if len(repeats) == images else None
    subset = getattr(sampler, "_indexes_subset", None)
    if subset is not None:
        even[:] = 0
        even[np.asarray(subset)] = 1
        return name, even
    return name, even if name in ("TrainingSampler", "RandomSampler") else None


def listed(
    heights: Any, widths: Any, objects: Any, often: Any, most: int = LISTED
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(indices, weights): the images to tell, and for how many draws each stands.

    All of them, or the heaviest and others evenly over the set that stand for the rest.
    """
    count = len(objects)
    if count <= most:
        return np.arange(count), np.asarray(often, float)
    keys = (heights * widths, heights, widths, objects)
    heavy = np.unique(np.concatenate([np.argsort(key)[-HEAVIEST:] for key in keys]))
    rest = np.setdiff1d(np.arange(count), heavy)
    taken = rest[np.linspace(0, len(rest) - 1, most - len(heavy)).astype(int)]
    # Frequencies of the taken, scaled so that together they weigh as much as all of the rest.
    share = often[rest].sum() / max(often[taken].sum(), 1e-9)
    order = np.concatenate((heavy, taken))
    return order, np.concatenate((often[heavy], often[taken] * share))


def write(
    session: Session,
    loader: Any,
    shapes: list[tuple[int, int, int]],
    files: list[Any] | None,
    divisibility: int,
) -> None:
    """Write data-set.json. Raises SizesUnknown, or OSError where it cannot be written."""
    transforms = transforms_of(loader)
    height, width, objects = np.asarray(shapes).T
    sampler, often = frequencies(loader, len(shapes))
    known = often is not None
    often = often if often is not None else np.ones(len(shapes))
    tall, wide = largest_sizes(height, width, transforms)
    order, weights = listed(tall, wide, objects, often)
    told = {
        "schema": wire.SCHEMA,
        "images": len(shapes),
        "listed": len(order),
        "sampler": sampler,
        "sampler_known": known,
        "grouping": groups_by_aspect(loader),
        "divisibility": divisibility,
        "transforms": transforms,
        "height": height[order].tolist(),
        "width": width[order].tolist(),
        "objects": objects[order].tolist(),
        "weight": [round(float(weight), 4) for weight in weights],
        "named": _named(tall * wide, objects, order, files),
    }
    path = os.path.join(session.plan.folder, wire.DATA_SET)
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(told, file, separators=(",", ":"))
    os.replace(path + ".new", path)


def _named(area: Any, objects: Any, order: Any, files: list[Any] | None) -> dict[str, str]:
    """File names of the largest images and of those with the most objects, by their place."""
    if files is None:
        return {}
    place = {int(index): at for at, index in enumerate(order)}
    heavy = {int(i) for key in (area, objects) for i in np.argsort(key, kind="stable")[-NAMED:]}
    found = {place[i]: files[i] for i in heavy if i in place and files[i]}
    return {str(at): redact(str(name)) for at, name in sorted(found.items())}
