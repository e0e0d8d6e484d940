"""The rate's climb to its peak, where it then stays: what the full rate does to this model.

The schedule is not touched. The rate of each parameter group is set just before the optimizer's
step and set back right after it, so that the scheduler and the logged rate go on as configured.
"""

from __future__ import annotations

import collections
import math
from typing import Any

import torch

CLIMB_SHARE = 0.25  # of the phase's iterations, unless the plan says how many
PEAK_SAMPLES = 1000  # points of the schedule that are looked at for its peak
NEAR_PEAK = 0.9


class Rates:
    """Sets the rates of an optimizer's groups for the span of one step each."""

    def __init__(self, optimizer: Any) -> None:
        """Nothing is set yet."""
        self._groups = optimizer.param_groups
        self._done = 0
        self._kept: list[Any] = []
        self._main = main_group(self._groups)
        self.lr_used: float | None = None

    def of_this_step(self) -> list[float]:
        """The rate of each group in this iteration."""
        raise NotImplementedError

    def set_rates(self) -> None:
        """Before the step."""
        values = self.of_this_step()
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


class Ramp(Rates):
    """Climbs to the peak and stays there."""

    def __init__(self, optimizer: Any, peaks: list[float], climb: int, share: float = 1.0) -> None:
        """`peaks`: rate per group to end at. `climb`: iterations until there. `share`: of both."""
        super().__init__(optimizer)
        self._starts = [share * float(group["lr"]) for group in self._groups]
        self._peaks = [share * peak for peak in peaks]
        self._climb = max(1, climb)

    def of_this_step(self) -> list[float]:
        """Linear, as Detectron2's warm-up is."""
        climbed = min((self._done + 1) / self._climb, 1.0)
        return [start + (peak - start) * climbed for start, peak in zip(self._starts, self._peaks)]


class ShareOfRates(Rates):
    """The rates as configured, all times the same number: what the training does at lower ones."""

    def __init__(self, optimizer: Any, share: float) -> None:
        """`share`: of the scheduler's rates."""
        super().__init__(optimizer)
        self._share = share

    def of_this_step(self) -> list[float]:
        """Whatever the scheduler has set, times the share."""
        return [self._share * float(group["lr"]) for group in self._groups]


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
