"""Whether the model starts from the weights that were meant, and whether they move."""

from __future__ import annotations

import math
from collections.abc import Sequence

from d2check.model import Event, Measurement, Scalar, Series


def lost_weights(
    weights_total: int, weights_missing: int | None = None, weights_skipped: int | None = None
) -> Measurement:
    """Share of the model's weights that the checkpoint has in another shape, and so are skipped.

    A few are normal: the layers whose size depends on the number of classes. extras: skipped,
    missing, total, missing_share (not in the checkpoint at all; an ImageNet backbone brings
    nothing for pyramid and heads).
    """
    if weights_total <= 0:
        return Measurement(None, undecided="the number of weights is not known")
    missing, skipped = weights_missing or 0, weights_skipped or 0
    extras: dict[str, Scalar] = {
        "skipped": skipped,
        "missing": missing,
        "total": weights_total,
        "missing_share": missing / weights_total,
    }
    return Measurement(skipped / weights_total, "share", None, extras)


def scratch_images(
    weights: str,
    planned_iterations: int,
    images_per_batch: int,
    parameters: int | None = None,
) -> Measurement:
    """Images that the planned training shows to a model without pretrained weights.

    Infinite where weights are loaded (MODEL.WEIGHTS). extras: loaded ("yes", "no"), parameters.
    """
    loaded = bool(weights)
    seen = math.inf if loaded else float(planned_iterations * images_per_batch)
    extras: dict[str, Scalar] = {"loaded": "yes" if loaded else "no", "parameters": parameters}
    return Measurement(seen, "images", None, extras)


def from_scratch(
    weights: str, freeze_at: int | None = None, norm: str | None = None
) -> Measurement:
    """1 if no weights are loaded, 2 if parts are frozen or use frozen statistics besides, else 0.

    weights: MODEL.WEIGHTS. Frozen layers with random weights never become features, and a frozen
    norm from scratch is the identity: activations explode. extras: frozen ("norm", "layers",
    "both" or None).
    """
    if weights:
        return Measurement(0.0, "", None, {"frozen": None})
    frozen_norm = norm == "FrozenBN"
    frozen_layers = bool(freeze_at and freeze_at > 0)
    frozen = {(True, True): "both", (True, False): "norm", (False, True): "layers"}.get(
        (frozen_norm, frozen_layers)
    )
    return Measurement(2.0 if frozen else 1.0, "", None, {"frozen": frozen})


def untouched_groups(events: tuple[Event, ...], recorded: Series) -> Measurement:
    """How many trainable parameters (or groups of them) were never changed by the training.

    events of kind untouched, whose message lists the names after a colon. recorded: a series that
    only a training under d2check has, for nothing else compares the parameters. extras: names (the
    first ones).
    """
    told = [event.message.partition(": ")[2] for event in events if event.kind == "untouched"]
    names = [name.strip() for text in told for name in text.split(",") if name.strip()]
    shown = ", ".join(names[:4]) + (" ..." if len(names) > 4 else "")
    span = (int(recorded.iterations[0]), int(recorded.iterations[-1])) if len(recorded) else None
    return Measurement(float(len(names)), "parameters", span, {"names": shown or None})


def pixel_statistics(
    weights: str, pixel_std: Sequence[float], pixel_mean: Sequence[float], image_format: str
) -> Measurement:
    """1 if the normalisation of the pixels does not fit the family of the weights, else 0.

    torchvision's, timm's and MoCo's weights want RGB and a std of about 58; Detectron2's MSRA
    weights want BGR and a std of 1, its X-101-32x8d BGR and a std of about 58 (as the model zoo's
    configs have it). Undecided where the family is not to be told from the name.
    extras: family, std (mean of the three), image_format.
    """
    name = weights.lower()
    std = sum(float(v) for v in pixel_std) / max(len(pixel_std), 1)
    if not name:
        family = "none"
    elif any(word in name for word in ("torchvision", "timm", "moco", "dino", "swin")):
        family = "torchvision"
    elif "x-101-32x8d" in name:
        family = "x101"
    elif "imagenetpretrained/msra" in name:
        family = "msra"
    else:
        return Measurement(None, undecided="the weights' name does not tell how pixels were scaled")
    extras: dict[str, Scalar] = {
        "family": family,
        "std": std,
        "mean": sum(float(v) for v in pixel_mean) / max(len(pixel_mean), 1),
        "image_format": image_format,
    }
    if family == "none":
        wrong = std <= 2.0  # without FrozenBN statistics made for it, inputs of +-128 explode
    elif family == "torchvision":
        wrong = std <= 2.0 or image_format != "RGB"
    elif family == "x101":
        wrong = std <= 2.0 or image_format != "BGR"
    else:
        wrong = std > 2.0 or image_format != "BGR"
    return Measurement(float(wrong), "", None, extras)
