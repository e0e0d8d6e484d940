"""What the full learning rate does to the model, tried ahead of the schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from d2check.checks._dense import NORMALISED_AFTER
from d2check.checks._usual_lr import usual_lr
from d2check.model import Event, Measurement, Scalar, Series

NON_FINITE_EVENT = "ramp-non-finite"  # the probe's note: NaN or infinity ended the ramp
UNTRAINED_RPN = 0.5  # loss_rpn_cls above it: near the ln 2 of a fresh proposal head
RECOGNITION_ROWS = 20  # a batch has few objects: one of four images 6 to 30
END_ROWS = 30
# Of a dense detector (RetinaNet, FCOS) the probe looks in every tenth iteration ahead of the ramp.
DENSE = "dense/"
DENSE_ROWS = 10
# A fresh dense head finds objects among the background, and names them, in 0.05 to 0.2 of cases.
DENSE_KNOWN = 0.5

Floats = NDArray[np.float64]


def peak_rate_response(
    total: Series,
    lr_used: Series,
    losses: Mapping[str, Series] | None = None,
    recognition: Mapping[str, Series] | None = None,
    earlier: Mapping[str, Series] | None = None,
    events: Sequence[Event] = (),
    lr_peak: float | None = None,
    first_loss: float | None = None,
    confirmed: bool | None = None,
    control_learned: float | None = None,
    images: int | None = None,
    optimizer: str | None = None,
    meta_architecture: str | None = None,
    *,
    smooth_rows: int = 5,
    min_at_peak: int = 20,
    near_peak: float = 0.9,
    min_learned: float = 0.25,
    min_recognised: float = 0.3,
    min_recognised_far: float = 0.5,
    max_end_share: float = 0.85,
    far_times: float = 4.0,
) -> Measurement:
    """How far the loss rises while the rate climbs to its peak, and stays there.

    total, losses, recognition, lr_used: raw, of the ramp alone. earlier: all series ahead of it.
    lr_peak: the schedule's highest rate. first_loss: level of total_loss as the whole run began;
    without it the ramp's own beginning counts, which may lie in the dip of a detector that takes
    everything for background. Of a dense detector the first losses are too small, and the level a
    little later counts. confirmed: whether a second ramp, slower and with another seed, has shown
    the same; None without one. control_learned: the highest share of the foreground that the same
    training has learned to recognise at a lower rate; None where it learned nothing, or was not
    tried. images: per optimizer step; with optimizer and meta-architecture it tells the usual rate.

    value: highest running median of total_loss / its level at the start; infinite where the ramp
    ended in NaN. extras: outcome ("non-finite", "finite"), start, end (levels of total_loss),
    end_share (end / start: near 1 where nothing is learned), best_share (lowest level ahead of the
    ramp / start; 1 where that is not known), fresh ("yes" where the proposals'
    loss began near chance, so that a sound training must fall), recognised (share of the foreground
    that the classifier names rightly at the end of the ramp), knew ("yes" where that share had once
    risen by `min_learned`), learned (its highest level then), kept (recognised / learned), lr (rate
    when the loss was highest), lr_peak, at_peak (iterations near the peak), confirmed ("yes", "no",
    "not tried"), control ("learns" where the training at a lower rate has learned), of_control
    (recognised / control_learned), usual_lr (the linear rule's, or of AdamW's; None where none is
    known), times_usual (lr_peak / usual_lr), far ("yes" where that is above `far_times`: a single
    ramp that holds proves little there), holds ("yes" where more than `min_recognised` is
    recognised, or far up `min_recognised_far`; where nobody counts that, where the loss falls to
    less than `max_end_share` or the model did not begin fresh), second (what a second ramp has
    shown, in words), agreed (the same where it did as the first), unsure (why no PASS is given
    where it is not).
    """
    ended = [event for event in events if event.kind == NON_FINITE_EVENT]
    finite = bool(np.isfinite(total.values).all()) and not ended
    peak = lr_peak if lr_peak is not None else float(lr_used.values.max())
    at_peak = int((lr_used.values >= near_peak * peak).sum())
    rows = total.values[np.isfinite(total.values)]
    if finite and at_peak < min_at_peak:
        return Measurement(None, undecided=f"only {at_peak} iterations at the peak of the rate")
    if finite and len(rows) < smooth_rows:
        return Measurement(None, undecided=f"only {len(rows)} iterations of the ramp")
    level = _running_median(rows, smooth_rows) if len(rows) >= smooth_rows else rows
    own_start = float(level[0]) if len(level) else math.nan
    start = _first_level(earlier or {}, recognition or {}, first_loss, smooth_rows) or own_start
    end = float(level[-len(level) // 4 :].mean()) if len(level) else math.nan
    highest = int(level.argmax()) + smooth_rows // 2 if finite else len(total) - 1
    # A project's own dense detector has a name of its own.
    kind = "RetinaNet" if _is_dense(recognition or {}) else meta_architecture
    extras: dict[str, Scalar] = {
        "outcome": "finite" if finite else "non-finite",
        "start": start if math.isfinite(start) else None,
        "end": end if finite else None,
        "end_share": end / start if finite else None,
        "best_share": _best_before(earlier or {}, start, smooth_rows),
        "fresh": _fresh(losses or {}, smooth_rows),
        "lr": _rate_at(lr_used, int(total.iterations[min(highest, len(total) - 1)])),
        "lr_peak": peak,
        "at_peak": at_peak,
        **_second(confirmed),
        **_recognition(earlier or {}, recognition or {}, min_learned),
        **_against(usual_lr(images, optimizer, kind), peak, far_times),
    }
    least = min_recognised_far if extras["far"] == "yes" else min_recognised
    held = _holds(extras, least, max_end_share)
    lone = extras["far"] == "yes" and confirmed is None
    extras["holds"] = "yes" if held else "no"
    extras["unsure"] = (_ONE_RAMP if lone else None) if held else _NOTHING_TO_RUIN
    extras |= _beside_control(extras["recognised"], control_learned)
    span = (int(total.iterations[0]), int(total.iterations[-1]))
    value = float(level.max()) / start if finite else math.inf
    return Measurement(value, "ratio", span, extras)


_ONE_RAMP = "so far above the usual rate the seed decides, and one ramp that holds proves little"
_NOTHING_TO_RUIN = (
    "nothing was learned ahead of it that it could ruin, or too little to tell: too few iterations,"
    " or a training that learns nothing at lower rates either"
)


def _against(usual: float | None, peak: float, far_times: float) -> dict[str, Scalar]:
    """How far the rate is above the one that such models are trained at."""
    if usual is None:
        return {"usual_lr": None, "times_usual": None, "far": "unknown"}
    times = peak / usual
    return {"usual_lr": usual, "times_usual": times, "far": "yes" if times > far_times else "no"}


def _second(confirmed: bool | None) -> dict[str, Scalar]:
    """What a second ramp has shown: in one word, and in words for the two verdicts."""
    if confirmed is None:
        return {"confirmed": "not tried", "second": "no second ramp was tried", "agreed": None}
    if confirmed:
        words = "a second, slower ramp did the same"
        return {"confirmed": "yes", "second": words, "agreed": words}
    return {"confirmed": "no", "second": "a second, slower ramp did otherwise", "agreed": None}


def _holds(extras: Mapping[str, Scalar], least: float, max_end_share: float) -> bool:
    """Whether there was something to ruin, and it is there at the end of the ramp.

    A loss that is flat from the start says nothing, unless the model came trained.
    """
    recognised, end_share = extras["recognised"], extras["end_share"]
    if isinstance(recognised, float):
        return recognised > least
    fallen = isinstance(end_share, float) and end_share < max_end_share
    return extras["fresh"] != "yes" or fallen


def _beside_control(recognised: Scalar | None, control_learned: float | None) -> dict[str, Scalar]:
    """Against what the same training learns at a lower rate."""
    if control_learned and isinstance(recognised, float):
        return {"control": "learns", "of_control": recognised / control_learned}
    return {"control": "not tried or learns nothing", "of_control": None}


def _running_median(values: Floats, rows: int) -> Floats:
    windows = np.lib.stride_tricks.sliding_window_view(values, rows)
    return np.asarray(np.median(windows, axis=1), np.float64)


def _first_level(
    earlier: Mapping[str, Series],
    recognition: Mapping[str, Series],
    first_loss: float | None,
    rows: int,
) -> float | None:
    """The level of total_loss as the run began, or where a dense detector's first means one."""
    total = earlier.get("total_loss")
    if _is_dense(recognition) and total is not None:
        settled = total.values[NORMALISED_AFTER:][: 4 * rows]
        if len(settled) == 4 * rows and np.isfinite(settled).all():
            return float(np.median(settled))
    return first_loss if first_loss is not None and first_loss > 0 else None


