"""Which head a loss is of, by its name and by the names beside it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

from d2check.explain.readings import LossKind

_PROPOSALS = frozenset({"loss_rpn_cls", "loss_objectness"})
# Detectron2, maskrcnn_benchmark, PointRend, Panoptic FPN.
_ALWAYS: dict[str, LossKind] = {
    "loss_rpn_cls": "objectness",
    "loss_objectness": "objectness",
    "loss_rpn_loc": "proposal-box",
    "loss_rpn_box_reg": "proposal-box",
    "loss_keypoint": "keypoint",
    "loss_fcos_cls": "focal",
    "loss_fcos_loc": "overlap",
    "loss_fcos_ctr": "centerness",
    "loss_centerness": "centerness",
    "loss_sem_seg": "semantic",
    "loss_mask_point": "points",
    "loss_sem_seg_point": "points",
}
# DETR, MaskFormer and what was made of them (detrex, Sparse R-CNN, DiffusionDet, Mask2Former).
_OF_QUERIES: dict[str, LossKind] = {
    "loss_ce": "query-class",
    "loss_class": "query-class",
    "loss_bbox": "query-box",
    "loss_giou": "query-overlap",
    "loss_dice": "dice",
    "loss_mask": "query-mask",
}
_QUERY_SIGNS = frozenset({"loss_giou", "loss_dice"})
_LAYER = re.compile(r"(?P<base>.+?)_(?P<layer>\d+)")
FEWEST_LAYERS = 3


def kind_of(name: str, names: Collection[str]) -> LossKind:
    """The kind of a loss. names: all that stand in the same row."""
    head, _, stage = name.partition("_stage")
    if stage and not stage.isdigit():
        return "other"
    if head in _ALWAYS:
        return _ALWAYS[head]
    if head in _OF_QUERIES and _QUERY_SIGNS & set(names):
        return _OF_QUERIES[head]
    proposals = bool(_PROPOSALS & set(names))
    metric_learning = any(other.startswith("loss_triplet") for other in names)
    if name.startswith("loss_triplet"):
        return "triplet"
    if metric_learning and name.startswith("loss_cls"):
        return "identity"
    centres = any("centernet" in other for other in names)
    if head in ("loss_cls", "loss_classifier"):
        if proposals:
            return "classifier"
        return "proposal-class" if stage or centres else "focal"
    if head == "loss_box_reg":
        return "box" if proposals or stage or centres else "anchor-box"
    if head == "loss_reg" and "loss_centerness" in names:
        return "overlap"
    return "mask" if head == "loss_mask" else "other"


def layers_of(names: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(base, names) of the losses that a decoder has of each of its layers, first layer first."""
    found: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        layer = _LAYER.fullmatch(name)
        if layer:
            found.setdefault(layer["base"], []).append((int(layer["layer"]), name))
    for base, members in found.items():
        plain = re.sub(r"(_dn|_interm|_enc|_aux)+$", "", base)
        if len(members) >= FEWEST_LAYERS and kind_of(plain, names) in _OF_QUERIES.values():
            yield base, tuple(name for _, name in sorted(members))
