"""fvcore's parameter schedulers as closed formulas over whole arrays.

A curve maps progress (float64[n], 0 at the first iteration, 1 at the end) to a multiplier
(float64[n]). The arithmetic follows fvcore 0.1.5 `common/param_scheduler.py` operation by
operation, because a step falls on another iteration when a rounding differs. Where fvcore would
raise (past the end), a curve is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Curve = Callable[[Floats], Floats]

_EPSILON = 1e-6  # fvcore's ParamScheduler.WHERE_EPSILON
_MAX_NESTING = 20


class ScheduleUnknown(Exception):
    """The planned rate cannot be told. `reason` completes "could not be judged: ..."."""

    def __init__(self, reason: str) -> None:
        """Keep the reason, a phrase without a final full stop."""
        self.reason = reason
        super().__init__(reason)


def constant(value: float) -> Curve:
    """The same value everywhere before the end."""
    return lambda where: np.where(where < 1.0, value, np.nan)


def linear(start: float, end: float) -> Curve:
    """From start to end in a straight line."""
    return lambda where: end * where + start * (1 - where)


def cosine(start: float, end: float) -> Curve:
    """From start to end along half a cosine (https://arxiv.org/abs/1608.03983, no restarts)."""
    return lambda where: end + 0.5 * (start - end) * (1 + np.cos(math.pi * where))


def exponential(start: float, decay: float) -> Curve:
    """start x decay ** progress."""
    return lambda where: start * decay**where


def polynomial(base: float, power: float) -> Curve:
    """base x (1 - progress) ** power; 0 at the end."""
    return lambda where: base * np.maximum(1 - where, 0.0) ** power


def multi_step(values: Sequence[float], milestones: Sequence[float], num_updates: float) -> Curve:
    """values[k] from the k-th milestone on. Milestones are iterations of a run of num_updates.

    Raises:
        ScheduleUnknown: milestones that fvcore refuses (not ascending, not below num_updates).
    """
    if len(values) != len(milestones) + 1 or num_updates < len(values):
        raise ScheduleUnknown(
            f"Detectron2 refuses {len(milestones)} steps with {len(values)} rates "
            f"in {num_updates} iterations"
        )
    previous: float = 0
    for milestone in milestones:
        if not previous < milestone < num_updates:
            raise ScheduleUnknown(
                f"Detectron2 refuses steps at {', '.join(f'{m:g}' for m in milestones)}: "
                f"they must rise and lie between 0 and {num_updates:g}"
            )
        previous = milestone
    edges, levels = np.asarray(milestones, float), np.asarray(values, float)

    def curve(where: Floats) -> Floats:
        updates = np.trunc((where + _EPSILON) * num_updates)
        found: Floats = levels[np.searchsorted(edges, updates, side="right")]
        return found

    return curve


def equal_steps(values: Sequence[float]) -> Curve:
    """The values one after the other, each for the same share of the run."""
    levels = np.asarray(values, float)

    def curve(where: Floats) -> Floats:
        index = np.trunc((where + _EPSILON) * len(levels)).astype(np.int64)
        inside = index < len(levels)
        return np.where(inside, levels[np.where(inside, index, 0)], np.nan)

    return curve


def fixed_gamma(base: float, gamma: float, num_decays: int) -> Curve:
    """num_decays decays by gamma at equal distances; NaN at the very end, where fvcore raises."""
    values = [base]
    for _ in range(num_decays):
        values.append(values[-1] * gamma)
    return equal_steps(values)


def composite(curves: Sequence[Curve], lengths: Sequence[float], scaling: Sequence[str]) -> Curve:
    """Curves one after the other, each for its share of the run.

    scaling: "rescaled" stretches a curve over its share, "fixed" reads it at the run's progress.
    """
    if not curves or len(curves) != len(lengths) or len(curves) != len(scaling):
        raise ScheduleUnknown("a composite schedule whose parts do not match its lengths")
    if abs(sum(lengths) - 1.0) >= 1e-3:
        raise ScheduleUnknown(f"a composite schedule whose lengths add up to {sum(lengths):g}")
    shares = list(lengths)
    if sum(shares) != 1.0:
        shares[-1] = 1.0 - sum(shares[:-1])
    ends = [shares[0]]
    for share in shares[1:]:
        ends.append(ends[-1] + share)

    def curve(where: Floats) -> Floats:
        part = np.searchsorted(np.asarray(ends[:-1]), where + _EPSILON, side="left")
        values = np.full(where.shape, np.nan)
        for i, piece in enumerate(curves):
            mine = part == i
            progress = where[mine]
            if scaling[i] == "rescaled" and progress.size:
                if shares[i] == 0:
                    continue  # fvcore divides by zero here
                progress = (progress - (ends[i] - shares[i])) / shares[i]
            values[mine] = piece(progress)
        return values

    return curve


def warmed_up(curve: Curve, factor: float, length: float, method: str, *, rescale: bool) -> Curve:
    """A curve behind a warm-up, as Detectron2's WarmupParamScheduler (since v0.4).

    length: share of the run. Without rescale the warm-up ends at the curve's value *there*: a step
    inside the warm-up lowers its end. rescale (main): the whole curve is moved behind the warm-up.
    """
    first, there = curve(np.array([0.0, length]))
    start, end = factor * float(first), float(first if rescale else there)
    if not (math.isfinite(start) and math.isfinite(end)):
        raise ScheduleUnknown("Detectron2 refuses a warm-up as long as this schedule")
    if method == "constant":
        warmup = constant(start)
    elif method == "linear":
        warmup = linear(start, end)
    else:
        raise ScheduleUnknown(f"Detectron2 knows no warm-up method {method!r}")
    rest = "rescaled" if rescale else "fixed"
    return composite([warmup, curve], [length, 1 - length], ["rescaled", rest])


def from_lazy(tree: Any, depth: int = 0) -> Curve:
    """The curve of a scheduler in a LazyConfig dump (`{_target_: ...MultiStepParamScheduler}`).

    Raises:
        ScheduleUnknown: a scheduler that neither fvcore nor Detectron2 has, or one whose arguments
            are not plain numbers.
    """
    target = tree.get("_target_") if isinstance(tree, Mapping) else tree
    name = str(target).rpartition(".")[2]
    build = _LAZY.get(name)
    if build is None or depth > _MAX_NESTING:
        raise ScheduleUnknown(f"its learning rate scheduler is {target}, which is not known here")
    try:
        return build(tree, depth)
    except (KeyError, TypeError, ValueError) as error:
        raise ScheduleUnknown(
            f"the arguments of its learning rate scheduler {name} are not plain numbers"
        ) from error


def _lazy_multi_step(tree: Mapping[str, Any], _depth: int) -> Curve:
    values = [float(v) for v in tree["values"]]
    if tree.get("milestones") is None:
        updates = float(tree["num_updates"])
        width = math.ceil(updates / len(values))
        return multi_step(values, [width * (i + 1) for i in range(len(values) - 1)], updates)
    milestones = [float(m) for m in tree["milestones"]]
    last = float(tree["num_updates"]) if tree.get("num_updates") else milestones.pop()
    return multi_step(values, milestones, last)


def _lazy_warmup(tree: Mapping[str, Any], depth: int) -> Curve:
    return warmed_up(
        from_lazy(tree["scheduler"], depth + 1),
        float(tree["warmup_factor"]),
        float(tree["warmup_length"]),
        tree.get("warmup_method", "linear"),
        rescale=bool(tree.get("rescale_interval", False)),
    )


def _lazy_composite(tree: Mapping[str, Any], depth: int) -> Curve:
    parts = [from_lazy(part, depth + 1) for part in tree["schedulers"]]
    return composite(parts, [float(x) for x in tree["lengths"]], tree["interval_scaling"])


_LAZY: Mapping[str, Callable[[Mapping[str, Any], int], Curve]] = {
    "ConstantParamScheduler": lambda t, _: constant(float(t["value"])),
    "LinearParamScheduler": lambda t, _: linear(float(t["start_value"]), float(t["end_value"])),
    "CosineParamScheduler": lambda t, _: cosine(float(t["start_value"]), float(t["end_value"])),
    "ExponentialParamScheduler": lambda t, _: exponential(
        float(t["start_value"]), float(t["decay"])
    ),
    "PolynomialDecayParamScheduler": lambda t, _: polynomial(
        float(t["base_value"]), float(t["power"])
    ),
    "StepParamScheduler": lambda t, _: equal_steps([float(v) for v in t["values"]]),
    "StepWithFixedGammaParamScheduler": lambda t, _: fixed_gamma(
        float(t["base_value"]), float(t["gamma"]), int(t["num_decays"])
    ),
    "MultiStepParamScheduler": _lazy_multi_step,
    "CompositeParamScheduler": _lazy_composite,
    "WarmupParamScheduler": _lazy_warmup,
}
