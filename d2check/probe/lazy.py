"""A LazyConfig (omegaconf): written down as plain data, and led away from the user's folders."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from . import wire
from .redact import redact

if TYPE_CHECKING:
    from .session import Session

_SCALARS = (bool, int, float, str, type(None))


def is_lazy(cfg: Any) -> bool:
    """Whether this is a LazyConfig as Detectron2's lazyconfig_train_net.py takes it."""
    # By name: a Detectron2 before LazyConfig comes without omegaconf.
    return type(cfg).__module__.startswith("omegaconf.") and "train" in cfg


def write(cfg: Any, session: Session) -> None:
    """Write the config into the run folder, without secrets: `_target_` by name, no objects.

    Detectron2's own LazyConfig.save writes Python tags, and pickles what it cannot write.
    """
    from omegaconf import OmegaConf

    tree = redact(plain(OmegaConf.to_container(cfg, resolve=False)))
    path = os.path.join(session.plan.folder, wire.CONFIG)
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(OmegaConf.to_yaml(OmegaConf.create(tree)))
    except OSError as problem:
        session.recorder.note("warning", "%s was not written: %s" % (wire.CONFIG, problem))


def plain(value: Any) -> Any:
    """Nested dicts, lists and scalars; functions and classes by name, other objects by fields."""
    if isinstance(value, _SCALARS):
        return value
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "__qualname__"):
        return "%s.%s" % (value.__module__, value.__qualname__)
    if hasattr(value, "_asdict"):  # ShapeSpec of v0.6
        return plain(value._asdict())
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):  # ShapeSpec of main
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return type(value).__qualname__


def facts(cfg: Any) -> dict[str, Any]:
    """The batch of a LazyConfig, by the names of d2check.model.FACTS."""
    from omegaconf import OmegaConf

    batch = OmegaConf.select(cfg, "dataloader.train.total_batch_size", default=None)
    seed = OmegaConf.select(cfg, "train.seed", default=-1)
    found: dict[str, Any] = {}
    if isinstance(batch, int):
        found["images_per_batch"] = batch
    if isinstance(seed, int) and seed >= 0:
        found["seed"] = seed
    return found


def neutralise(cfg: Any, session: Session) -> None:
    """Change a LazyConfig in place: output elsewhere, no checkpoint, no evaluation."""
    from omegaconf import OmegaConf, open_dict, read_write

    output = session.plan.child_output
    os.makedirs(output, exist_ok=True)
    mine = OmegaConf.select(cfg, "train.output_dir", default=None)
    if mine:
        session.touched.watch(mine)
        session.neutralised("output folder: %s is not touched" % mine)
    tell_hydra(session)
    session.neutralised("checkpoints: none are written")
    session.neutralised("evaluation: none is run")
    with read_write(cfg), open_dict(cfg):
        cfg.train.output_dir = output
        cfg.train.eval_period = 0


def tell_hydra(session: Session) -> None:
    """Say where Hydra's launcher has written: it does so before the script's own function begins.

    detrex's hydra_train_net.py has one folder for that and for the results.
    """
    module = sys.modules.get("hydra.core.hydra_config")
    if module is None:
        return
    try:
        folder = module.HydraConfig.get().runtime.output_dir
    except Exception:  # noqa: BLE001  no launcher of Hydra's runs, or one before it told its folder
        return
    session.neutralised(
        "Hydra: its own config and log stand in %s since before the training, nothing else" % folder
    )


def is_neutral(cfg: Any, session: Session) -> bool:
    """Whether `neutralise` has been here."""
    return bool(cfg.train.get("output_dir") == session.plan.child_output)
