"""What the evaluations during training say."""

from __future__ import annotations

import numpy as np

from d2check.checks._words import counted
from d2check.model import Measurement, Scalar, Series


def best_ap(ap: Series, total: Series | None = None, empty: int | None = None) -> Measurement:
    """The highest average precision of any evaluation, in percent.

    -1 and NaN are no result (no ground truth of that kind) and are left out, unless the model
    predicted nothing: empty is the number of such evaluations, of which Detectron2 sets all to -1
    or NaN. extras: last, at, evaluations, counted ("4 evaluations"), nothing (words for the case
    that nothing was ever predicted, else empty), loss_fell (share by which the total loss fell).
    """
    known = np.isfinite(ap.values) & (ap.values >= 0)
    nothing = ""
    if known.any():
        values, iterations = ap.values[known], ap.iterations[known]
    elif empty:
        values, iterations = np.zeros(min(empty, len(ap))), ap.iterations[-empty:]
        nothing = ": the model predicts nothing at all"
    else:
        return Measurement(None, undecided="no evaluation has a result")
    at = int(np.argmax(values))
    fell = None
    if total is not None and len(total) >= 10:
        tenth = max(3, len(total) // 10)
        first, last = np.median(total.values[:tenth]), np.median(total.values[-tenth:])
        fell = float(1 - last / first) if first > 0 else None
    extras: dict[str, Scalar] = {
        "last": float(values[-1]),
        "at": int(iterations[at]),
        "evaluations": len(values),
        "counted": counted(len(values), "evaluation"),
        "nothing": nothing,
        "loss_fell": fell,
    }
    span = (int(iterations[0]), int(iterations[-1]))
    return Measurement(float(values[at]), "AP", span, extras)


def ap_lost(ap: Series, total: Series | None = None, *, min_evaluations: int = 4) -> Measurement:
    """Points of average precision that were lost since the best evaluation.

    extras: best, best_at, last, worse (evaluations since the best one), loss_falling ("yes"
    where the training loss was lower after the best evaluation than before: overfitting rather
    than divergence).
    """
    known = np.isfinite(ap.values) & (ap.values >= 0)
    values, iterations = ap.values[known], ap.iterations[known]
    if len(values) < min_evaluations:
        return Measurement(
            None,
            undecided=f"only {counted(len(values), 'evaluation')}; {min_evaluations} are needed",
        )
    at = int(np.argmax(values))
    falling = "unknown"
    if total is not None:
        before = total.values[total.iterations <= iterations[at]][-50:]
        after = total.values[total.iterations > iterations[at]][-50:]
        if len(before) >= 3 and len(after) >= 3:
            falling = "yes" if np.median(after) < np.median(before) else "no"
    extras: dict[str, Scalar] = {
        "best": float(values[at]),
        "best_at": int(iterations[at]),
        "last": float(values[-1]),
        "worse": len(values) - 1 - at,
        "loss_falling": falling,
    }
    span = (int(iterations[at]), int(iterations[-1]))
    return Measurement(float(values[at] - values[-1]), "AP", span, extras)
