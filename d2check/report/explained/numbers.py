"""The words for progress, time, rate and memory."""

from __future__ import annotations

import math

from d2check.config.lr_shape import LrShape
from d2check.explain import Eta, Memory, Other, Progress, Rate, Time
from d2check.report._text import duration, epochs, figure, quantity
from d2check.report.explained.field import ExplainedField, ordinal, percent

_SAME_RATE = 0.03
_USUAL_FACTOR = 0.001  # SOLVER.WARMUP_FACTOR's default
_LOW_SHARE, _HIGH_SHARE = 0.05, 0.2  # of the iteration spent waiting; rules/time/data-bound.yaml


def eta_words(eta: Eta) -> ExplainedField:
    """The time left, in iterations."""
    here = f"{figure(eta.seconds)} s"
    if eta.told and eta.iterations_left:
        each = eta.seconds / eta.iterations_left
        here += f" for the {eta.iterations_left:,} iterations left, {each:.4g} s each"
    elif not eta.told and eta.iterations_left is not None and eta.iteration_s:
        here += (
            f" / {eta.iteration_s:.4g} s for an iteration = about {eta.iterations_left:,} more "
            "iterations"
        )
    return ExplainedField(
        "eta",
        duration(eta.seconds),
        "The time that is left: the median of the last 1,000 iteration times x the iterations "
        "left.",
        here,
        watch="Evaluations and checkpoints are not in it: the run takes longer than it says.",
    )


def progress_words(at: Progress) -> ExplainedField:
    """The place in the run, in iterations and epochs."""
    nth = at.iteration + 1
    here = f"the {ordinal(nth)} iteration (they are counted from 0)"
    if at.from_one:
        here = (
            f"the {ordinal(nth - 1)} iteration where the project counts from 1 (Detectron2's own "
            f"trainer, which prints 19, 39 and so on, counts from 0: then the {ordinal(nth)})"
        )
    if at.planned is not None and at.share is not None:
        about = "about " if at.planned_from == "eta" else ""
        here += f", {percent(at.share)} of a run of {about}{at.planned:,} iterations"
    normal = "One iteration is one optimizer step on one batch; an epoch is images / batch of them."
    watch = ""
    if at.iterations_per_epoch is not None and at.epochs_seen is not None:
        here += f"; {epochs(at.epochs_seen)} epochs so far"
        normal += f" Here {at.iterations_per_epoch:,.0f} iterations are one epoch."
        if at.epochs_planned is not None and at.planned is not None:
            here += f", {epochs(at.epochs_planned)} epochs when all {at.planned:,} are done"
            if at.epochs_planned < 1:
                watch = (
                    "The run ends before every image was seen once. SOLVER.MAX_ITER counts "
                    "iterations, not epochs."
                )
    elif at.planned is not None:
        watch = "How many epochs that is takes the images and the batch: --images N --batch N."
    means = "How many optimizer steps are done."
    return ExplainedField("iter", str(at.iteration), means, here, normal, watch)


def time_words(time: Time) -> ExplainedField:
    """Seconds per iteration, and the wait for data in them."""
    means = "Seconds for one iteration, loading included; data_time is the wait for the batch."
    if time.time_is_mean:
        means += (
            " `time` is the mean since the process started, `data_time` that of the last 20 "
            "iterations."
        )
    parts = []
    if time.share is not None and time.data_s is not None and time.iteration_s is not None:
        parts.append(
            f"{time.data_s:.4g} / {time.iteration_s:.4g} = {percent(time.share)} of the time is "
            f"waiting for data{_over_rows(time)}: {_verdict_on_wait(time)}"
        )
    if time.last_s is not None:
        waiting = f", {time.last_data_s:.4g} s of it waiting" if time.last_data_s else ""
        parts.append(f"this very iteration took {time.last_s:.4g} s{waiting}")
    if time.images_per_s is not None:
        parts.append(f"{figure(time.images_per_s)} images per second")
    if time.epoch_s is not None:
        parts.append(f"an epoch takes {duration(time.epoch_s)}")
    watch = "A mean since the start moves slowly: a loader that got slow shows late in `time`."
    if not time.time_is_mean:
        watch = "Medians of 20 hide a loader that stalls every few iterations."
    known = {"time": time.iteration_s, "data_time": time.data_s}
    return ExplainedField(
        ", ".join(name for name, value in known.items() if value is not None),
        " s, ".join(f"{v:.4g}" for v in (time.iteration_s, time.data_s) if v is not None) + " s",
        means,
        "; ".join(parts) or "the line tells only one of the two, so no share",
        "Below 5 % the loader keeps up; the first rows wait longer, while its workers start.",
        watch,
    )


def _over_rows(time: Time) -> str:
    return f" ({time.data_s:.4g} s is the mean of these {time.rows} rows)" if time.rows > 1 else ""


def _verdict_on_wait(time: Time) -> str:
    share = time.share or 0.0
    if share > _HIGH_SHARE:
        return "the training starves; more DATALOADER.NUM_WORKERS or a faster disk would pay"
    if time.data_is_median:
        return "not a proof that the loader keeps up, since medians hide stalls"
    return "the loader keeps up" if share <= _LOW_SHARE else "the loader is near its limit"


