"""Loops that bypass TrainerBase: seen by the EventStorage that Detectron2's models write into.

An iteration goes from one change of `storage.iter` to the next. Detectron2's plain_train_net.py
sets it when the batch is there already, so that the wait for the next batch is part of the
iteration before.

A loop without such a storage, or with a new one in each iteration, is ended by `seen`.
"""

from __future__ import annotations

import functools
import os
import time
import weakref
from typing import TYPE_CHECKING, Any

from . import neutralise, signals, wire
from .clocks import FETCH, FETCHED
from .failure import gpu_is_unusable, is_non_finite
from .seen import Seen
from .stopping import LeaveScript, LoopEnded, StopRule

if TYPE_CHECKING:
    from .imports import AfterImport
    from .session import Session

AS_CONFIGURED = "as-configured"
OWN_LOOP = (
    "the training loop is the script's own: its iterations are the steps of its EventStorage, "
    "and the time of its hooks is not told apart"
)


def watch(after_import: AfterImport, session: Session) -> None:
    """Have the modules patched that a loop of one's own cannot do without."""
    seen = Seen()
    for module, patch in (
        ("torch.optim.optimizer", functools.partial(_watch_optimizers, session=session)),
        ("torch.utils.data.dataloader", _watch_fetches),
        ("detectron2.modeling.meta_arch.build", _watch_model),
    ):
        after_import.add(module, functools.partial(patch, seen=seen))
    after_import.add(
        "detectron2.engine.train_loop", functools.partial(_leave_alone, session=session, seen=seen)
    )
    after_import.add(
        "detectron2.utils.events", functools.partial(_watch_storage, session=session, seen=seen)
    )


class PlainLoop:
    """One loop around an EventStorage; to the iteration probe it looks like a trainer."""

    def __init__(self, session: Session, seen: Seen, storage: Any) -> None:
        """Nothing is recorded before `storage.iter` is first set."""
        self.storage = storage
        self.model = seen.model
        self.optimizer = seen.optimizer() if seen.optimizer is not None else None
        self.cfg = session.cfg
        self.iter = 0
        self.fetched_from: Any = None  # the data set behind the loader that was asked first
        self._session = session
        self._seen = seen
        self._probe: Any = None
        self._checksums: Any = None
        self._ended = False

    def advance(self, iteration: int) -> None:
        """The script goes on to this iteration: the one before is over."""
        if self._probe is None:
            self._begin(iteration)
        elif iteration != self.iter and not self._ended:
            self._record()
            self.iter = iteration
            self._start()

    def fetch(self, code: int) -> None:
        """The loader is asked for a batch, or has given it."""
        if self._probe is not None:
            self._probe.mark(code)

    def leave_storage(self, error: BaseException | None) -> None:
        """The script leaves its EventStorage."""
        if self._probe is None or self._ended:
            return
        if error is None:
            self._record()
            self._end("finished", i=self.iter)
            raise LeaveScript(0)
        files = self._probe.batch.files
        look = is_non_finite(error) and not gpu_is_unusable(error)
        not_finite = self._probe.batch.not_finite() if look else None
        self._close()
        if isinstance(error, KeyboardInterrupt):
            self._session.recorder.end("interrupted", i=self.iter)
        elif not isinstance(error, LoopEnded):
            if not_finite is not None:
                self._session.tell_inputs(not_finite)
            if self._checksums is not None and not gpu_is_unusable(error):
                self._checksums.note_not_finite(self._session)
            self._session.crashed(error, i=self.iter, batch_files=files)

    def _begin(self, iteration: int) -> None:
        from detectron2.utils import comm

        from . import datasets, facts, norms, weights
        from .iteration import IterationProbe

        self._seen.stop_counting()
        session = self._session
        rank, world_size = comm.get_rank(), comm.get_world_size()
        session.recorder.open(rank)
        session.stage = "train"
        signals.answer(session.recorder)
        neutralise.tell_end_of_script(session)
        known = facts.gather(session, self, self, world_size)
        record = {"t": "begin", "schema": wire.SCHEMA, "rank": rank, "world_size": world_size}
        record.update(pid=os.getpid(), clock=time.time(), facts=dict(known, start_iter=iteration))
        session.recorder.write(record)
        session.recorder.note("own-loop", OWN_LOOP)
        datasets.note_training_set(session, getattr(self, "data_loader", None), self.cfg)
        session.recorder.write({"t": "phase", "name": AS_CONFIGURED, "first_iteration": iteration})
        plan = session.plan
        stop = StopRule(plan.stop_file, self._length(), plan.budget_s, rank, world_size)
        self._probe = IterationProbe(session, self, stop)
        self._probe.course.leave_out_standing()  # told already
        self._probe.attach(fetches_told=True)
        if self.model is not None:
            self._checksums = weights.Checksums(self.model)
            norms.tell_at_first_forward(self.model, session)
        self.iter = iteration
        self._start()

    def _length(self) -> int | None:
        """Iterations as configured; the other phases need a trainer, and are left out aloud."""
        plan = self._session.plan
        length = plan.iterations
        for phase in plan.phases:
            if phase["name"] == AS_CONFIGURED:
                length = phase.get("iterations") or length
            else:
                words = "%s: the training loop is the script's own" % phase["name"]
                self._session.recorder.note("phase-skipped", words, phase=phase["name"])
        return length

    def _start(self) -> None:
        self._probe.before_hooks()
        self._probe.before_run()

    def _record(self) -> None:
        self._probe.after_run()
        reason = self._probe.after_hooks()
        if reason is not None:
            self._end("stopped", i=self.iter, reason=reason)
            raise LeaveScript(0)

    def _close(self) -> None:
        self._ended = True
        self._probe.flush()
        self._probe.detach()

    def _end(self, kind: str, **more: Any) -> None:
        self._close()
        self._probe.tell_images()
        if self._checksums is not None:
            optimizer = getattr(self._probe.inner, "optimizer", None)
            self._checksums.note_untouched(self._session, self._probe.iterations, optimizer)
            self._checksums.note_not_finite(self._session)
        self._session.recorder.end(kind, **more)


