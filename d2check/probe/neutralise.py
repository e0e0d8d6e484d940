"""Keeps a short check from leaving traces: checkpoints, evaluation, output folders, trackers."""

from __future__ import annotations

import errno
import functools
import importlib.util
import os
from typing import TYPE_CHECKING, Any

from . import kept

if TYPE_CHECKING:
    from .imports import AfterImport
    from .session import Session

NEVER = 10**9  # iterations
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

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
            _tell_tracker(package, session)


def _tell_tracker(module: Any, session: Session) -> None:
    package = module if isinstance(module, str) else module.__name__
    values = ", ".join("%s=%s" % (name, os.environ[name]) for name in TRACKERS[package])
    session.neutralised("%s: kept off the network (%s)" % (package, values))


def tell_end_of_script(session: Session) -> None:
    """Say, of a script of the user's own, that it is left with its training."""
    if session.plan.kind == "command":
        session.neutralised("after the training: the script is left there, by SystemExit")


def config(cfg: Any, session: Session) -> None:
    """Change a yacs config in place: output elsewhere, no checkpoint, no evaluation."""
    output = session.plan.child_output
    os.makedirs(output, exist_ok=True)
    frozen = cfg.is_frozen()
    cfg.defrost()
    session.touched.watch(cfg.OUTPUT_DIR)
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
    for package in TRACKERS:  # one that comes from a folder that the script itself adds
        after_import.add(package, functools.partial(_tell_tracker, session=session))
    for module, patch in (
        ("fvcore.common.checkpoint", _checkpointer),
        ("detectron2.checkpoint.detection_checkpoint", _detection_checkpointer),
        ("detectron2.engine.hooks", _hooks),
        ("detectron2.utils.events", _writers),
        ("detectron2.utils.logger", _logger),
        ("torch.utils.tensorboard.writer", _summaries),
        ("tensorboardX.writer", _summaries),
        ("torch.serialization", kept.install),
    ):
        after_import.add(module, functools.partial(patch, session=session))


def _checkpointer(module: Any, session: Session) -> None:
    """No checkpoint is written, resumed from, or removed to make room for a newer one."""
    checkpointer, periodic = module.Checkpointer, module.PeriodicCheckpointer
    init, resume_or_load = checkpointer.__init__, checkpointer.resume_or_load

    @functools.wraps(init)
    def init_elsewhere(self: Any, model: Any, save_dir: str = "", **kwargs: Any) -> None:
        if save_dir:
            session.touched.watch(save_dir)
        init(self, model, session.plan.child_output if save_dir else save_dir, **kwargs)

    @functools.wraps(resume_or_load)
    def load_afresh(self: Any, path: str, *, resume: bool = True) -> Any:
        if resume:
            session.neutralised("resuming: it starts afresh from the initial weights")
        return resume_or_load(self, path, resume=False)

    def nothing(self: Any, *args: Any, **kwargs: Any) -> None:
        session.neutralised("checkpoints: none are written")

    def has_none(self: Any) -> bool:
        return False

    checkpointer.__init__ = init_elsewhere
    _tell_what_was_loaded(checkpointer, session)
    checkpointer.resume_or_load = load_afresh
    checkpointer.has_checkpoint = has_none
    checkpointer.save = nothing
    # Its `max_to_keep` would remove files that it finds by the user's `last_checkpoint`.
    periodic.step = nothing
    periodic.save = nothing


def _detection_checkpointer(module: Any, session: Session) -> None:
    """This class downloads what it loads before the class below it knows of it."""
    _tell_what_was_loaded(module.DetectionCheckpointer, session)


def _tell_what_was_loaded(checkpointer: Any, session: Session) -> None:
    load = checkpointer.load

    @functools.wraps(load)
    def load_or_tell(self: Any, path: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return load(self, path, *args, **kwargs)
        except Exception as error:
            session.unloaded = (error, str(path))
            raise

    checkpointer.load = load_or_tell


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
        session.touched.watch(os.path.dirname(json_file) or None)
        _tell_elsewhere(json_file, session)
        make_json(self, os.path.join(output, os.path.basename(json_file)), *args, **kwargs)

    @functools.wraps(make_board)
    def into_board(self: Any, log_dir: str, *args: Any, **kwargs: Any) -> None:
        session.touched.watch(log_dir)
        _tell_elsewhere(log_dir, session)
        make_board(self, output, *args, **kwargs)

    module.JSONWriter.__init__ = into_json
    module.TensorboardXWriter.__init__ = into_board
    for writer in (module.JSONWriter, module.TensorboardXWriter):
        writer.write = _while_there_is_room(writer.write, session)
        writer.close = _while_there_is_room(writer.close, session)


def _while_there_is_room(write: Any, session: Session) -> Any:
    """A disk that is full of our own folder's files must not end the training."""

    @functools.wraps(write)
    def write_or_tell(self: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(self, "_d2check_full", False):
            return None
        try:
            return write(self, *args, **kwargs)
        except OSError as problem:
            if problem.errno not in FULL:
                raise
            self._d2check_full = True
            words = "%s writes nothing more: %s" % (type(self).__name__, problem)
            session.recorder.note("warning", words)
            return None

    return write_or_tell


def _tell_elsewhere(path: Any, session: Session) -> None:
    """Say that what a script writes there goes into the run folder."""
    inside = os.path.join(os.path.abspath(session.plan.child_output), "")
    if not os.path.join(os.path.abspath(str(path)), "").startswith(inside):
        session.neutralised("metrics and logs: %s is not written" % path)


def _logger(module: Any, session: Session) -> None:
    """Lead log.txt into the run folder, where a script sets up its logger by itself."""
    set_up = module.setup_logger

    @functools.wraps(set_up)
    def set_up_elsewhere(output: Any = None, *args: Any, **kwargs: Any) -> Any:
        if output is not None:
            _tell_elsewhere(output, session)
            name = str(output)
            elsewhere = session.plan.child_output
            # Detectron2 takes a name with such an ending for the file itself.
            if name.endswith((".txt", ".log")):
                elsewhere = os.path.join(elsewhere, os.path.basename(name))
            output = elsewhere
        return set_up(output, *args, **kwargs)

    module.setup_logger = set_up_elsewhere


def _summaries(module: Any, session: Session) -> None:
    """Lead what a script's own SummaryWriter writes into the run folder."""
    init = module.SummaryWriter.__init__

    @functools.wraps(init)
    def init_elsewhere(self: Any, log_dir: Any = None, *args: Any, **kwargs: Any) -> None:
        same = kwargs.pop("logdir", None)  # in tensorboardX
        _tell_elsewhere(log_dir or same or "runs", session)  # "runs": the default of both
        init(self, session.plan.child_output, *args, **kwargs)

    module.SummaryWriter.__init__ = init_elsewhere
