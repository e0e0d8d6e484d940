"""Joins a process of the user's own training script, from `site/sitecustomize.py`."""

from __future__ import annotations

import functools
import os
import sys
from typing import TYPE_CHECKING, Any

from . import attach, neutralise, wire
from .imports import AfterImport
from .plan import read_plan
from .recorder import Recorder
from .session import Session

if TYPE_CHECKING:
    from types import TracebackType


def install() -> None:
    """Prepare this process. Nothing is written before a loop begins or an exception ends it.

    Which process is rank 0, and which are only parents or helpers, shows when a loop begins.
    """
    plan = read_plan()
    session = Session(plan, Recorder(plan.folder))
    after_import = AfterImport()
    after_import.install()
    attach.watch(after_import, session)
    if plan.neutralise:
        neutralise.trackers(session)
        neutralise.watch(after_import, session)
    after_import.add(
        "detectron2.engine.defaults", functools.partial(_watch_config, session=session)
    )
    _watch_exceptions(session)


def _watch_config(module: Any, session: Session) -> None:
    """Write down and neutralise the config that a script sets up or gives to a DefaultTrainer."""
    set_up, init = module.default_setup, module.DefaultTrainer.__init__

    @functools.wraps(set_up)
    def neutral_setup(cfg: Any, *args: Any, **kwargs: Any) -> Any:
        see_config(cfg, session)
        return set_up(cfg, *args, **kwargs)

    @functools.wraps(init)
    def neutral_init(self: Any, cfg: Any, *args: Any, **kwargs: Any) -> None:
        see_config(cfg, session)
        init(self, cfg, *args, **kwargs)

    module.default_setup = neutral_setup
    module.DefaultTrainer.__init__ = neutral_init


def see_config(cfg: Any, session: Session) -> None:
    """Write a yacs config into the run folder, then lead its output there."""
    from . import run_config  # here: it needs nothing of torch, but only trainings need it

    if not hasattr(cfg, "OUTPUT_DIR") or session.plan.child_output == cfg.OUTPUT_DIR:
        return
    run_config.write_config(cfg, session)
    if session.plan.neutralise:
        neutralise.config(cfg, session)


def _watch_exceptions(session: Session) -> None:
    """Record what ends the script before its loop begins: an import, a config, a data set."""
    show = sys.excepthook

    def record_and_show(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        # Ranks that a script spawned have records of their own by now.
        if not os.path.exists(os.path.join(session.plan.folder, wire.RECORDS)):
            session.recorder.open(0)
            session.crashed(error)
        show(kind, error, trace)

    sys.excepthook = record_and_show
