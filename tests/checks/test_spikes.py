"""Leaps that come back, and what must not be taken for one."""

from __future__ import annotations

import numpy as np
import pytest

from d2check.checks.spikes import loss_spikes
from tests.checks.curves import mask_rcnn, noisy, power_law, series


def raised(at: int, factor: float, rows: int = 300) -> np.ndarray:
    lift = np.ones(rows)
    lift[at] = factor
    return lift


def test_a_spike_in_all_heads_is_seen_with_its_place():
    total, heads = mask_rcnn(300, 0.2)
    lift = raised(150, 6.0)
    found = loss_spikes(
        series(total.values * lift), {n: series(s.values * lift, n) for n, s in heads.items()}
    )
    assert found.value == pytest.approx(6.0, rel=0.35)
    assert found.extras["at"] == 150
    assert found.extras["spikes"] == 1


def test_a_crowded_image_stays_below():
    total, heads = mask_rcnn(300, 0.2)
    lift = raised(150, 2.0)
    found = loss_spikes(
        series(total.values * lift), {n: series(s.values * lift, n) for n, s in heads.items()}
    )
    assert found.value < 3.25


def test_a_spike_of_one_head_shows_in_the_total():
    heads = mask_rcnn(300, 0.15)[1]
    values = heads["loss_cls"].values * raised(120, 40.0)
    lifted = {**heads, "loss_cls": series(values, "loss_cls")}
    found = loss_spikes(series(sum(s.values for s in lifted.values())), lifted)
    assert found.extras["highest_total"] > 5
    assert found.extras["highest_total_z"] > 6


def test_a_rise_that_stays_is_no_spike():
    step = np.where(np.arange(300) >= 150, 4.0, 1.0)
    found = loss_spikes(series(noisy(power_law(2.0, 300) * step, 0.1, 3)))
    assert found.extras["spikes"] == 0


def test_medians_are_undecided():
    medians = series(power_law(2.0, 100), every=20, statistic="median")
    assert "hide" in (loss_spikes(medians).undecided or "")
