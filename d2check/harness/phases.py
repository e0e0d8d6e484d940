"""Which phases a short run has, and how long each lasts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from d2check.errors import UsageError

AS_CONFIGURED = "as-configured"
LOADER = "loader"
WORST_BATCH = "worst-batch"
RAMP = "ramp"
# In the order in which they run: the ramp may ruin the weights, so it comes last.
PHASES = (LOADER, AS_CONFIGURED, WORST_BATCH, RAMP)

# On simulated short runs of raw losses (180 healthy ones, looked at every 10 iterations) a falling
# loss was certain in 85 to 97 % by 300 iterations and in 75 to 93 % by 200; 500 gained 1 to 8 more
# points for two thirds more of the user's time. A budget replaces it when given.
DEFAULT_ITERATIONS = 300


@dataclass(frozen=True)
class PlannedPhase:
    """A stretch of the run; iterations None means to the end, 0 that nothing is trained in it.

    climb: iterations in which a ramp reaches the peak of the rate. rate_share: what all rates are
    multiplied by.
    """

    name: str
    iterations: int | None
    climb: int | None = None
    rate_share: float = 1.0

    def to_plain(self) -> dict[str, Any]:
        """As plan.json has it."""
        climb = {} if self.climb is None else {"climb": self.climb}
        share = {} if self.rate_share == 1 else {"rate_share": self.rate_share}
        return {"name": self.name, "iterations": self.iterations, **climb, **share}


# 100 iterations at the peak: at twice the workable rate a classifier needs 70 of them to forget.
# benchmarks/foresight.md says what these lengths foretell.
QUICK_RAMP = PlannedPhase(RAMP, 120, climb=20)
SLOW_RAMP = PlannedPhase(RAMP, 180, climb=80)


def plan_phases(
    names: Sequence[str] | None, iterations: int | None, budget_s: float | None
) -> tuple[PlannedPhase, ...]:
    """The phases in the order of PHASES. Raises UsageError for names that are none.

    names: None for all of them, the ramp only where neither iterations nor a budget was asked for:
    who says how long to train gets no iteration more. iterations: of the phase as configured.
    """
    if names is None:
        asked = iterations is not None or budget_s is not None
        names = [name for name in PHASES if not (asked and name == RAMP)]
    unknown = [name for name in names if name not in PHASES]
    if unknown:
        raise UsageError(
            f"--phases {','.join(names)}: there is no phase {unknown[0]!r}."
            f" Choose of {', '.join(PHASES)}."
        )
    if not {AS_CONFIGURED, RAMP} & set(names):
        raise UsageError(
            f"--phases {','.join(names)}: nothing is trained. Add {AS_CONFIGURED} or {RAMP}."
        )
    if iterations is None and (budget_s is None or RAMP in names):
        iterations = DEFAULT_ITERATIONS
    made = {
        AS_CONFIGURED: PlannedPhase(AS_CONFIGURED, iterations),
        RAMP: QUICK_RAMP,
    }
    return tuple(made.get(name, PlannedPhase(name, 0)) for name in PHASES if name in names)


def total_iterations(phases: Sequence[PlannedPhase]) -> int | None:
    """Iterations of all phases; None where one goes on to the end."""
    lengths = [phase.iterations for phase in phases]
    return None if None in lengths else sum(length or 0 for length in lengths)
