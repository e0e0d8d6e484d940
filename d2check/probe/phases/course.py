"""Which phase an iteration belongs to, and what happens between two of them."""

from __future__ import annotations

import statistics
from typing import Any, Callable

from . import loader, ramp

RAMP = "ramp"
LOADER = "loader"
WORST_BATCH = "worst-batch"
STANDING = (LOADER, WORST_BATCH)  # phases that train nothing
FIRST_LOSSES = 5  # iterations whose median is the level at the start
ENOUGH_AT_PEAK = 100  # iterations near the peak of the rate that say what a ramp would


class Course:
    """Follows the phases of a plan. All ranks decide alike: by iterations and rates alone."""

    def __init__(self, session: Any, trainer: Any, inner: Any, cost: Callable[[], Any]) -> None:
        """`session` holds the plan and the recorder, `inner` model, optimizer and loader.

        `cost()` begins to measure the loading of an image, see `loader.measure`.
        """
        self._session = session
        self._trainer = trainer
        self._cost = cost
        self._optimizer: Any = getattr(inner, "optimizer", None)
        self._loader = getattr(inner, "data_loader", None)
        planned = session.plan.phases or [{"name": "as-configured"}]
        self._standing = {phase["name"] for phase in planned} & set(STANDING)
        self._moving = [phase for phase in planned if phase["name"] not in STANDING]
        as_configured = (p.get("iterations") for p in self._moving if p["name"] != RAMP)
        self._length: int | None = next(as_configured, None)
        self._current: dict[str, Any] = {}
        self._ends_after: int | None = None
        self._done = 0
        self._at_peak = 0
        self._first_losses: list[float] = []
        self._peak: float | None = None
        self.rates: ramp.Rates | None = None  # what sets other rates than the scheduler's
        self.in_ramp = False  # so that a failure is no failure as configured
        self.stood = False  # a phase that trains nothing has just run
        # Set by who knows the batches: measures the worst one, or raises why it cannot.
        self.try_worst_batch: Callable[[], dict[str, Any]] | None = None
        self.no_worst_batch = "the training runs on the CPU"  # why nobody can measure it

    def begin(self, start_iter: int) -> None:
        """The first phase that trains begins, after what needs an untouched model."""
        if LOADER in self._standing:
            self._load_apart()
        self._enter(start_iter)
        if self._ramp_is_ahead and self._optimizer is None:
            self._leave_ramp_out("the trainer keeps its optimizer to itself")
        if self._ramp_is_ahead:
            peaks = ramp.peak_rates(self._optimizer, ramp.find_scheduler(self._trainer))
            self._peak = peaks[ramp.main_group(self._optimizer.param_groups)]
            phase = next(phase for phase in self._moving if phase["name"] == RAMP)
            peak = self._peak * phase.get("rate_share", 1.0)
            self._session.recorder.write({"t": "facts", "facts": {"lr_peak": peak}})

    def advance(self, iteration: int, scalars: dict[str, float]) -> str | None:
        """An iteration is over and has stored `scalars`. Why the loop shall end, or None."""
        self._done += 1
        self._note_first_loss(scalars.get("total_loss"))
        if self.rates is not None:
            self.rates.next()
        if self._peak is not None and not self.in_ramp:
            # A trainer without Detectron2's LRScheduler logs no rate, but has one.
            lr = scalars["lr"] if "lr" in scalars else self._rate()  # may be a tensor on the GPU
            self._at_peak += lr >= ramp.NEAR_PEAK * self._peak
            if self._at_peak == ENOUGH_AT_PEAK and self._ramp_is_ahead:
                self._leave_ramp_out(
                    "as configured the rate was near its peak for %d iterations" % ENOUGH_AT_PEAK
                )
        if self._ends_after is None or self._done < self._ends_after:
            return None
        self.finish_as_configured()
        if not self._moving:
            return "iterations"
        self._enter(iteration + 1)
        return None

    def note_early_end(self, certain: dict[str, Any]) -> None:
        """The loop ends, as the stop file told why: it was certain by iteration `i`. No ramp."""
        why = certain["why"]
        of = "" if self._length is None else " of %d" % self._length
        words = "at iteration %s%s: %s" % (certain.get("done", "?"), of, why)
        self._session.recorder.note("ended-early", words, i=certain.get("i"))
        if self._current and (self._ramp_is_ahead or self.in_ramp):
            self._leave_ramp_out("the run ended early, as %s" % why)

    def _note_first_loss(self, total: float | None) -> None:
        if self._done > FIRST_LOSSES or total is None:
            return
        self._first_losses.append(total)
        if self._done == FIRST_LOSSES:
            first = statistics.median(self._first_losses)
            self._session.recorder.write({"t": "facts", "facts": {"first_loss": first}})

    def _rate(self) -> float:
        groups = self._optimizer.param_groups
        return float(groups[ramp.main_group(groups)]["lr"])

    def finish_as_configured(self) -> None:
        """Try the worst batch, once, ahead of a ramp or of the end of the loop."""
        if WORST_BATCH not in self._standing or self.in_ramp:
            return
        self._standing.remove(WORST_BATCH)
        self.stood = True
        if self.try_worst_batch is None:
            self._skip(WORST_BATCH, self.no_worst_batch)
            return
        try:
            facts = self.try_worst_batch()
        except Exception as error:  # noqa: BLE001  a made-up batch may not suit a user's own model
            self._skip(WORST_BATCH, str(error) or type(error).__name__)
            return
        self._session.recorder.write({"t": "facts", "facts": facts})

    def leave_out_standing(self) -> None:
        """Try nothing beside the training, and say no more of it."""
        self._standing.clear()

    def end(self) -> None:
        """The training is over. Say which phase was never come to."""
        if WORST_BATCH in self._standing:
            self._standing.remove(WORST_BATCH)
            self._skip(WORST_BATCH, "the training ended before its turn")

    def _enter(self, first_iteration: int) -> None:
        phase = self._current = self._moving.pop(0)
        iterations = phase.get("iterations")
        self._ends_after = None if iterations is None else self._done + iterations
        share = phase.get("rate_share", 1.0)
        self.rates, self.in_ramp = None, False
        if phase["name"] == RAMP and self._optimizer is not None:
            peaks = ramp.peak_rates(self._optimizer, ramp.find_scheduler(self._trainer))
            climb = phase.get("climb") or int((iterations or 200) * ramp.CLIMB_SHARE)
            self.rates, self.in_ramp = ramp.climbing(self._optimizer, peaks, climb, share), True
        elif share != 1 and self._optimizer is not None:
            self.rates = ramp.at_share(self._optimizer, share)
        self._session.recorder.write(
            {"t": "phase", "name": phase["name"], "first_iteration": first_iteration}
        )

    @property
    def _ramp_is_ahead(self) -> bool:
        return any(phase["name"] == RAMP for phase in self._moving)

    def _leave_ramp_out(self, reason: str) -> None:
        self._moving = [phase for phase in self._moving if phase["name"] != RAMP]
        self._skip(RAMP, reason)

    def _load_apart(self) -> None:
        try:
            facts = loader.measure(self._loader, self._cost)
        except Exception as error:  # noqa: BLE001  the user's mapper; the training will meet it
            self._skip(LOADER, "%s: %s" % (type(error).__name__, error))
            return
        if facts is None:
            self._skip(LOADER, "the trainer's loader has no mapper over a data set")
            return
        self._session.recorder.write({"t": "facts", "facts": facts})

    def _skip(self, phase: str, reason: str) -> None:
        self._session.recorder.note("phase-skipped", "%s: %s" % (phase, reason), phase=phase)
