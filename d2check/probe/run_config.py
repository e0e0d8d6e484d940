"""Trains from a config file, as a user's `train_net.py` would: setup, config, trainer, train."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Any, Callable

from . import neutralise, ranks, wire
from .redact import redact

if TYPE_CHECKING:
    from .session import Session

SETUP_HOOK = "d2check_setup"
NO_CUDA = "no CUDA device: the training runs on the CPU"


def run(session: Session) -> None:
    """Run the plan's entry to its end: LoopEnded, or whatever the user's code raises."""
    plan = session.plan
    session.stage = "setup"
    import detectron2.config  # here, so that a missing package is told as the crash that it is

    modules = load_setups(session)
    trainer_class = find_trainer(plan.trainer)
    session.stage = "config"
    cfg = detectron2.config.get_cfg()
    for module in modules:
        if hasattr(module, SETUP_HOOK):
            getattr(module, SETUP_HOOK)(cfg)  # add_xxx_config, so that its keys can be merged
    assert plan.config is not None, "the plan names no config"
    cfg.merge_from_file(plan.config)
    cfg.merge_from_list(plan.overrides)
    _choose_seed_and_device(cfg, session)
    if session.rank == 0:
        write_config(cfg, session)
    cfg = _share_batch(cfg, trainer_class, session)
    if plan.neutralise:
        neutralise.config(cfg, session)
    cfg.freeze()
    ranks.join(session, str(cfg.MODEL.DEVICE))
    set_up_logging(cfg.OUTPUT_DIR, cfg.SEED, session)
    _choose_benchmark(cfg)
    session.stage = "build"
    trainer = build_or_say_data_set(lambda: trainer_class(cfg), session)
    if hasattr(trainer, "resume_or_load"):
        trainer.resume_or_load(resume=False)
    trainer.train()


def load_setups(session: Session) -> list[Any]:
    """Run the setup files and modules; the session learns which data sets there are then."""
    builtin = _registered()
    modules = [load_setup(name) for name in session.plan.setup]
    session.registered = [name for name in _registered() if name not in builtin] + sorted(builtin)
    return modules


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
        session.recorder.note("warning", NO_CUDA)


def set_up_logging(output: str, seed: int, session: Session) -> None:
    """What detectron2.engine.default_setup does, less its copies of the config.

    Those would put the user's secrets into the run folder.
    """
    from detectron2.utils.env import seed_all_rng
    from detectron2.utils.logger import setup_logger

    setup_logger(output, distributed_rank=session.rank, name="fvcore")
    setup_logger(output, distributed_rank=session.rank)
    seed_all_rng(None if seed < 0 else seed + session.rank)


def _choose_benchmark(cfg: Any) -> None:
    import torch

    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK


def share_of(batch: int, session: Session) -> int:
    """The part of a batch that the processes here get of what the config is made for.

    Raises ValueError where it does not divide.
    """
    plan = session.plan
    assert plan.configured_for is not None
    if batch % plan.configured_for:
        raise ValueError(
            "a batch of %d images does not divide by %d GPUs; Detectron2 would refuse it there too"
            % (batch, plan.configured_for)
        )
    return batch // plan.configured_for * plan.num_gpus


def _share_batch(cfg: Any, trainer_class: Any, session: Session) -> Any:
    """The config with the batch of the GPUs that are here, its rate and schedule as they are."""
    made_for = session.plan.configured_for
    if made_for is None:
        return cfg
    session.facts["configured_for"] = made_for
    if cfg.SOLVER.REFERENCE_WORLD_SIZE:  # what Detectron2 would do on so many GPUs
        cfg = trainer_class.auto_scale_workers(cfg, made_for)
        cfg.defrost()
        cfg.SOLVER.REFERENCE_WORLD_SIZE = 0
    cfg.SOLVER.IMS_PER_BATCH = share_of(cfg.SOLVER.IMS_PER_BATCH, session)
    return cfg


def share_lazy_batch(cfg: Any, session: Session) -> None:
    """The same for a LazyConfig, in place."""
    made_for = session.plan.configured_for
    if made_for is None:
        return
    session.facts["configured_for"] = made_for
    loader = cfg.dataloader.train
    loader.total_batch_size = share_of(int(loader.total_batch_size), session)


def _registered() -> list[str]:
    from detectron2.data import DatasetCatalog

    return list(DatasetCatalog.list())


def build_or_say_data_set(build: Callable[[], Any], session: Session) -> Any:
    """What `build` makes; a data set that is not registered is the stage of its crash."""
    try:
        return build()
    except KeyError as error:
        if "is not registered" in str(error):  # DatasetCatalog.get, by whatever way it was reached
            session.stage = "dataset"
        raise
