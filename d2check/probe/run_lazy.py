"""Trains from a LazyConfig, step by step as Detectron2's tools/lazyconfig_train_net.py does."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from . import lazy, ranks, run_config

if TYPE_CHECKING:
    from .session import Session


def run(session: Session) -> None:
    """Run the plan's LazyConfig to its end: LoopEnded, or whatever the user's code raises."""
    plan = session.plan
    assert plan.config is not None, "the plan names no config"
    session.stage = "setup"
    from detectron2.config import LazyConfig

    run_config.load_setups(session)
    session.stage = "config"
    # Configs import the project's own modules, as they can where its train script lies.
    sys.path.append(os.path.dirname(plan.config))
    cfg = LazyConfig.apply_overrides(LazyConfig.load(plan.config), plan.overrides)
    _choose_seed_and_device(cfg, session)
    if session.rank == 0:
        lazy.write(cfg, session)
    run_config.share_lazy_batch(cfg, session)
    session.facts.update(lazy.facts(cfg))
    if plan.neutralise:
        lazy.neutralise(cfg, session)
    ranks.join(session, str(cfg.train.device))
    run_config.set_up_logging(cfg.train.output_dir, int(cfg.train.get("seed", -1)), session)
    session.stage = "build"
    trainer = build_trainer(cfg, session)
    session.stage = "train"
    trainer.train(0, cfg.train.max_iter)


def build_trainer(cfg: Any, session: Session) -> Any:
    """Model, optimizer, loader, trainer and hooks, with the weights that the config names."""
    import torch
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import instantiate
    from detectron2.engine import AMPTrainer, SimpleTrainer, default_writers, hooks
    from detectron2.engine.defaults import create_ddp_model

    model = instantiate(cfg.model)
    model.to(cfg.train.device)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    loader = run_config.build_or_say_data_set(lambda: instantiate(cfg.dataloader.train), session)
    ddp = dict(cfg.train.get("ddp", {}))
    if not torch.cuda.is_available():
        ddp["device_ids"] = None
    model = create_ddp_model(model, **ddp)
    amp = bool(cfg.train.amp.enabled) if "amp" in cfg.train else False
    trainer: Any = (AMPTrainer if amp else SimpleTrainer)(model, loader, optimizer)
    checkpointer = DetectionCheckpointer(model, cfg.train.output_dir, trainer=trainer)
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            hooks.PeriodicWriter(
                default_writers(cfg.train.output_dir, cfg.train.max_iter),
                period=cfg.train.get("log_period", 20),
            )
            if session.rank == 0
            else None,
        ]
    )
    checkpointer.resume_or_load(cfg.train.get("init_checkpoint", ""), resume=False)
    return trainer


def _choose_seed_and_device(cfg: Any, session: Session) -> None:
    import torch
    from omegaconf import open_dict

    with open_dict(cfg):
        if session.plan.seed is not None:
            cfg.train.seed = session.plan.seed
        if session.plan.device is not None:
            cfg.train.device = session.plan.device
        elif str(cfg.train.get("device", "cuda")).startswith("cuda"):
            if not torch.cuda.is_available():
                cfg.train.device = "cpu"
                session.recorder.note("warning", run_config.NO_CUDA)
