"""Whether the model starts from the weights that were meant, and whether they move."""

from __future__ import annotations

from collections.abc import Sequence

from d2check.model import Event, Measurement, Scalar

# RGB statistics on a 0-255 scale, and what goes with them
TORCHVISION_STD = (57.375, 57.12, 58.395)


def skipped_weights(
    events: tuple[Event, ...], *, expected: Sequence[str] = ("predictor", "cls_score", "bbox_pred")
) -> Measurement:
    """How many parameters of the checkpoint were skipped or missing, class-sized layers apart.

    events of kind skipped-weights and missing-weights, one per parameter or one for a list of
    names separated by commas. extras: backbone (those whose name holds "backbone"), first.
    """
    names: list[str] = []
    for event in events:
        if event.kind in ("skipped-weights", "missing-weights"):
            names += [part.strip() for part in event.message.split(",") if part.strip()]
    wrong = [n for n in names if not any(word in n for word in expected)]
    backbone = [n for n in wrong if "backbone" in n]
    extras: dict[str, Scalar] = {
        "backbone": len(backbone), "all": len(names), "first": wrong[0] if wrong else None,
    }  # fmt: skip
    return Measurement(float(len(wrong)), "parameters", None, extras)


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


def untouched_parameters(untouched: int, parameters: int) -> Measurement:
    """Share of the trainable parameters that did not change in the observed iterations."""
    if parameters <= 0:
        return Measurement(None, undecided="the number of parameters is not known")
    return Measurement(
        untouched / parameters, "share", None, {"untouched": untouched, "parameters": parameters}
    )


def pixel_statistics(
    weights: str, pixel_std: Sequence[float], pixel_mean: Sequence[float], image_format: str
) -> Measurement:
    """1 if the normalisation of the pixels does not fit the family of the weights, else 0.

    torchvision's, timm's and MoCo's weights want RGB and a std of about 58; Detectron2's MSRA
    weights want BGR and a std of 1. Undecided where the family is not to be told from the name.
    extras: family, std (mean of the three), image_format.
    """
    name = weights.lower()
    std = sum(float(v) for v in pixel_std) / max(len(pixel_std), 1)
    if not name:
        family = "none"
    elif any(word in name for word in ("torchvision", "timm", "moco", "dino", "swin")):
        family = "torchvision"
    elif any(
        word in name for word in ("msra", "caffe2", "fair/", "detectron2://imagenetpretrained")
    ):
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
    else:
        wrong = std > 2.0 or image_format != "BGR"
    return Measurement(float(wrong), "", None, extras)
