"""Rising losses, and those that only seem to."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2check.checks.rise import loss_rise
from d2check.model import Ending, EndingKind
from tests.checks.curves import coloured, mask_rcnn, noisy, power_law, series


def climbing(rows: int, factor: float, onset: float = 0.5) -> np.ndarray:
    progress = np.clip((np.arange(rows) / rows - onset) / (1 - onset), 0, 1)
    return np.exp(math.log(factor) * progress)


@pytest.mark.parametrize("seed", range(6))
def test_a_healthy_loss_ends_near_its_best(seed):
    found = loss_rise(*mask_rcnn(300, 0.2, seed))
    assert found.value is not None
    assert found.value < 1.12 or found.extras["z"] < 2.4


def test_a_hundred_rows_of_strongly_coloured_noise_do_not_rise():
    found = [loss_rise(*coloured(100, 0.65, seed)) for seed in range(40)]
    assert sum(f.value > 1.12 and f.extras["z"] > 2.4 for f in found) <= 1


@pytest.mark.parametrize("factor", [1.8, 4.0])
def test_a_slow_climb_is_seen_with_its_size(factor):
    heads = mask_rcnn(300, 0.15)[1]
    up = climbing(300, factor)
    level = {n: series(np.full(300, s.values[150]) * up, n) for n, s in heads.items()}
    found = loss_rise(series(sum(s.values for s in level.values())), level)
    assert found.extras["z"] > 4
    assert found.value == pytest.approx(factor, rel=0.35)


def test_a_leap_that_stays_is_told_from_a_spike():
    rows = 300
    step = np.where(np.arange(rows) >= 200, 2.5, 1.0)
    spike = np.where((np.arange(rows) >= 200) & (np.arange(rows) < 203), 12.0, 1.0)
    leapt = loss_rise(series(noisy(power_law(2.0, rows) * step, 0.1, 1)))
    spiked = loss_rise(series(noisy(power_law(2.0, rows) * spike, 0.1, 1)))
    assert leapt.extras["leap"] > 2
    assert leapt.extras["leap_at"] == pytest.approx(200, abs=4)
    assert spiked.extras["leap"] < 1.3
    assert spiked.value < 1.12


@pytest.mark.parametrize("rows", [100, 300])
@pytest.mark.parametrize("resumed_at", [0, 20_000])
def test_an_fcos_does_not_rise_while_its_losses_are_divided_by_too_many_anchors(rows, resumed_at):
    """Detectron2 divides by a running mean that begins at 300; one small image has 15 anchors."""
    anchors = 15 + (300 - 15) * 0.9 ** np.arange(rows)
    levels = {"loss_fcos_cls": 1.1, "loss_fcos_loc": 0.8, "loss_fcos_ctr": 0.7}
    heads = {
        name: series(noisy(power_law(level, rows, power=0.1) * 15 / anchors, 0.1, k), name)
        for k, (name, level) in enumerate(levels.items())
    }
    heads["total_loss"] = series(sum(s.values for s in heads.values()))
    at = np.arange(resumed_at, resumed_at + rows)
    heads = {name: replace(s, iterations=at) for name, s in heads.items()}
    found = loss_rise(heads.pop("total_loss"), heads)
    assert found.value is None or found.value < 1.12 or found.extras["z"] < 2.4


def test_foreground_that_has_returned_and_is_being_learned_is_no_rise():
    """As the demo's Mask R-CNN did; its best level is the dip in which all was background."""
    at = [0, 70, 90, 110, 130, 300]
    levels = {
        "loss_cls": [1.1, 0.1, 0.1, 0.4, 0.45, 0.35],
        "loss_box_reg": [0.36, 0.02, 0.1, 0.6, 0.65, 0.6],
        "loss_mask": [0.69, 0.35, 0.34, 0.41, 0.38, 0.2],
        "loss_rpn_cls": [0.69, 0.5, 0.4, 0.25, 0.15, 0.02],
    }
    rows = np.arange(300)
    heads = {name: np.interp(rows, at, each) for name, each in levels.items()}
    drawn = {n: series(noisy(v, 0.1, k), n) for k, (n, v) in enumerate(heads.items())}
    found = loss_rise(series(sum(s.values for s in drawn.values())), drawn)
    assert found.undecided is None
    assert found.value is not None
    assert found.value > 1.1
    assert "falls again" in str(found.extras["dip"])