def _watch_storage(module: Any, session: Session, seen: Seen) -> None:
    storage = module.EventStorage
    enter, leave, step = storage.__enter__, storage.__exit__, storage.step

    def enter_and_watch(self: Any) -> Any:
        free = seen.loop is None and not session.in_trainer and not session.recorder.ended
        if free and seen.optimizer is not None:
            seen.loop = PlainLoop(session, seen, self)
        return enter(self)

    def leave_and_end(self: Any, kind: Any, error: Any, trace: Any) -> Any:
        left = leave(self, kind, error, trace)
        loop = seen.loop
        if loop is not None and loop.storage is self:
            seen.loop = None
            loop.leave_storage(error)
        return left

    def see(self: Any, iteration: int) -> None:
        if seen.loop is not None and seen.loop.storage is self and not session.in_trainer:
            seen.loop.advance(iteration)

    def step_and_see(self: Any) -> None:
        see(self, self.iter + 1)
        step(self)

    storage.__enter__, storage.__exit__, storage.step = enter_and_watch, leave_and_end, step_and_see
    own = getattr(storage, "iter", None)
    if isinstance(own, property) and own.fset is not None:
        set_iter = own.fset

        def set_and_see(self: Any, iteration: int) -> None:
            see(self, int(iteration))
            set_iter(self, iteration)

        storage.iter = own.setter(set_and_see)


def _leave_alone(module: Any, session: Session, seen: Seen) -> None:
    """TrainerBase's own loop has an EventStorage too; `attach` sees to that one."""
    train = module.TrainerBase.train

    @functools.wraps(train)
    def train_apart(*args: Any, **kwargs: Any) -> Any:
        session.in_trainer = True
        seen.stop_counting()
        try:
            return train(*args, **kwargs)
        finally:
            session.in_trainer = False

    module.TrainerBase.train = train_apart


def _watch_model(module: Any, seen: Seen) -> None:
    build = module.build_model

    @functools.wraps(build)
    def build_and_keep(*args: Any, **kwargs: Any) -> Any:
        seen.model = build(*args, **kwargs)
        return seen.model

    module.build_model = build_and_keep


def _watch_optimizers(module: Any, session: Session, seen: Seen) -> None:
    init = module.Optimizer.__init__
    seen.count_steps(module, session)

    @functools.wraps(init)
    def init_and_keep(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        seen.count_steps_of(type(self))
        seen.optimizer = weakref.ref(self)

    module.Optimizer.__init__ = init_and_keep


def _watch_fetches(module: Any, seen: Seen) -> None:
    iterator = module._BaseDataLoaderIter
    fetch = iterator.__next__

    @functools.wraps(fetch)
    def timed_fetch(self: Any) -> Any:
        if seen.loop is None:
            return fetch(self)
        if seen.loop.fetched_from is None:
            seen.loop.fetched_from = getattr(self, "_dataset", None)
        seen.loop.fetch(FETCH)
        try:
            return fetch(self)
        finally:
            if seen.loop is not None:
                seen.loop.fetch(FETCHED)

    iterator.__next__ = timed_fetch
