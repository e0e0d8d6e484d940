"""`D2CheckHook`: the probe as a hook of one's own trainer."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from . import lazy, run_config, wire
from .attach import Training
from .plan import KIND_HOOK, Plan
from .recorder import Recorder
from .session import Session


class D2CheckHook(HookBase):
    """Records a training into a folder that `d2check audit` judges, and changes nothing of it.

        trainer.register_hooks([D2CheckHook("health", iterations=500)])
        trainer.train()
        report = d2check.audit("health")

    The training goes on to its own end, with its own checkpoints and evaluation. Every rank
    records; register the hook in all of them.
    """

    def __init__(
        self, folder: str, *, iterations: int | None = None, grad_norm_every: int = 10
    ) -> None:
        """Record into `folder`, new or empty.

        iterations: stop recording, not training, after so many; a record is about 1 KiB.
        grad_norm_every: sample the norm of the gradients in each n-th iteration; 0 never.
        """
        self._folder = os.path.abspath(folder)
        self._iterations = iterations
        self._grad_norm_every = grad_norm_every
        self._training: Training | None = None

    def before_train(self) -> None:
        """Begin. Raises FileExistsError when the folder holds an earlier recording."""
        if self._training is not None:  # our own hooks, put around this one, move it in the list
            return
        rank = comm.get_rank()
        records = os.path.join(self._folder, wire.records_name(rank))
        if os.path.exists(records):
            raise FileExistsError("%s: an earlier recording; give D2CheckHook another" % records)
        os.makedirs(self._folder, exist_ok=True)
        plan = Plan(self._plan())
        if rank == 0:
            with open(os.path.join(self._folder, wire.PLAN), "w", encoding="utf-8") as file:
                json.dump(self._plan(), file, indent=1)
        session = Session(plan, Recorder(self._folder), rank)
        session.recorder.open(rank)
        self._keep_config(session)
        self._training = Training(session, self.trainer, HookBase, rank, comm.get_world_size())
        self._training.begin(self.trainer.start_iter, self.trainer.max_iter)

    def after_train(self) -> None:
        """Write down how it ended: an exception that leaves the loop is the present one here."""
        if self._training is not None:
            self._training.end(sys.exc_info()[1])

    def _plan(self) -> dict[str, Any]:
        return {
            "schema": wire.SCHEMA,
            "folder": self._folder,
            "iterations": self._iterations,
            "budget_s": None,
            "phases": [{"name": "as-configured", "iterations": None}],
            "grad_norm_every": self._grad_norm_every,
            "neutralise": False,
            "entry": {"kind": KIND_HOOK},
        }

    def _keep_config(self, session: Session) -> None:
        cfg = getattr(self.trainer, "cfg", None)
        if cfg is None or session.rank:
            return
        if hasattr(cfg, "OUTPUT_DIR"):
            run_config.write_config(cfg, session)
        elif lazy.is_lazy(cfg):
            lazy.write(cfg, session)
