"""One record for each iteration of a training loop.

Two hooks enclose all the others: the front one sees the moment before any hook runs, the back one
the moment after all have run, when the storage holds every scalar of the iteration.
"""

from __future__ import annotations

import collections
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
        device = next((p.device for p in self._parameters), torch.device("cpu"))
        self._device = device if device.type == "cuda" else None
        self._watch = Stopwatch(torch.cuda if self._device is not None else None)
        self._host = memory.HostMemory()
        cuda = torch.cuda if self._device is not None else None
        self._machine = Machine(session, cuda, self._device)
        self._meter = make_meter(session.plan, self._device)
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
            self._undo.append(taps.tap_model(self._model, self._mark, see_in_model))
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

    def _try_worst_batch(self) -> dict[str, Any]:
        template, self.batch.latest = self.batch.latest, None
        return extremes.measure(self._session, self._trainer, self.inner, template, self._meter)

    def flush(self) -> None:
        """Write what still waits for the GPU."""
        by_events = True
        if self._waiting and self._device is not None:
            try:
                torch.cuda.synchronize(self._device)
            except RuntimeError:
                # The GPU is lost, and that error is on its way already. Its events can no longer
                # be read; the processor's own marks can.
                by_events = False
        while self._waiting:
            self._write(*self._waiting.popleft(), by_events=by_events)
        self._machine.end()

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

    def _dense_is_due(self) -> bool:
        return self._running and int(self._trainer.iter) % dense.EVERY == 0

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
            # A tensor, read when the GPU has passed it; `get_scale` would wait for the GPU.
            self._scale = getattr(self._scaler, "_scale", None)
        if self.course.ramp is not None:
            self.course.ramp.raise_rates()
            self._lr_used = self.course.ramp.lr_used

    def _after_optimizer(self) -> None:
        if self.course.ramp is not None:
            self.course.ramp.restore_rates()

    def _scalars(self, iteration: int) -> dict[str, float]:
        """The storage's raw values of this very iteration; older ones stay in it for ever."""
        latest = self._trainer.storage.latest()
        return {name: float(value) for name, (value, at) in latest.items() if at == iteration}

    def _write_passed(self) -> None:
        while self._waiting and self._waiting[0][1].passed():
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
        if by_events:
            for name, tensor in zip(("grad_norm", "grad_scale", "skipped_step"), sampled):
                if tensor is not None:
                    record[name] = float(tensor)
            if sampled[-1] is not None:
                record["scalars"].update(dense.told(sampled[-1]))
        self._recorder.write(record)
        if by_events:
            self._watch.reuse(lap)


def make_meter(plan: Plan, device: Any) -> Any:
    """The GPU's memory, or what the plan has stand for it; None where neither can be measured."""
    if device is not None:
        return memory.CudaMeter(torch.cuda, device)
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