def _is_dense(recognition: Mapping[str, Series]) -> bool:
    return any(name.startswith(DENSE) for name in recognition)


def _best_before(earlier: Mapping[str, Series], start: float, rows: int) -> float:
    total = earlier.get("total_loss")
    if total is None or len(total) < rows or not np.isfinite(total.values).all():
        return 1.0
    return float(_running_median(total.values, rows).min()) / start


def _rate_at(lr_used: Series, iteration: int) -> float:
    """The rate of an iteration's step, or of the last one before it that was not left out.

    Under AMP the scaler leaves steps out, and these have no rate.
    """
    before = int(np.searchsorted(lr_used.iterations, iteration, side="right"))
    return float(lr_used.values[max(before - 1, 0)])


def _fresh(losses: Mapping[str, Series], rows: int) -> str:
    proposals = losses.get("loss_rpn_cls")
    if proposals is None or not len(proposals):
        return "unknown"
    return "yes" if float(np.median(proposals.values[:rows])) > UNTRAINED_RPN else "no"


def _recognition(
    earlier: Mapping[str, Series], ramp: Mapping[str, Series], min_learned: float
) -> dict[str, Scalar]:
    """What the classifier had learned, and what it kept of it; None where it had not.

    A fresh head names some objects by chance, and then calls everything background before it
    learns: what counts is what it knew after a rise, or of a dense detector what no fresh one knows
    (one that came with trained weights may know most at its beginning).
    """
    nothing: dict[str, Scalar] = {"knew": "unknown", "learned": None}
    nothing |= {"recognised": None, "kept": None}
    heads = sorted(name for name in ramp if name in earlier)
    if not heads:
        return nothing
    # Of a cascade's heads the mean: they train on the same images.
    whole = [np.concatenate([earlier[name].values, ramp[name].values]) for name in heads]
    rows = min(map(len, whole))
    window = DENSE_ROWS if _is_dense(ramp) else RECOGNITION_ROWS
    if rows < window + END_ROWS:
        return nothing
    mean = np.mean([values[-rows:] for values in whole], axis=0)
    recognised = float(mean[-END_ROWS:].mean())
    level = np.convolve(mean, np.ones(window) / window, mode="valid")
    known = level - np.minimum.accumulate(level) >= min_learned
    if _is_dense(ramp):
        known |= level >= DENSE_KNOWN
    if not known.any():
        return nothing | {"knew": "no", "recognised": recognised}
    learned = float(level[known].max())
    kept = recognised / learned
    return {"knew": "yes", "learned": learned, "recognised": recognised, "kept": kept}
