"""Keeps a short check from leaving traces: checkpoints, evaluation, output folders, trackers."""

from __future__ import annotations

import functools
import importlib.util
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .imports import AfterImport
    from .session import Session

NEVER = 10**9  # iterations

# Importable package -> the variables that keep it from the network, by its documentation. mlflow
# has no off switch: its store is led into the run folder.
TRACKERS = {
    "wandb": {"WANDB_MODE": "disabled"},
    "mlflow": {"MLFLOW_TRACKING_URI": "file://{output}/mlruns"},
    "clearml": {"CLEARML_OFFLINE_MODE": "1"},
    "neptune": {"NEPTUNE_MODE": "offline"},
    "comet_ml": {"COMET_START_ONLINE": "0", "COMET_DISABLE_AUTO_LOGGING": "1"},
    "swanlab": {"SWANLAB_MODE": "disabled"},
}


def trackers(session: Session) -> None:
    """Set experiment trackers off and note those that are installed.

    The checker starts the child with these variables already set; what is set stays.
    """
    for package, variables in TRACKERS.items():
        for name, value in variables.items():
            os.environ.setdefault(name, value.format(output=session.plan.child_output))
        if importlib.util.find_spec(package) is not None:
            values = ", ".join("%s=%s" % (name, os.environ[name]) for name in variables)
            session.neutralised("%s: kept off the network (%s)" % (package, values))


def config(cfg: Any, session: Session) -> None:
    """Change a yacs config in place: output elsewhere, no checkpoint, no evaluation."""
    output = session.plan.child_output
    os.makedirs(output, exist_ok=True)
    frozen = cfg.is_frozen()
    cfg.defrost()
    session.neutralised("output folder: %s is not touched" % cfg.OUTPUT_DIR)
    cfg.OUTPUT_DIR = output
    session.neutralised("checkpoints: none are written")
    cfg.SOLVER.CHECKPOINT_PERIOD = NEVER
    session.neutralised("evaluation: none is run")
    cfg.TEST.EVAL_PERIOD = 0
    if frozen:
        cfg.freeze()


def watch(after_import: AfterImport, session: Session) -> None:
    """Switch off, in the classes, what user code may build past its config."""
    after_import.add("fvcore.common.checkpoint", functools.partial(_checkpointer, session=session))
    after_import.add("detectron2.engine.hooks", functools.partial(_hooks, session=session))
    after_import.add("detectron2.utils.events", functools.partial(_writers, session=session))


def _checkpointer(module: Any, session: Session) -> None:
    def save(self: Any, name: str, **kwargs: Any) -> None:
        session.neutralised("checkpoints: none are written")

    module.Checkpointer.save = save


def _hooks(module: Any, session: Session) -> None:
    def evaluate(self: Any, *args: Any, **kwargs: Any) -> None:
        session.neutralised("evaluation: none is run")

    module.EvalHook._do_eval = evaluate
    if hasattr(module, "BestCheckpointer"):  # v0.6 and newer
        module.BestCheckpointer._best_checking = evaluate


def _writers(module: Any, session: Session) -> None:
    """Lead metrics.json and TensorBoard files into the run folder."""
    output = session.plan.child_output
    make_json, make_board = module.JSONWriter.__init__, module.TensorboardXWriter.__init__

    @functools.wraps(make_json)
    def into_json(self: Any, json_file: str, *args: Any, **kwargs: Any) -> None:
        os.makedirs(output, exist_ok=True)
        make_json(self, os.path.join(output, os.path.basename(json_file)), *args, **kwargs)

    @functools.wraps(make_board)
    def into_board(self: Any, log_dir: str, *args: Any, **kwargs: Any) -> None:
        make_board(self, output, *args, **kwargs)

    module.JSONWriter.__init__ = into_json
    module.TensorboardXWriter.__init__ = into_board
