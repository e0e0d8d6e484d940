"""One record for each iteration of a training loop.

Two hooks enclose all the others: the front one sees the moment before any hook runs, the back one
the moment after all have run, when the storage holds every scalar of the iteration.
"""

from __future__ import annotations

import collections
import contextlib
import statistics
import time
from typing import TYPE_CHECKING, Any

import torch

from . import datasets, dense, extremes, facts, memory, taps, weights
from .batch import BatchFacts
from .clocks import AFTER_RUN, ITERATION, RUN, Lap, Stopwatch
from .drawn import FirstObjects
from .first_images import FirstImages
from .machine import Machine
from .phases.course import WORST_BATCH, Course
from .spikes import SpikeWatch
from .stopping import VERDICT, StopRule

if TYPE_CHECKING:
    from .plan import Plan
    from .session import Session

LOADS_TOLD_AFTER = 20  # iterations; once more at the end
LOADS_KEPT = 2000  # loading times of that many images make the median
WAITING_LIMIT = 64  # iterations that the GPU may lag behind before its times are given up
# At the end: longer than an iteration takes, and short of the time that whoever ends us grants.
GPU_LIMIT_S = 4.0
GPU_POLL_S = 0.001


class IterationProbe:
    """Records the iterations of one trainer. Call `attach` first, `flush` and `detach` last."""

    def __init__(self, session: Session, trainer: Any, stop_rule: StopRule) -> None:
        """Nothing of the trainer is touched yet."""
        self._session = session
        self._recorder = session.recorder
        self._every = session.plan.grad_norm_every
        self._trainer = trainer
        self._stop_rule = stop_rule
        self.inner: Any = getattr(trainer, "_trainer", None) or trainer
        self._model: Any = getattr(self.inner, "model", None)
        self.course = Course(session, trainer, self.inner, datasets.Cost)
        optimizer = getattr(self.inner, "optimizer", None)
        self._parameters = parameters_of(optimizer)
        self._cuda, self._device = gpu_of(self._parameters, self._model)
        self._side_stream: Any = None
        self._autocast: Any = None  # the context that the model is first run in, for a worst batch
        self.gpu_is_stuck = False  # or lost: what is on it can no longer be asked for
        self._watch = Stopwatch(self._cuda, self._device)
        self._host = memory.HostMemory()
        self._machine = Machine(session, self._cuda, self._device)
        self._meter = self._make_meter()
        self.batch = BatchFacts(facts.size_divisibility(self._model))
        if self._meter is not None:
            self.batch.keep_latest = session.plan.has_phase(WORST_BATCH)
            self.course.try_worst_batch = self._try_worst_batch
        self._loads: collections.deque[tuple[float, float, float | None]]
        self._loads = collections.deque(maxlen=LOADS_KEPT)
        self._scaler: Any = getattr(self.inner, "grad_scaler", None)
        self._spikes = SpikeWatch(self._recorder)
        self._objects = FirstObjects()
        self._images = FirstImages()
        self._dense = dense.DenseHead(self._dense_is_due, self._dense_failed)
        self._running = False  # between the hooks: what is heard then is the training's own
        self._stepped = False
        self._norm: Any = None
        self._found_inf: Any = None
        self._scale: Any = None
        self._lr_used: float | None = None
        self._waiting: collections.deque[tuple[dict[str, Any], Lap, Any]] = collections.deque()
        # Detectron2 main may write the losses of an iteration in a thread, while the next one runs.
        self._held_back = int(bool(getattr(self.inner, "async_write_metrics", False)))
        self._undo: list[Any] = []
        self.iterations = 0
        self.last_iteration: int | None = None

    def attach(self, *, fetches_told: bool = False) -> None:
        """Listen at the loader, the model, the metrics and the optimizer.

        fetches_told: the fetching of batches comes in by `mark`, from where the loader is used.
        """
        if self._meter is not None:
            self._meter.begin()
        self._machine.begin()
        see_in_model = None
        loader = taps.tap_loader(self.inner, self._mark, self._see)
        self._watch.fetches_seen = fetches_told or loader is not None
        if loader is None:
            see_in_model = self._see
        self._undo = [loader, taps.tap_metrics(self.inner, self._mark)]
        if self._model is not None and hasattr(self._model, "register_forward_pre_hook"):
            self._undo.append(taps.tap_model(self._model, self._mark_forward, see_in_model))
            self._undo.append(self._dense.attach(self._model))
        if self._parameters:
            optimizer = self.inner.optimizer
            self._undo.append(
                taps.tap_optimizer(
                    optimizer, self._mark, self._before_optimizer, self._after_optimizer
                )
            )

    def detach(self) -> None:
        """Take off everything."""
        for undo in self._undo:
            if undo is not None:
                undo()
        self._undo = []

    def before_hooks(self) -> None:
        """An iteration begins."""
        self._watch.mark(ITERATION)

    def before_run(self) -> None:
        """All hooks are ready, `run_step` comes next."""
        self._running = True
        self._stepped = False
        self._watch.mark(RUN)

    def after_run(self) -> None:
        """`run_step` is over, hooks come next."""
        self._watch.mark(AFTER_RUN)
        self._running = False

    def after_hooks(self) -> str | None:
        """Record the iteration. Returns why the loop shall end now, or None."""
        lap = self._watch.finish()
        self.iterations += 1
        iteration = self.last_iteration = int(self._trainer.iter)
        record: dict[str, Any] = {"t": "iter", "i": iteration, "clock": round(time.time(), 4)}
        record["scalars"] = self._scalars(iteration)
        if self._meter is not None:
            record["memory"] = self._meter.take()
        self._tell_machine(record)
        self._loads.extend(self.batch.loads)
        if not self.course.in_ramp:
            total = record["scalars"].get("total_loss")
            self._spikes.look(iteration, total, lambda: self.batch.files)
        batch = self.batch.take()
        if batch:
            record["batch"] = batch
        if self._parameters and not self._stepped:
            record["skipped_step"] = 1
        elif self._scaler is not None:
            record["skipped_step"] = 0
        if self._lr_used is not None:
            record["lr_used"] = self._lr_used
            self._lr_used = None
        sampled = (self._norm, self._scale, self._found_inf, self._dense.take())
        self._waiting.append((record, lap, sampled))
        self._norm = self._scale = self._found_inf = None
        self._write_passed()
        if self.iterations == LOADS_TOLD_AFTER:
            self.tell_loads()
        stop = self._stop_rule.reason(iteration)
        if stop in ("iterations", "budget", VERDICT) or self._is_last(iteration):
            self.course.finish_as_configured()
        if stop == VERDICT and self._stop_rule.certain is not None:
            self.course.note_early_end(self._stop_rule.certain)
        stop = stop or self.course.advance(iteration, record["scalars"])
        if self.course.stood:  # what stands between two iterations is the time of neither
            self.course.stood = False
            self._watch.restart()
        return stop

    def _is_last(self, iteration: int) -> bool:
        """Whether the training's own end comes now, ahead of the plan's."""
        end = getattr(self._trainer, "max_iter", None)
        return end is not None and iteration + 1 >= end

    def _tell_machine(self, record: dict[str, Any]) -> None:
        rss_mib = self._host.rss_mib()
        if rss_mib is not None:
            record["rss_mib"] = rss_mib
        seen = self._machine.take()
        if seen:
            record["machine"] = seen
            self._watch.restart()  # a look may take a tenth of a second, which is no iteration's

    def _make_meter(self) -> Any:
        """The GPU's memory, or what the plan has stand for it; None where neither can be told."""
        if self._cuda is None:
            return host_meter(self._session.plan)
        try:
            return memory.cuda_meter(self._cuda, self._device)
        except memory.Untold as why:
            self.course.no_worst_batch = str(why)
            self._recorder.note("warning", "the memory of the GPU is not recorded: %s" % why)
            return None

    def _try_worst_batch(self) -> dict[str, Any]:
        template, self.batch.latest = self.batch.latest, None
        return extremes.measure(
            self._session, self._trainer, self.inner, template, self._meter, self._autocast
        )

    def flush(self) -> None:
        """Write what still waits for the GPU."""
        self._wait_for_gpu()
        while self._waiting:
            self._write(*self._waiting.popleft(), by_events=not self.gpu_is_stuck)
        self._machine.end()

    def _wait_for_gpu(self) -> None:
        """Until it has passed the last mark; not for ever, as `synchronize` would.

        Where another rank has died, the GPU may wait for half an hour in a collective operation.
        Where it is lost, that error is on its way already. Its events can no longer be read then;
        the processor's own marks can.
        """
        give_up_s = time.perf_counter() + GPU_LIMIT_S
        try:
            while self._waiting and not self._waiting[-1][1].passed():
                if time.perf_counter() > give_up_s:
                    self.gpu_is_stuck = True
                    break
                time.sleep(GPU_POLL_S)
        except RuntimeError:
            self.gpu_is_stuck = True

    def tell_loads(self) -> None:
        """Record the median cost of loading one image, where it is loaded, and what came of it."""
        parts = {
            "load_s_per_image": [load[0] for load in self._loads],
            "load_cpu_s_per_image": [load[1] for load in self._loads],
            "read_s_per_image": [load[2] for load in self._loads if load[2] is not None],
        }
        told: dict[str, float] = {
            name: round(statistics.median(seconds), 6) for name, seconds in parts.items() if seconds
        }
        told.update(self._objects.facts())
        if told:
            self._recorder.write({"t": "facts", "facts": told})

    def tell_images(self) -> None:
        """Record how the first images compare with their files; it reads those, so at the end."""
        loader = getattr(self.inner, "data_loader", None)
        if loader is None:
            loader = getattr(self.inner, "fetched_from", None)
        entry = datasets.training_set(self._session, loader, getattr(self._trainer, "cfg", None))
        told = self._images.facts(loader, (entry or {}).get("files"))
        if told:
            self._recorder.write({"t": "facts", "facts": told})

    def mark(self, code: int) -> None:
        """Something of the iteration begins or ends, by the codes of `clocks`."""
        self._mark(code)

    def _mark(self, code: int) -> None:
        if self._running:
            self._watch.mark(code)

    def _mark_forward(self, code: int) -> None:
        self._mark(code)
        if self.batch.keep_latest and self._autocast is None:
            self._autocast = taps.autocast_now("cpu" if self._cuda is None else "cuda")

    def _dense_is_due(self) -> bool:
        every = dense.EVERY_IN_RAMP if self.course.in_ramp else dense.EVERY
        return self._running and int(self._trainer.iter) % every == 0

    def _dense_failed(self, error: Exception) -> None:
        self._recorder.note("warning", "scores of anchors could not be looked at: %s" % error)

    def _see(self, batch: Any) -> None:
        self.batch.add(batch)
        self._objects.look(batch)
        if self._recorder.rank == 0:
            self._images.look(batch)

    def _before_optimizer(self) -> None:
        if not self._running:
            return
        self._stepped = True
        optimizer = self.inner.optimizer
        # A fused optimizer is called by the scaler in any case, with gradients that are still
        # scaled, and leaves the step out by itself (torch.amp.GradScaler.step).
        self._found_inf = getattr(optimizer, "found_inf", None)
        if self._every and int(self._trainer.iter) % self._every == 0:
            self._norm = weights.gradient_norm(self._parameters)
            scale = getattr(optimizer, "grad_scale", None)
            if scale is not None and self._norm is not None:
                self._norm = self._norm / scale
            # A tensor, read when the GPU has passed it; `get_scale` would wait for the GPU. A
            # copy, because the scaler changes its own in place at the end of the iteration.
            scale = getattr(self._scaler, "_scale", None)
            self._scale = None if scale is None else scale.clone()
        if self.course.rates is not None:
            self.course.rates.set_rates()
            self._lr_used = self.course.rates.lr_used

    def _after_optimizer(self) -> None:
        if self.course.rates is not None:
            self.course.rates.restore_rates()

    def _scalars(self, iteration: int) -> dict[str, float]:
        """The storage's raw values of this very iteration; older ones stay in it for ever."""
        latest = self._trainer.storage.latest()
        if self._held_back:
            for record, _, _ in self._waiting:
                late = {n: float(value) for n, (value, at) in latest.items() if at == record["i"]}
                record["scalars"] = dict(late, **record["scalars"])
        return {name: float(value) for name, (value, at) in latest.items() if at == iteration}

    def _write_passed(self) -> None:
        while len(self._waiting) > self._held_back and self._waiting[0][1].passed():
            self._write(*self._waiting.popleft())
        if len(self._waiting) > WAITING_LIMIT:
            self._write(*self._waiting.popleft(), by_events=False)

    def _write(
        self,
        record: dict[str, Any],
        lap: Lap,
        sampled: tuple[Any, Any, Any, Any],
        *,
        by_events: bool = True,
    ) -> None:
        record.update(lap.split(by_events=by_events))
        if by_events and any(one is not None for one in sampled):
            with self._beside_training():
                for name, tensor in zip(("grad_norm", "grad_scale", "skipped_step"), sampled):
                    if tensor is not None:
                        record[name] = float(tensor)
                if sampled[-1] is not None:
                    record["scalars"].update(dense.told(sampled[-1]))
        self._recorder.write(record)
        if by_events:
            self._watch.reuse(lap)

    def _beside_training(self) -> Any:
        """Where numbers are read that the GPU has made by now.

        Reading one waits for all that is queued in the same stream, for the iterations that have
        begun since as well: hence a stream of its own.
        """
        if self._cuda is None:
            return contextlib.nullcontext()
        if self._side_stream is None:
            self._side_stream = self._cuda.Stream(self._device)
        return self._cuda.stream(self._side_stream)


