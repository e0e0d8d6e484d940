"""Whether the model starts from the weights that were meant, and whether they move."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from d2check.checks._words import counted
from d2check.model import Event, Measurement, Scalar, Series

# Layers whose size is that of the list of classes: their loss is as it should be.
_CLASS_SIZED = re.compile(r"predictor|cls_score|bbox_pred|class_embed|cls_pred|score_lowres|logits")


def lost_weights(
    weights_total: int | None = None,
    weights_missing: int | None = None,
    weights_skipped: int | None = None,
    events: tuple[Event, ...] = (),
    checkpoint: str | None = None,
    weights: str | None = None,
    weights_backbone: int | None = None,
    weights_backbone_missing: int | None = None,
) -> Measurement:
    """Share of the model's weights that the checkpoint has in another shape, and so are skipped.

    A few are normal: the layers whose size depends on the number of classes. A log names the lost
    weights (events skipped-weights and missing-weights) and not how many there are; the value is
    then None. weights: MODEL.WEIGHTS.

    extras: skipped, missing, total, skipped_share (the value, 0 where it is None), missing_share
    (not in the checkpoint at all; an ImageNet backbone brings nothing for pyramid and heads; 0
    where the total is not known), others_skipped (not sized by the classes), backbone_missing
    (below the pyramid; by the log's names), backbone_share (missing of the backbone's weights; 0
    where these were not counted), backbone_lost (how many, where it is most), backbone, example.
    """
    if weights_total is not None and weights_total > 0:
        missing, skipped = weights_missing or 0, weights_skipped or 0
        lost_there = (weights_backbone_missing or 0) / max(weights_backbone or 0, 1)
        extras: dict[str, Scalar] = {
            "skipped": skipped,
            "missing": missing,
            "total": weights_total,
            "skipped_share": skipped / weights_total,
            "missing_share": missing / weights_total,
            "others_skipped": 0,
            "backbone_missing": 0,
            "backbone_share": lost_there,
            "backbone_lost": weights_backbone_missing if lost_there > 0.5 else None,
            "backbone": weights_backbone,
        }
        return Measurement(skipped / weights_total, "share", None, extras)
    lost, absent = _named(events, "skipped-weights"), _named(events, "missing-weights")
    if not (lost or absent or checkpoint):
        words = "nothing tells which weights were loaded"
        if weights == "":
            words = "the config names no checkpoint to load"
        return Measurement(None, undecided=words)
    others = [name for name in lost if not _CLASS_SIZED.search(name)]
    backbone = [n for n in absent if n.startswith("backbone.") and ".fpn_" not in n]
    extras = {
        "skipped": len(lost),
        "missing": len(absent),
        "total": None,
        "skipped_share": 0.0,
        "missing_share": 0.0,
        "others_skipped": len(others),
        "backbone_missing": len(backbone),
        "backbone_share": 0.0,
        "example": next(iter(others or backbone or lost or absent), None),
    }
    return Measurement(None, "share", None, extras)


def _named(events: tuple[Event, ...], kind: str) -> list[str]:
    told = (event.message.split(",") for event in events if event.kind == kind)
    return [name.strip() for names in told for name in names if name.strip()]


def scratch_images(
    weights: str,
    planned_iterations: int,
    images_per_batch: int,
    parameters: int | None = None,
    checkpoint: str | None = None,
    first_iteration: int | None = None,
) -> Measurement:
    """Images that the planned training shows to a model without pretrained weights.

    weights: MODEL.WEIGHTS. checkpoint: what a log says was loaded. Infinite where weights are
    loaded. extras: loaded_from, parameters. Undecided for rows of a resumed training, whose weights
    come from its checkpoint.
    """
    loaded_from = checkpoint or weights or None
    extras: dict[str, Scalar] = {"loaded_from": _short(loaded_from), "parameters": parameters}
    if loaded_from is None and _resumed(first_iteration):
        return Measurement(None, extras=extras, undecided=_RESUMED)
    seen = math.inf if loaded_from else float(planned_iterations * images_per_batch)
    return Measurement(seen, "images", None, extras)


def from_scratch(
    weights: str | None = None,
    freeze_at: int | None = None,
    norm: str | None = None,
    checkpoint: str | None = None,
    first_iteration: int | None = None,
    backbone: str | None = None,
    frozen_norms: int | None = None,
    identity_norms: int | None = None,
    frozen_convolutions: int | None = None,
    state_dicts_loaded: int | None = None,
    meta_architecture: str | None = None,
) -> Measurement:
    """1 if no weights are loaded and yet parts are frozen or use frozen statistics, else 0.

    weights: MODEL.WEIGHTS. checkpoint: what a log says was loaded. Frozen layers with random
    weights never become features, and a frozen norm from scratch is the identity: activations
    explode. extras: frozen (what is, in words, or None), loaded_from. Undecided for rows of a
    resumed training.

    frozen_norms, identity_norms, frozen_convolutions and state_dicts_loaded are what the model
    itself showed when it was first run: its frozen norms, how many of them are still as they were
    made, its frozen convolutions, and whether anything was loaded into it. Where nobody saw the
    model the settings must tell; undecided then for a model (MODEL.META_ARCHITECTURE) that is not
    Detectron2's own, and for a backbone (MODEL.BACKBONE.NAME) that is no ResNet: it has its own
    settings and often loads its weights itself.
    """
    loaded_from = checkpoint or weights or None
    if loaded_from:
        extras: dict[str, Scalar] = {"frozen": None, "loaded_from": _short(loaded_from)}
        return Measurement(0.0, "yes/no", None, extras)
    if _resumed(first_iteration):
        return Measurement(None, undecided=_RESUMED)
    if state_dicts_loaded is not None:
        return _frozen_in_model(
            frozen_norms or 0, identity_norms or 0, frozen_convolutions or 0, state_dicts_loaded
        )
    if meta_architecture is not None and meta_architecture not in _OWN_MODELS:
        return Measurement(None, undecided="another model may not use these settings")
    if backbone is not None and "resnet" not in backbone.lower():
        return Measurement(None, undecided=f"{backbone} may load and freeze by itself")
    parts = []
    if freeze_at and freeze_at > 0:
        parts.append(f"the first {freeze_at} stages" if freeze_at > 1 else "the stem")
    if norm == "FrozenBN":
        parts.append("the statistics of FrozenBN")
    extras = {"frozen": " and ".join(parts) or None, "loaded_from": None}
    return Measurement(float(bool(parts)), "yes/no", None, extras)


def _frozen_in_model(norms: int, identities: int, convolutions: int, loads: int) -> Measurement:
    """The same, by the layers that the model has."""
    frozen = convolutions + norms > 0
    if norms > identities or (loads and not frozen):  # values that no new layer has
        extras: dict[str, Scalar] = {"frozen": None, "loaded_from": "by the model itself"}
        return Measurement(0.0, "yes/no", None, extras)
    parts = []
    if convolutions:
        parts.append(counted(convolutions, "convolution") + " of the backbone")
    if norms:
        parts.append("the statistics of " + counted(norms, "frozen norm"))
    if frozen and loads:
        return Measurement(None, undecided="the model loads weights past its config")
    extras = {"frozen": " and ".join(parts) or None, "loaded_from": None}
    return Measurement(float(bool(parts)), "yes/no", None, extras)


_OWN_MODELS = {"GeneralizedRCNN", "RetinaNet", "PanopticFPN", "ProposalNetwork"}
_RESUMED = "the rows begin in mid-training: its weights came from a checkpoint"
_NEAR_START = 100


def _resumed(first_iteration: int | None) -> bool:
    return first_iteration is not None and first_iteration > _NEAR_START


def _short(name: str | None) -> str | None:
    """The last two parts of a path: enough to know a file of the model zoo by."""
    return None if name is None else "/".join(name.replace("\\", "/").split("/")[-2:])


def untouched_groups(events: tuple[Event, ...], recorded: Series) -> Measurement:
    """How many trainable parameters (or groups of them) were never changed by the training.

    events of kind untouched, whose message lists the names after a colon. recorded: a series that
    only a training under d2check has, for nothing else compares the parameters. extras: names (the
    first ones), counted ("1 parameter", "4 parameters").
    """
    told = [event.message.partition(": ")[2] for event in events if event.kind == "untouched"]
    names = [name.strip() for text in told for name in text.split(",") if name.strip()]
    shown = ", ".join(names[:4]) + (" ..." if len(names) > 4 else "")
    span = (int(recorded.iterations[0]), int(recorded.iterations[-1])) if len(recorded) else None
    extras: dict[str, Scalar] = {
        "names": shown or None,
        "counted": counted(len(names), "parameter"),
    }
    return Measurement(float(len(names)), "parameters", span, extras)


# Of the model zoo's 41 yacs models outside Misc all are trained on BGR: the four X_101 with a
# deviation of 58, the others, whose backbones are MSRA's, with one of 1.
_OF_ZOO = re.compile(
    r"detectron2:?/{1,2}(coco-(detection|instancesegmentation|keypoints|panopticsegmentation)"
    r"|lvisv0\.5-instancesegmentation|pascalvoc-detection|cityscapes|detectron1-comparisons)"
    r"/\w+/\d{6,}/model_final_\w+\.pkl"
)


def pixel_statistics(
    weights: str,
    pixel_std: Sequence[float],
    pixel_mean: Sequence[float],
    image_format: str,
    checkpoint: str | None = None,
    stride_in_1x1: bool | None = None,
    backbone: str | None = None,
) -> Measurement:
    """1 if the normalisation of the pixels does not fit the family of the weights, else 0.

    weights: MODEL.WEIGHTS. checkpoint: what a log says was loaded, which counts where it is known.
    torchvision's, timm's and MoCo's weights want RGB and a std of about 58; Detectron2's MSRA
    weights want BGR and a std of 1, its X-101-32x8d BGR and a std of about 58 (as the model zoo's
    configs have it). Undecided without weights, and where the family is not to be told from the
    name. extras: family, std (mean of the three), image_format, stride_fits ("no" for a ResNet with
    MODEL.RESNETS.STRIDE_IN_1X1, as only Detectron2's MSRA weights have it).
    """
    name = (checkpoint or weights).lower()
    std = sum(float(v) for v in pixel_std) / max(len(pixel_std), 1)
    if not name:
        return Measurement(None, undecided="the config names no pretrained weights")
    if any(word in name for word in ("torchvision", "timm", "moco", "dino", "swin")):
        family = "torchvision"
    elif "x-101-32x8d" in name or (_OF_ZOO.search(name) and "x_101" in name):
        family = "x101"
    elif "imagenetpretrained/msra" in name or _OF_ZOO.search(name):
        family = "msra"
    else:
        return Measurement(None, undecided="the weights' name does not tell how pixels were scaled")
    extras: dict[str, Scalar] = {
        "family": family,
        "std": std,
        "mean": sum(float(v) for v in pixel_mean) / max(len(pixel_mean), 1),
        "image_format": image_format,
        "stride_fits": "no" if stride_in_1x1 and "resnet" in (backbone or "").lower() else "yes",
    }
    if family == "torchvision":
        wrong = std <= 2.0 or image_format != "RGB"
    elif family == "x101":
        wrong = std <= 2.0 or image_format != "BGR"
    else:
        wrong = not 0.5 <= std <= 2.0 or image_format != "BGR"
    return Measurement(float(wrong), "yes/no", None, extras)
