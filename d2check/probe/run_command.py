"""Joins a process of the user's own training script, from `site/sitecustomize.py`."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from typing import TYPE_CHECKING, Any

from . import attach, neutralise, wire
from .plan import read_plan
from .recorder import Recorder
from .session import Session
from .stopping import LeaveScript

if TYPE_CHECKING:
    from types import TracebackType


_THIS_MACHINE = ("tcp://127.0.0.1:", "tcp://localhost:")


def install() -> None:
    """Prepare this process. Nothing is written before a loop begins or an exception ends it.

    Which process is rank 0, and which are only parents or helpers, shows when a loop begins.
    """
    plan = read_plan()
    session = Session(plan, Recorder(plan.folder))
    after_import = attach.watch(session)
    for module, patch in (
        ("detectron2.engine.defaults", _watch_defaults),
        ("detectron2.engine.train_loop", _watch_trainer),
        ("detectron2.modeling.meta_arch.build", _watch_model),
        ("torch.multiprocessing.spawn", _watch_spawn),
        ("detectron2.engine.launch", _watch_launch),
    ):
        after_import.add(module, functools.partial(patch, session=session))
    _watch_exceptions(session)


def _watch_defaults(module: Any, session: Session) -> None:
    """See the config that a script sets up or gives to a DefaultTrainer."""
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


def _watch_trainer(module: Any, session: Session) -> None:
    """See the config of a trainer that neither default_setup nor DefaultTrainer was given."""
    train = module.TrainerBase.train

    @functools.wraps(train)
    def seeing_train(self: Any, *args: Any, **kwargs: Any) -> Any:
        see_config(getattr(self, "cfg", None), session)
        neutralise.tell_end_of_script(session)
        return train(self, *args, **kwargs)

    module.TrainerBase.train = seeing_train


def _watch_model(module: Any, session: Session) -> None:
    """See the config that a model is built by: scripts without a trainer have nothing else."""
    build = module.build_model

    @functools.wraps(build)
    def seeing_build(cfg: Any, *args: Any, **kwargs: Any) -> Any:
        see_config(cfg, session)
        return build(cfg, *args, **kwargs)

    module.build_model = seeing_build


def _watch_spawn(module: Any, session: Session) -> None:
    """Leave the process that spawned the ranks when they have left: what follows is not for us."""
    join = module.ProcessContext.join

    @functools.wraps(join)
    def join_and_leave(self: Any, *args: Any, **kwargs: Any) -> Any:
        all_left = join(self, *args, **kwargs)
        if all_left and _was_recorded(session):
            raise LeaveScript(0)
        return all_left

    module.ProcessContext.join = join_and_leave


def _watch_launch(module: Any, session: Session) -> None:
    """Have the ranks of one machine meet at a port that nobody uses.

    Detectron2's own parser names a port by the user's number: a check beside a training of the same
    user would knock at that one's door.
    """
    launch = module.launch
    signature = inspect.signature(launch)

    @functools.wraps(launch)
    def launch_apart(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        url = given.arguments.get("dist_url")
        here = given.arguments.get("num_machines") == 1
        meet = given.arguments.get("num_gpus_per_machine") != 1  # a rank alone meets nobody
        if here and meet and isinstance(url, str) and url.startswith(_THIS_MACHINE):
            given.arguments["dist_url"] = "auto"
            sys.stderr.write("d2check: the ranks meet at a free port, not at %s\n" % url)
        return launch(*given.args, **given.kwargs)

    module.launch = launch_apart


def see_config(cfg: Any, session: Session) -> None:
    """Write a yacs config or a LazyConfig into the run folder, then lead its output there."""
    from detectron2.utils import comm

    from . import lazy, run_config  # here: only trainings need them

    if cfg is None:
        return
    if hasattr(cfg, "OUTPUT_DIR"):
        session.cfg = cfg
        if session.plan.child_output == cfg.OUTPUT_DIR:
            return
        write, neutral = run_config.write_config, neutralise.config
    elif lazy.is_lazy(cfg):
        if lazy.is_neutral(cfg, session):
            return
        session.facts.update(lazy.facts(cfg))
        write, neutral = lazy.write, lazy.neutralise
    else:
        return
    use_cpu_without_cuda(cfg, session)
    if comm.get_rank() == 0:
        write(cfg, session)
    if session.plan.neutralise:
        neutral(cfg, session)


def use_cpu_without_cuda(cfg: Any, session: Session) -> None:
    """Let a script train where there is no GPU, as a config does: `cuda` is its default.

    What the script itself sends to a GPU (`model.cuda()`) ends it there, by PyTorch's own words.
    """
    import torch

    yacs = hasattr(cfg, "OUTPUT_DIR")
    wanted = cfg.MODEL.DEVICE if yacs else cfg.train.get("device", "")
    if not str(wanted).startswith("cuda") or torch.cuda.is_available():
        return
    if yacs:
        frozen = cfg.is_frozen()
        cfg.defrost()
        cfg.MODEL.DEVICE = "cpu"
        if frozen:
            cfg.freeze()
    else:
        cfg.train.device = "cpu"
    key = "MODEL.DEVICE" if yacs else "train.device"
    session.neutralised("%s: cpu, for torch finds no CUDA device here (%s)" % (key, wanted))


def _was_recorded(session: Session) -> bool:
    return os.path.exists(os.path.join(session.plan.folder, wire.RECORDS))


def _watch_exceptions(session: Session) -> None:
    """Record what ends the script before its loop begins: an import, a config, a data set."""
    show = sys.excepthook

    def record_and_show(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        # Ranks that a script spawned have records of their own by now.
        if not _was_recorded(session):
            session.recorder.open(0)
            session.crashed(error)
        show(kind, error, trace)

    sys.excepthook = record_and_show
