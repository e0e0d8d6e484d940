"""What one process of the training knows of the run that it is part of."""

from __future__ import annotations

from typing import Any

from .failure import describe
from .plan import Plan
from .recorder import Recorder, first_of
from .redact import redact, redact_text
from .touched import Touched
from .unloaded import UnloadedImage

INPUTS_NAMED = 8  # of those that were no numbers


class Session:
    """The plan, the records, and what was learned before the first iteration.

    stage: what is going on, for the record of a crash: setup, config, dataset, build, train.
    facts: of d2check.model.FACTS, as they become known. data_sets: one entry for each data set that
    Detectron2 loaded, see `datasets`. cfg: the yacs config that a script was seen to use.
    in_trainer: a loop of TrainerBase is being run. state_dicts_loaded: how often anything was
    loaded into a module; None where nobody counts. touched: the folders that results would go into.
    unloaded: the last exception that came out of a checkpoint's loading, and that checkpoint.
    unloaded_image: the same of an image.
    """

    def __init__(self, plan: Plan, recorder: Recorder, rank: int = 0) -> None:
        """Begin at stage `setup`. `rank`: of this process where the probe itself started it."""
        self.plan = plan
        self.recorder = recorder
        recorder.before_end = self._before_end
        self.rank = rank
        self.stage = "setup"
        self.facts: dict[str, Any] = {}
        self.data_sets: list[dict[str, Any]] = []
        self.registered: list[str] = []
        self.cfg: Any = None
        self.in_trainer = False
        self.state_dicts_loaded: int | None = None
        self.touched = Touched(plan.folder)
        self.unloaded: tuple[BaseException, str] | None = None
        self.unloaded_image = UnloadedImage(plan.folder)
        self._neutralised: set[str] = set()

    def neutralised(self, message: str) -> None:
        """Record, once, something of the user's that was switched off or led elsewhere."""
        if message not in self._neutralised:
            self._neutralised.add(message)
            self.recorder.note("neutralised", message)

    def _before_end(self) -> None:
        touched = self.touched.tell() if self.recorder.rank == 0 else None
        if touched is not None:
            self.recorder.note("files-touched", touched)

    def crashed(self, error: BaseException, **more: Any) -> None:
        """Record the end by an exception."""
        record = dict(describe(error), stage=self.stage, **more)
        if self.stage == "dataset":
            record["registered"] = self.registered
        if self.unloaded is not None and self.unloaded[0] is error:
            record["weights"] = redact_text(self.unloaded[1])
        record.update(redact(self.unloaded_image.of(error)))
        self.recorder.end("crashed", **record)

    def tell_inputs(self, not_finite: list[str]) -> None:
        """Record what of the batch that broke was no number; empty where all of it was."""
        named = first_of(not_finite, INPUTS_NAMED, ", ")
        facts = {"batch_not_finite": len(not_finite), "batch_not_finite_named": named}
        self.recorder.write({"t": "facts", "facts": facts})