def test_returning_foreground_is_undecided():
    """Box and class losses triple again, while a pretrained RPN's go on falling."""
    depth = np.exp(-np.arange(300) / 40) * (1 - np.exp(-np.arange(300) / 8))
    heads = {
        "loss_cls": 0.9 * (1 - 0.85 * depth),
        "loss_box_reg": 0.6 * (1 - 0.95 * depth),
        "loss_rpn_cls": power_law(0.1, 300),
        "loss_rpn_loc": power_law(0.1, 300, power=0.3),
    }
    drawn = {n: series(noisy(v, 0.1, k), n) for k, (n, v) in enumerate(heads.items())}
    found = loss_rise(series(sum(s.values for s in drawn.values())), drawn)
    assert found.value is not None
    assert found.value > 1.3
    assert "background" in (found.undecided or "")


@pytest.mark.parametrize(("first", "told"), [(100, True), (3000, False)])
def test_foreground_that_returns_is_known_in_a_stretch_from_the_dip_on(first, told):
    """The dip lies in the first 500 iterations of a training: what returns later is no such dip."""
    returning = 1 / (1 + np.exp(-(np.arange(120) - 35) / 8))
    heads = {
        "loss_cls": 0.10 + 0.10 * returning,
        "loss_box_reg": 0.05 + 0.22 * returning,
        "loss_rpn_cls": np.geomspace(0.05, 0.002, 120),
        "loss_rpn_loc": np.geomspace(0.004, 0.002, 120),
    }
    sds = {"loss_cls": 0.05, "loss_box_reg": 0.05, "loss_rpn_cls": 0.3, "loss_rpn_loc": 0.2}
    drawn = {
        n: series(noisy(v, sds[n], k), n, every=20, statistic="median", start=first)
        for k, (n, v) in enumerate(heads.items())
    }
    total = sum(s.values for s in drawn.values())
    found = loss_rise(series(total, every=20, statistic="median", start=first), drawn)
    assert found.value is not None
    assert found.value > 1.8
    assert found.extras["z"] > 4
    assert ("background" in (found.undecided or "")) is told


def test_the_last_row_counts_where_the_run_ended_in_nan():
    values = [2.7, 2.6, 2.6, 2.5, 2.6, 2.4, 2.5, 2.4, 2.5, 2.4, 2.3, 2.4, 3.1, 40.0, 5000.0]
    total = series(values)
    ended = loss_rise(total, ending=Ending(EndingKind.NON_FINITE, iteration=15))
    assert ended.value is not None
    assert ended.value > 100
    assert ended.extras["z"] > 4


def test_a_recovering_loss_says_so():
    rows = 400
    hump = 1 + 1.5 * np.exp(-(((np.arange(rows) - 230) / 40) ** 2))
    found = loss_rise(series(noisy(power_law(3.0, rows) * hump, 0.05, 2)))
    assert found.extras["recovering"] == "yes"


def test_too_few_rows_are_undecided():
    assert "rows" in (loss_rise(series([2.0, 1.5, 1.2])).undecided or "")


@given(st.lists(st.floats(1e-30, 1e30), min_size=2, max_size=80), st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_positive_numbers_are_measured(values, exploded):
    kind = EndingKind.NON_FINITE if exploded else EndingKind.FINISHED
    found = loss_rise(series(values), ending=Ending(kind))
    assert found.undecided or (found.value is not None and found.value > 0)


def test_a_loss_that_bursts_at_once_is_measured_by_its_first():
    falls = np.geomspace(3000, 300, 60)
    found = loss_rise(series(np.concatenate([[173.0, 5400.0, 3e7], falls])))
    assert found.extras["burst"] == pytest.approx(5400 / 173)
    assert found.extras["burst_lost"] > 1e4
    assert found.extras["burst_end"] > 1.3
    assert (found.extras["burst_first"], found.extras["burst_at"]) == (173.0, 2)


def test_no_burst_is_told_of_what_came_back_or_began_before():
    back = np.concatenate([[3.0, 200.0], np.linspace(2.9, 1.2, 60)])
    assert "burst_peak" not in loss_rise(series(back)).extras
    later = series(np.concatenate([[3.0, 200.0], np.linspace(90, 9, 60)]))
    resumed = replace(later, iterations=later.iterations + 5000)
    assert loss_rise(resumed).extras["burst"] == 1.0
    assert loss_rise(replace(later, statistic="median")).extras["burst"] == 1.0