def rate_words(rate: Rate) -> ExplainedField:
    """The schedules that the rate may come from."""
    here = _schedule(rate)
    if rate.planned is not None:
        here += ", as the config plans" if rate.agrees else f"; the config plans {rate.planned:.5g}"
    normal = (
        "Detectron2 warms up over 1,000 iterations from 1/1000 of BASE_LR by default, then holds "
        "the rate and divides it by 10 at SOLVER.STEPS."
    )
    watch = ""
    peak = rate.readings[0].peak if rate.readings else None
    if rate.reference is not None and peak:
        ratio = peak / rate.reference
        normal += f" The linear rule for this batch gives {rate.reference:.4g}."
        decays = round(-math.log10(ratio)) if rate.readings[0].warmup == "unseen" else 0
        if decays > 0 and abs(ratio * 10**decays - 1) < _SAME_RATE:
            after = "one decay" if decays == 1 else f"{decays} decays"
            watch = f"{peak:.4g} is what the linear rule gives after {after} by 10."
        elif not 0.25 <= ratio <= 4:
            than = f"{ratio:.3g} times" if ratio > 1 else f"1/{1 / ratio:.3g} of"
            watch = f"{peak:.4g} is {than} what the linear rule gives for this batch."
    return ExplainedField(
        "lr",
        f"{rate.value:.5g}",
        "The learning rate of this very iteration.",
        here,
        normal,
        watch,
    )


def _schedule(rate: Rate) -> str:
    if not rate.readings:
        return f"{rate.value:.5g}; which schedule that is takes the iteration, which is not there"
    texts = [_reading(one, exact=rate.exact and not n) for n, one in enumerate(rate.readings)]
    if len(texts) == 1 or rate.agrees:
        return texts[0]
    first = rate.readings[0]
    if rate.rows == 1 and first.warmup_factor not in (None, _USUAL_FACTOR):
        texts[0] = f"perhaps {texts[0]}"
    rest = "; or ".join(texts[1:4])
    more = f" (and {len(texts) - 4} more)" if len(texts) > 4 else ""
    rows = "one row" if rate.rows == 1 else f"{rate.rows} rows"
    return f"{texts[0]}. {rows.capitalize()} cannot rule out: {rest}{more}"


def _reading(shape: LrShape, *, exact: bool) -> str:
    peak = "an unknown rate" if shape.peak is None else f"{shape.peak:.5g}"
    inside = shape.after == "unseen" and shape.progress is not None and shape.progress < 1
    if shape.warmup == "linear" and shape.warmup_iters is not None and inside:
        start = ""
        if shape.warmup_factor is not None:
            start = f" from {shape.warmup_factor:.3g} of it" if shape.warmup_factor else " from 0"
        text = (
            f"warm-up, not decay: linear over {shape.warmup_iters:,} iterations to {peak}{start}, "
            f"now at {percent(shape.progress or 0.0)}"
        )
        return f"{text}; that gives the printed digits exactly" if exact else text
    if shape.peak is None and shape.after == "unseen":
        if shape.warmup == "linear":
            return (
                "it rises row by row: a warm-up, though none of the usual lengths and factors "
                "gives these digits"
            )
        return (
            "one row cannot tell its schedule: warm-up, cosine and polynomial decay all pass "
            "through such a rate"
        )
    if shape.warmup == "linear" and shape.warmup_iters is None and inside:
        # Of the very first iteration: every length of the warm-up begins there.
        share = f" from {shape.warmup_factor:.3g} of it" if shape.warmup_factor is not None else ""
        return f"the start of a warm-up to {peak}{share}"
    words = {"linear": "a linear warm-up", "constant": "a constant warm-up", "none": "no warm-up"}
    parts = []
    if shape.warmup in words:
        over = f" over {shape.warmup_iters:,} iterations" if shape.warmup_iters else ""
        parts.append(f"{words[shape.warmup]}{over}")
    parts.append(_after(shape, peak, alone=not parts))
    return ", then ".join(parts)


def _after(shape: LrShape, peak: str, *, alone: bool) -> str:
    if shape.after == "step" or shape.steps:
        steps = ", ".join(f"{step:,}" for step in shape.steps)
        by = f" by {shape.gamma:.3g}" if shape.gamma is not None else ""
        return f"{peak}, multiplied{by} at {steps}" if steps else f"{peak} in steps"
    if shape.after in ("unseen", "constant"):
        return (
            f"{peak}, which may be BASE_LR or a rate after a decay" if alone else f"{peak} so far"
        )
    if shape.after == "irregular":
        return "rates that follow no schedule of Detectron2"
    until = f" until {shape.length:,}" if shape.length else ""
    return f"{peak}, falling by a {shape.after} curve{until}"


def memory_words(memory: Memory) -> ExplainedField:
    """The peak of allocated memory."""
    here = f"{memory.mib:,.0f} MiB ({quantity(memory.mib, 'MiB')})"
    watch = (
        "Out of memory is decided by what PyTorch has reserved, which is more, and by the largest "
        "batch still to come."
    )
    if memory.total_mib:
        share = memory.mib / memory.total_mib
        here += f", {percent(share)} of the card's {quantity(memory.total_mib, 'MiB')}"
        if share > 0.85:
            watch += " Little is left: a batch of larger images may not fit."
    else:
        watch += " --gpu-mem 8GiB compares it with your card."
    return ExplainedField(
        "max_mem",
        f"{memory.mib:.0f}M",
        "The most that PyTorch has had allocated at any moment since the process started, on the "
        "first GPU. It never falls.",
        here,
        "It grows in steps over the first hundreds of iterations, as more foreground is found and "
        "larger batches come.",
        watch,
    )


def other_words(other: Other) -> ExplainedField:
    """A number that is not Detectron2's own."""
    return ExplainedField(
        other.name,
        f"{other.value:.4g}",
        "A number that this project or the model adds.",
        f"{other.value:.4g}",
    )
