"""Measuring functions: series and facts of a run in, one Measurement out. No verdicts.

`CHECKS` is what rule files name in `check:`; their parameters are what `reads:` and `with:` bind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from d2check.checks import (
    classes,
    ending,
    evaluation,
    finite,
    gpu,
    heads,
    host,
    labels,
    loss,
    memory,
    precision,
    ramp,
    rates,
    rise,
    schedule,
    settings,
    spikes,
    swing,
    time,
    weights,
)
from d2check.model import Measurement

CHECKS: Mapping[str, Callable[..., Measurement]] = MappingProxyType(
    {
        check.__name__: check
        for check in (
            loss.loss_fall,
            loss.late_fall,
            rise.loss_rise,
            ramp.peak_rate_response,
            precision.skipped_steps,
            finite.broken_weights,
            swing.loss_swing,
            spikes.loss_spikes,
            loss.non_finite,
            heads.stuck_head,
            heads.zero_head,
            heads.roi_stall,
            heads.first_level,
            time.data_share,
            time.stalls,
            time.slowdown,
            time.slow_outliers,
            time.hooks_share,
            time.slow_start,
            time.straggler,
            gpu.shared_gpu,
            host.host_headroom,
            memory.headroom,
            memory.worst_batch,
            memory.growth,
            memory.fragmentation,
            memory.host_growth,
            memory.underused,
            rates.lr_mismatch,
            schedule.warmup_share,
            schedule.lr_scale,
            rates.lr_vanishes,
            schedule.first_rate,
            schedule.steps_in_warmup,
            schedule.early_decay,
            schedule.late_rate,
            rates.lr_leap,
            schedule.epochs,
            labels.foreground,
            labels.positive_anchors,
            labels.foreground_accuracy,
            labels.filtered_share,
            labels.training_images,
            labels.data_error,
            labels.class_range,
            labels.box_format,
            labels.boxes_off_masks,
            classes.class_choice,
            labels.imbalance,
            labels.anchor_fit,
            weights.lost_weights,
            weights.scratch_images,
            weights.from_scratch,
            weights.untouched_groups,
            weights.pixel_statistics,
            settings.unknown_keys,
            settings.invalid_steps,
            settings.batch_remainder,
            settings.norm_batch,
            settings.evaluations,
            evaluation.best_ap,
            evaluation.ap_lost,
            ending.ended_badly,
            ending.ended_as,
            ending.out_of_memory,
            ending.runs_mixed,
            ending.missing_share,
        )
    }
)
