"""Joins the probe to a training, whoever starts it: every loop goes through TrainerBase.train."""

from __future__ import annotations

import functools
import logging
import os
import time
from typing import TYPE_CHECKING, Any

from . import neutralise, plain_loop, signals, wire
from .failure import describe, gpu_is_unusable, is_non_finite
from .imports import AfterImport
from .plan import KIND_HOOK
from .stopping import LeaveScript, LoopEnded, StopRule

if TYPE_CHECKING:
    from .iteration import IterationProbe
    from .session import Session


def watch(session: Session) -> AfterImport:
    """Have modules patched as they are imported, of which it imports none itself.

    Loops of any kind are recorded, and where the plan asks for it nothing of the user's is touched.
    Returns the finder, for more modules to be watched.
    """
    from . import datasets

    after_import = AfterImport()
    after_import.install()
    plain_loop.watch(after_import, session)
    after_import.add("detectron2.data.build", lambda m: datasets.watch_data_sets(m, session))
    after_import.add("detectron2.data.common", lambda m: datasets.watch_loading(m, session))
    after_import.add("detectron2.data.detection_utils", datasets.watch_reading)
    after_import.add("fvcore.common.checkpoint", functools.partial(_watch_weights, session=session))
    after_import.add("torch.nn.modules.module", functools.partial(_watch_modules, session=session))
    after_import.add("detectron2.engine.train_loop", lambda m: watch_training(m, session))
    if session.plan.neutralise:
        neutralise.trackers(session)
        neutralise.watch(after_import, session)
    return after_import


def _watch_weights(module: Any, session: Session) -> None:
    from . import weights  # imports torch, as fvcore has done by now

    weights.watch_checkpointer(module, session)


def _watch_modules(module: Any, session: Session) -> None:
    # `norms` imports torch, which is only half there now.
    base = module.Module
    load = base.load_state_dict
    session.state_dicts_loaded = 0

    @functools.wraps(load)
    def load_and_count(self: Any, *args: Any, **kwargs: Any) -> Any:
        session.state_dicts_loaded = (session.state_dicts_loaded or 0) + 1
        return load(self, *args, **kwargs)

    base.load_state_dict = load_and_count


def watch_training(module: Any, session: Session) -> None:
    """Wrap `TrainerBase.train` so that the loop of any trainer is recorded and ended."""
    base = module.TrainerBase
    train = base.train

    @functools.wraps(train)
    def recorded_train(self: Any, *args: Any, **kwargs: Any) -> Any:
        from detectron2.utils import comm

        rank, world_size = comm.get_rank(), comm.get_world_size()
        session.recorder.open(rank)
        if session.recorder.ended:  # a second loop of a process whose first one was recorded
            if session.plan.kind == "command":
                # The script has caught what it was to be left by; nothing trains unseen.
                raise LeaveScript(0)
            return train(self, *args, **kwargs)
        training = Training(session, self, module.HookBase, rank, world_size)
        start_iter = args[0] if args else kwargs["start_iter"]
        max_iter = args[1] if len(args) > 1 else kwargs["max_iter"]
        training.begin(start_iter, max_iter)
        try:
            train(self, *args, **kwargs)
        except BaseException as error:
            training.end(error)
            if training.ruined_by_ramp:
                return training.leave("ramp")
            raise
        training.end(None)
        # What would follow (evaluation, exports, asserting results) is not for a short check.
        return training.leave("finished")

    base.train = recorded_train


