"""The rate's climb to its peak, where it then stays: what the full rate does to this model.

The schedule is not touched. The rate of each parameter group is set just before the optimizer's
step and set back right after it, so that the scheduler and the logged rate go on as configured.
"""

from __future__ import annotations

import collections
import math
from typing import Any, Callable

import torch

CLIMB_SHARE = 0.25  # of the phase's iterations, unless the plan says how many
PEAK_SAMPLES = 1000  # points of the schedule that are looked at for its peak
NEAR_PEAK = 0.9


class Rates:
    """Sets the rates of an optimizer's groups for the span of one step each."""

    def __init__(self, groups: list[dict[str, Any]], of_step: Callable[[int], list[float]]) -> None:
        """`groups`: an optimizer's. `of_step`: the rate of each, given how many steps were made."""
        self._groups = groups
        self._of_step = of_step
        self._done = 0
        self._kept: list[Any] = []
        self._main = main_group(groups)
        self.lr_used: float | None = None

    def set_rates(self) -> None:
        """Before the step."""
        values = self._of_step(self._done)
        self._kept = [group["lr"] for group in self._groups]
        for group, kept, value in zip(self._groups, self._kept, values):
            group["lr"] = torch.full_like(kept, value) if isinstance(kept, torch.Tensor) else value
        self.lr_used = float(self._groups[self._main]["lr"])

    def restore_rates(self) -> None:
        """After the step, or when it failed: what the scheduler has set."""
        for group, kept in zip(self._groups, self._kept):
            group["lr"] = kept
        self._kept = []

    def next(self) -> None:
        """The iteration is over."""
        self._done += 1
        self.lr_used = None


def climbing(optimizer: Any, peaks: list[float], climb: int, share: float = 1.0) -> Rates:
    """Rates that climb to the peak, linearly as Detectron2's warm-up does, and stay there.

    peaks: rate per group to end at. climb: iterations until there. share: of both ends.
    """
    groups = optimizer.param_groups
    starts = [share * float(group["lr"]) for group in groups]
    ends = [share * peak for peak in peaks]

    def of_step(done: int) -> list[float]:
        climbed = min((done + 1) / max(1, climb), 1.0)
        return [start + (end - start) * climbed for start, end in zip(starts, ends)]

    return Rates(groups, of_step)


def at_share(optimizer: Any, share: float) -> Rates:
    """The scheduler's rates, all times the same number: what a training does at lower ones."""
    groups = optimizer.param_groups
    return Rates(groups, lambda done: [share * float(group["lr"]) for group in groups])


def main_group(groups: list[dict[str, Any]]) -> int:
    """The group whose rate Detectron2 logs: the one with the most parameters.

    Where each parameter has a group of its own (Mask2Former and others multiply the rate by name),
    it is the first one with the commonest rate: hooks.LRScheduler.get_best_param_group_id.
    """
    if max(len(group["params"]) for group in groups) > 1:
        return max(range(len(groups)), key=lambda k: len(groups[k]["params"]))
    rates = [float(group.get("initial_lr", group["lr"])) for group in groups]
    commonest = collections.Counter(rates).most_common(1)[0][0]
    return rates.index(commonest)


def peak_rates(optimizer: Any, scheduler: Any) -> list[float]:
    """The highest rate that the schedule ever gives each group.

    Detectron2's LRMultiplier holds the whole schedule as a function of the share of the training
    that is done. Of any other scheduler only the rate that it began with is known
    (`initial_lr`, which warm-ups lead to).
    """
    factor = 1.0
    multiplier = getattr(scheduler, "_multiplier", None)
    if callable(multiplier):
        factors = [float(multiplier(k / PEAK_SAMPLES)) for k in range(PEAK_SAMPLES)]
        factor = max(f for f in factors if math.isfinite(f))
    return [
        float(group.get("initial_lr", group["lr"])) * factor for group in optimizer.param_groups
    ]


def find_scheduler(trainer: Any) -> Any:
    """The learning-rate scheduler of a trainer: its own, or that of its hook. None without one."""
    own = getattr(trainer, "scheduler", None)
    if own is not None:
        return own
    for hook in getattr(trainer, "_hooks", ()):
        if type(hook).__name__ == "LRScheduler":
            found = getattr(hook, "scheduler", None)
            return found if found is not None else getattr(hook, "_scheduler", None)
    return None
