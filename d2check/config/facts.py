"""What a config says about a run, under the names of `d2check.model.FACTS`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from d2check.config.schedule import for_world_size, planned_iterations
from d2check.config.yacs import setting
from d2check.model import Config, Scalar

__all__ = ["config_facts", "planned_iterations"]

_YACS: Mapping[str, str] = {
    "images_per_batch": "SOLVER.IMS_PER_BATCH",
    "workers": "DATALOADER.NUM_WORKERS",
    "meta_architecture": "MODEL.META_ARCHITECTURE",
    "device": "MODEL.DEVICE",
    "amp": "SOLVER.AMP.ENABLED",
    "seed": "SEED",
}
_LAZY: Mapping[str, str] = {
    "images_per_batch": "dataloader.train.total_batch_size",
    "workers": "dataloader.train.num_workers",
    "meta_architecture": "model._target_",
    "device": "train.device",
    "amp": "train.amp.enabled",
    "seed": "train.seed",
}
_KINDS: Mapping[str, type] = {
    "images_per_batch": int, "workers": int, "meta_architecture": str, "device": str,
    "amp": bool, "seed": int,
}  # fmt: skip

# Where each meta-architecture of Detectron2 and its projects reads its number of classes.
_CLASSES: Mapping[str, str] = {
    "GeneralizedRCNN": "MODEL.ROI_HEADS.NUM_CLASSES",
    "PanopticFPN": "MODEL.ROI_HEADS.NUM_CLASSES",
    "RetinaNet": "MODEL.RETINANET.NUM_CLASSES",
    "SemanticSegmentor": "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
    "PanopticDeepLab": "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
    "TensorMask": "MODEL.TENSOR_MASK.NUM_CLASSES",
}
# Where projects let the optimizer be chosen; Detectron2's own build_optimizer makes an SGD.
_OPTIMIZERS = tuple(f"SOLVER.{name}" for name in (
    "OPTIMIZER", "OPTIMIZER_NAME", "OPTIMIZER_TYPE", "OPTIM", "OPTIM_NAME",
))  # fmt: skip
_LAZY_CLASSES = ("model.roi_heads.num_classes", "model.num_classes", "model.head.num_classes")


def config_facts(config: Config, world_size: int | None = None) -> dict[str, Scalar]:
    """The facts that the config settles; absent where it does not settle them.

    world_size: processes of the training, where they are known; then the batch is the one after
    Detectron2's automatic scaling. A seed below 0 means a random one, and no fact. `classes` is
    told for Detectron2's own meta-architectures and those that are R-CNNs by their name: a
    project's own model may read its number from anywhere.
    """
    config = for_world_size(config, world_size)
    facts: dict[str, Scalar] = {}
    for name, key in (_YACS if config.kind == "yacs" else _LAZY).items():
        value = _named(config, key)
        if _is(value, _KINDS[name]):
            facts[name] = value
    architecture = facts.get("meta_architecture")
    if isinstance(architecture, str):
        facts["meta_architecture"] = architecture.rpartition(".")[2]
    seed = facts.get("seed")
    if isinstance(seed, int) and seed < 0:
        del facts["seed"]
    classes = _classes(config, facts.get("meta_architecture"))
    if classes is not None:
        facts["classes"] = classes
    optimizer = _optimizer(config)
    if optimizer:
        facts["optimizer"] = optimizer
    if world_size:
        facts["world_size"] = world_size
    return facts


def _optimizer(config: Config) -> str | None:
    """The optimizer by its name, in capitals; None where the config is only a part."""
    if config.kind == "lazy":
        target = config.get("optimizer._target_")
        return target.rpartition(".")[2].upper() if isinstance(target, str) else None
    named = (config.get(key) for key in _OPTIMIZERS)
    told = next((name for name in named if isinstance(name, str) and name), None)
    return (told or "SGD").upper() if told or config.complete else None


def _named(config: Config, key: str) -> Any:
    """What a config settles: a default stands for what an older dump lacks, not for a part."""
    return setting(config, key) if config.kind == "yacs" and config.complete else config.get(key)


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _classes(config: Config, architecture: Scalar) -> int | None:
    if config.kind == "lazy":
        found = [config.get(key) for key in _LAZY_CLASSES]
    else:
        name = str(architecture)
        key = _CLASSES.get(name) or (_CLASSES["GeneralizedRCNN"] if "RCNN" in name else None)
        found = [_named(config, key)] if key else []
    return next((n for n in found if _is(n, int) and n > 0), None)