class Training:
    """One loop from its first to its last iteration."""

    def __init__(
        self, session: Session, trainer: Any, hook_base: Any, rank: int, world_size: int
    ) -> None:
        """Build the probe; the trainer is untouched until `begin`."""
        from .iteration import IterationProbe  # needs torch, which the trainer has imported

        self._session = session
        self._trainer = trainer
        self._hook_base = hook_base
        self._world_size = world_size
        plan = session.plan
        self._stop_rule = StopRule(plan.stop_file, plan.iterations, plan.budget_s, rank, world_size)
        self._probe: IterationProbe = IterationProbe(session, trainer, self._stop_rule)
        self._reason: str | None = None
        self._checksums: Any = None
        self._hooks: tuple[Any, ...] = ()
        self.ruined_by_ramp = False

    def begin(self, start_iter: int, max_iter: int) -> None:
        """Record what is known, put hooks around the trainer's own, listen."""
        from . import datasets, facts, norms, weights

        session = self._session
        probe = self._probe
        session.stage = "train"
        if session.plan.kind != KIND_HOOK:
            signals.answer(session.recorder)
        known = facts.gather(session, self._trainer, probe.inner, self._world_size)
        known.update(start_iter=start_iter, max_iter=max_iter)
        session.recorder.write(
            {
                "t": "begin",
                "schema": wire.SCHEMA,
                "rank": session.recorder.rank,
                "world_size": self._world_size,
                "pid": os.getpid(),
                "clock": time.time(),
                "facts": known,
            }
        )
        loader = getattr(probe.inner, "data_loader", None)
        datasets.note_training_set(session, loader, getattr(self._trainer, "cfg", None))
        probe.course.begin(start_iter)
        model = getattr(probe.inner, "model", None)
        if model is not None:
            try:
                self._checksums = weights.Checksums(model)
            except (RuntimeError, TypeError) as problem:  # tensors of a kind that has no sums
                session.recorder.note("warning", "weights could not be looked at: %s" % problem)
            norms.tell_at_first_forward(model, session)
        self._hooks = front, back = _make_hooks(self._hook_base, probe, self._end_loop)
        self._trainer.register_hooks([front, back])
        hooks = self._trainer._hooks
        hooks.insert(0, hooks.pop(hooks.index(front)))
        probe.attach()

    def end(self, error: BaseException | None) -> None:
        """Write the last records. `error` is what left the loop, None when it reached its end."""
        session, probe = self._session, self._probe
        if session.recorder.ended:
            return
        files = probe.batch.files
        broke = error is not None and is_non_finite(error)
        not_finite = probe.batch.not_finite() if broke and not gpu_is_unusable(error) else None
        # Weights that the raised rate has made NaN break a model in words of its own.
        broke = broke or (probe.course.in_ramp and self._weights_broke(error))
        probe.flush()
        probe.detach()
        last = probe.last_iteration
        probe.tell_loads()
        if not isinstance(error, KeyboardInterrupt):  # whoever interrupts does not want to wait
            probe.tell_images()
        probe.course.end()
        if self._checksums is not None and not probe.gpu_is_stuck and not gpu_is_unusable(error):
            self._look_at_weights(whole=error is None or self._reason is not None)
        if self._reason is not None:
            if error is not None and not isinstance(error, LoopEnded):
                # A hook of the user failed while the loop was being left.
                words = "%s: %s" % (type(error).__name__, error)
                session.recorder.note("warning", "after the end of the loop: " + words)
            session.recorder.end("stopped", i=last, reason=self._reason)
        elif error is not None and broke and probe.course.in_ramp:
            # What the raised rate did is a result, not an end of the user's training.
            self.ruined_by_ramp = True
            at = int(self._trainer.iter)
            message = describe(error)["message"]
            session.recorder.note("ramp-non-finite", message, i=at, batch_files=files)
            session.recorder.end("stopped", i=last, reason="ramp")
        elif error is None:
            session.recorder.end("finished", i=last)
        elif isinstance(error, KeyboardInterrupt):
            session.recorder.end("interrupted", i=last)
        else:
            if not_finite is not None:
                session.tell_inputs(not_finite)
            # The iteration that broke has no record of its own.
            session.crashed(error, i=int(self._trainer.iter), batch_files=files)

    def _weights_broke(self, error: BaseException | None) -> bool:
        """Whether an exception came while parameters were NaN or infinite."""
        if not isinstance(error, Exception) or self._checksums is None or gpu_is_unusable(error):
            return False
        return bool(self._checksums.not_finite())

    def _look_at_weights(self, *, whole: bool) -> None:
        """Record what became of them. `whole`: the loop was not broken off."""
        session, probe = self._session, self._probe
        try:
            if whole:
                optimizer = getattr(probe.inner, "optimizer", None)
                self._checksums.note_untouched(session, probe.iterations, optimizer)
            if not probe.course.in_ramp:
                self._checksums.note_not_finite(session)
        except RuntimeError as problem:  # no room on the GPU, or lost: the end is to be told still
            session.recorder.note("warning", "weights could not be looked at: %s" % problem)

    def leave(self, reason: str) -> Any:
        """Raise what ends the script or, where the probe started the training, the loop."""
        if self._session.plan.kind == "config":
            raise LoopEnded(reason)
        logging.getLogger("d2check").info("training ended after: %s", reason)
        raise LeaveScript(0)

    def _end_loop(self, reason: str) -> None:
        self._reason = reason
        if self._session.plan.kind != KIND_HOOK:
            self.leave(reason)
        self.end(None)
        for hook in self._hooks:
            self._trainer._hooks.remove(hook)


def _make_hooks(hook_base: Any, probe: Any, end_loop: Any) -> tuple[Any, Any]:
    from .iteration import make_hooks

    return make_hooks(hook_base, probe, end_loop)