def gpu_of(parameters: list[Any], model: Any) -> tuple[Any, Any]:
    """(torch.cuda, the GPU that is trained on), or (None, None) where the training is on none.

    An optimizer of another kind than torch's may not tell its parameters; the model does.
    """
    if not parameters and hasattr(model, "parameters"):
        parameters = list(model.parameters())
    device = next((p.device for p in parameters), None)
    return (None, None) if device is None or device.type != "cuda" else (torch.cuda, device)


def host_meter(plan: Plan) -> Any:
    """The host's memory where the plan has it stand for a GPU's; None where it does not."""
    for phase in plan.phases:
        if phase["name"] == WORST_BATCH and phase.get("meter") == "host":
            try:
                return memory.HostMeter(phase.get("capacity_mib"))
            except OSError:  # no Linux: as without that wish
                return None
    return None


def parameters_of(optimizer: Any) -> list[Any]:
    """All parameters that an optimizer holds; none for what is no torch optimizer."""
    groups = getattr(optimizer, "param_groups", None) or []
    return [parameter for group in groups for parameter in group["params"]]


def make_hooks(hook_base: Any, probe: IterationProbe, end_loop: Any) -> tuple[Any, Any]:
    """The front and the back hook. `end_loop(reason)` must raise what leaves the loop."""

    class D2CheckFront(hook_base):
        """Runs before all other hooks."""

        def before_step(self) -> None:
            probe.before_hooks()

        def after_step(self) -> None:
            probe.after_run()

    class D2CheckBack(hook_base):
        """Runs after all other hooks."""

        def before_step(self) -> None:
            probe.before_run()

        def after_step(self) -> None:
            reason = probe.after_hooks()
            if reason is not None:
                end_loop(reason)

    return D2CheckFront(), D2CheckBack()
