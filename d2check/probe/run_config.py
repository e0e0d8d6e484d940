"""Trains from a config file, as a user's `train_net.py` would: setup, config, trainer, train."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Any

from . import neutralise, wire
from .redact import redact

if TYPE_CHECKING:
    from .session import Session

SETUP_HOOK = "d2check_setup"


def run(session: Session) -> None:
    """Run the plan's entry to its end: LoopEnded, or whatever the user's code raises."""
    plan = session.plan
    session.stage = "setup"
    import detectron2.config  # here, so that a missing package is told as the crash that it is

    builtin = _registered()
    modules = [load_setup(name) for name in plan.setup]
    trainer_class = find_trainer(plan.trainer)
    session.registered = [name for name in _registered() if name not in builtin] + sorted(builtin)
    session.stage = "config"
    cfg = detectron2.config.get_cfg()
    for module in modules:
        if hasattr(module, SETUP_HOOK):
            getattr(module, SETUP_HOOK)(cfg)  # add_xxx_config, so that its keys can be merged
    assert plan.config is not None, "the plan names no config"
    cfg.merge_from_file(plan.config)
    cfg.merge_from_list(plan.overrides)
    _choose_seed_and_device(cfg, session)
    write_config(cfg, session)
    if plan.neutralise:
        neutralise.config(cfg, session)
    cfg.freeze()
    _set_up(cfg)
    session.stage = "build"
    trainer = _build(trainer_class, cfg, session)
    if hasattr(trainer, "resume_or_load"):
        trainer.resume_or_load(resume=False)
    trainer.train()


def load_setup(name: str) -> Any:
    """Import a setup module by its name, or run a file by its path as the module of its stem."""
    if not (name.endswith(".py") or os.sep in name):
        return importlib.import_module(name)
    path = os.path.abspath(name)
    folder, file = os.path.split(path)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    stem = os.path.splitext(file)[0]
    loaded = sys.modules.get(stem)
    if loaded is not None and os.path.abspath(getattr(loaded, "__file__", "") or "") == path:
        return loaded
    if loaded is not None:  # another module has that name: keep both
        stem = "d2check_setup_" + stem
    spec = importlib.util.spec_from_file_location(stem, path)
    if spec is None or spec.loader is None:
        raise ImportError("%s cannot be run as Python code" % path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[stem] = module
    spec.loader.exec_module(module)
    return module


def find_trainer(name: str | None) -> Any:
    """The class that `module:Class` or `file.py:Class` names; DefaultTrainer for None."""
    if name is None:
        from detectron2.engine import DefaultTrainer

        return DefaultTrainer
    module_name, colon, class_name = name.rpartition(":")
    if not colon or not module_name:
        raise ValueError("trainer '%s': write it as module:Class or file.py:Class" % name)
    found: Any = load_setup(module_name)
    for part in class_name.split("."):
        found = getattr(found, part)
    return found


def write_config(cfg: Any, session: Session) -> None:
    """Write the resolved config, as the user means it and without secrets, into the run folder."""
    plain = cfg.clone()
    plain.defrost()
    _redact_in_place(plain)
    path = os.path.join(session.plan.folder, wire.CONFIG)
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(plain.dump())
    except OSError as problem:
        session.recorder.note("warning", "%s was not written: %s" % (wire.CONFIG, problem))


def _redact_in_place(node: Any) -> None:
    for key, value in list(node.items()):
        if isinstance(value, dict):
            _redact_in_place(value)
        else:
            dict.__setitem__(node, key, redact(value, str(key)))


def _choose_seed_and_device(cfg: Any, session: Session) -> None:
    import torch

    if session.plan.seed is not None:
        cfg.SEED = session.plan.seed
    if session.plan.device is not None:
        cfg.MODEL.DEVICE = session.plan.device
    elif str(cfg.MODEL.DEVICE).startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
        session.recorder.note("warning", "no CUDA device: the training runs on the CPU")


def _set_up(cfg: Any) -> None:
    """What detectron2.engine.default_setup does, less its copies of the config.

    Those would put the user's secrets into the run folder.
    """
    import torch
    from detectron2.utils.env import seed_all_rng
    from detectron2.utils.logger import setup_logger

    setup_logger(cfg.OUTPUT_DIR, name="fvcore")
    setup_logger(cfg.OUTPUT_DIR)
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED)
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK


def _registered() -> list[str]:
    from detectron2.data import DatasetCatalog

    return list(DatasetCatalog.list())


def _build(trainer_class: Any, cfg: Any, session: Session) -> Any:
    try:
        return trainer_class(cfg)
    except KeyError as error:
        if "is not registered" in str(error):  # DatasetCatalog.get, by whatever way it was reached
            session.stage = "dataset"
        raise
