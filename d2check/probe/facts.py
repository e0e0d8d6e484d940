"""Facts of the `begin` record, by the names of d2check.model.FACTS."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING, Any

import torch

from . import datasets
from .memory import MIB

if TYPE_CHECKING:
    from .session import Session

CLASSIFIERS = ("roi_heads", "head", "sem_seg_head", "criterion")


def gather(session: Session, trainer: Any, inner: Any, world_size: int) -> dict[str, Any]:
    """All that can be known before the first iteration. What cannot be had is absent."""
    cfg = getattr(trainer, "cfg", None)
    cfg = cfg if cfg is not None and hasattr(cfg, "MODEL") else None
    model = getattr(inner, "model", None)
    loader = getattr(inner, "data_loader", None)
    facts: dict[str, Any] = dict(session.facts, world_size=world_size)
    facts.update(versions())
    facts["cpus"] = usable_cpus()
    facts["workers"] = datasets.find_workers(loader)
    facts["max_iter"] = getattr(trainer, "max_iter", None)
    facts["amp"] = getattr(inner, "grad_scaler", None) is not None
    if model is not None:
        facts.update(model_facts(model))
    if cfg is not None:
        facts.update(config_facts(cfg))
    facts["optimizer"] = optimizer_name(getattr(inner, "optimizer", None))
    entry = datasets.training_set(session, loader, cfg)
    if entry is not None:
        facts["images"] = entry["images"]
        facts["images_before_filter"] = entry.get("images_before_filter")
        if entry.get("instances") is not None:
            facts["instances"] = sum(entry["instances"].values())
        facts.update(entry.get("facts") or {})
    return {name: value for name, value in facts.items() if value is not None}


def versions() -> dict[str, Any]:
    """Versions of what the training runs on."""
    import detectron2

    return {
        "torch": str(torch.__version__),
        "detectron2": str(getattr(detectron2, "__version__", "unknown")),
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
    }


def model_facts(model: Any) -> dict[str, Any]:
    """Device, size and kind of the model, through whatever wraps it."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    bare = bare_model(model)
    facts: dict[str, Any] = {
        "parameters": sum(p.numel() for p in parameters),
        "meta_architecture": type(bare).__name__,
        "threads": torch.get_num_threads(),
    }
    device = parameters[0].device if parameters else torch.device("cpu")
    facts["device"] = device.type
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts["gpu_name"] = properties.name
        facts["gpu_total_mib"] = round(properties.total_memory / MIB, 1)
    classes = _classes(bare)
    if classes is not None:
        facts["classes"] = classes
    return facts


def optimizer_name(optimizer: Any) -> str | None:
    """SGD, ADAMW ...: of PyTorch's own class, below those that Detectron2 or a project clips in."""
    if optimizer is None:
        return None
    kinds = type(optimizer).__mro__
    torchs = (
        kind
        for kind in kinds
        if kind.__module__.startswith("torch.optim.") and kind.__name__ != "Optimizer"
    )
    return str(next(torchs, kinds[0]).__name__).upper()


def _classes(bare: Any) -> int | None:
    """The classes of a model's objects, by the first part of it that tells them.

    sem_seg_head, criterion: of Mask2Former, MaskDINO and other DETRs, whose heads classify queries.
    """
    parts = (bare, *(getattr(bare, name, None) for name in CLASSIFIERS))
    counts = (getattr(part, "num_classes", None) for part in parts)
    return next((count for count in counts if isinstance(count, int)), None)


def bare_model(model: Any) -> Any:
    """The model inside DistributedDataParallel, and inside what `torch.compile` makes of one."""
    for name in ("_orig_mod", "module", "_orig_mod"):
        model = getattr(model, name, model)
    return model


def config_facts(cfg: Any) -> dict[str, Any]:
    """What a yacs config says of the batch and the seed. -1 means no fixed seed."""
    seed = int(cfg.SEED)
    return {
        "images_per_batch": int(cfg.SOLVER.IMS_PER_BATCH),
        "meta_architecture": str(cfg.MODEL.META_ARCHITECTURE),
        "seed": seed if seed >= 0 else None,
    }


def usable_cpus() -> int:
    """Cores that this process may use: its affinity, less where a container's quota is smaller."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    try:
        # cgroup v2: "max 100000" or "<quota> <period>", microseconds.
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
    except (OSError, ValueError):
        return cores
    if quota == "max":
        return cores
    return max(1, min(cores, int(quota) // int(period)))


def size_divisibility(model: Any) -> int:
    """To a multiple of how many pixels the model pads its images; 1 when it does not tell."""
    bare = bare_model(model)
    divisor = getattr(getattr(bare, "backbone", None), "size_divisibility", 1)
    return divisor if isinstance(divisor, int) and divisor > 0 else 1
