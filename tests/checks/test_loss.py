"""Falling, no longer falling, and no number any more."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2check.checks.loss import late_fall, loss_fall, non_finite
from d2check.model import Ending, EndingKind
from tests.checks.curves import mask_rcnn, noisy, power_law, series


def test_a_fall_is_measured_with_its_certainty():
    found = loss_fall(*mask_rcnn(300))
    assert found.undecided is None
    assert found.value is not None
    assert 0.4 < found.value < 0.95
    assert found.extras["z"] > 20


@pytest.mark.parametrize("seed", range(8))
def test_flat_noise_is_no_fall(seed):
    flat = {name: np.full(200, level) for name, level in {
        "loss_cls": 1.4, "loss_box_reg": 0.5, "loss_mask": 0.69, "loss_rpn_cls": 0.69,
        "loss_rpn_loc": 0.2}.items()}  # fmt: skip
    found = loss_fall(*mask_rcnn(200, 0.2, seed, **flat))
    assert found.undecided is None
    assert found.extras["z"] < 3.5
    assert found.extras["upper"] < 0.12


def test_five_effective_iterations_decide_nothing():
    lr = series(0.02 * np.arange(1, 101) / 1000, "lr")
    found = loss_fall(series(noisy(np.full(100, 2.4), 0.1, 0)), None, lr, 0.02)
    assert "effective iterations" in (found.undecided or "")


def test_a_plain_fall_is_told_even_in_warm_up():
    lr = series(0.02 * np.arange(1, 101) / 1000, "lr")
    found = loss_fall(series(noisy(np.linspace(2.4, 1.2, 100), 0.05, 0)), None, lr, 0.02)
    assert found.undecided is None


def test_a_restart_from_trained_weights_is_undecided():
    heads = mask_rcnn(200)[1]
    flat = {n: series(noisy(np.full(200, 0.12), 0.15, i), n) for i, n in enumerate(heads)}
    found = loss_fall(series(sum(s.values for s in flat.values())), flat)
    assert "trained level" in (found.undecided or "")


def test_few_classes_that_start_low_and_learn_are_no_trained_start():
    levels = {"loss_cls": 0.3, "loss_box_reg": 0.2, "loss_mask": 0.65, "loss_rpn_cls": 0.4,
              "loss_rpn_loc": 0.1}  # fmt: skip
    course = np.concatenate((power_law(1.0, 80), np.full(120, power_law(1.0, 80)[-1])))
    heads = {
        name: series(noisy(level * course, 0.04, i), name, every=20, statistic="median", start=19)
        for i, (name, level) in enumerate(levels.items())
    }
    total = sum(s.values for s in heads.values())
    found = late_fall(series(total, every=20, statistic="median", start=19), heads)
    assert found.undecided is None
    assert found.extras["early"] > 0.3
    assert found.value is not None
    assert found.value < 0.05


def _level(first_mask, first_cls, start):
    """An R-CNN that is level from its first row on, logged every hundred iterations."""
    levels = {"loss_cls": first_cls, "loss_box_reg": 0.2, "loss_mask": first_mask,
              "loss_rpn_cls": 0.1, "loss_rpn_loc": 0.1}  # fmt: skip
    heads = {
        name: series(noisy(np.full(200, level), 0.1, i), name, every=100, statistic="median",
                     start=start)
        for i, (name, level) in enumerate(levels.items())
    }  # fmt: skip
    total = sum(s.values for s in heads.values())
    return series(total, every=100, statistic="median", start=start), heads


@pytest.mark.parametrize("start", [99, 12_099])
def test_a_loss_that_may_have_fallen_before_the_first_row_is_undecided(start):
    found = loss_fall(*_level(0.2, 0.3, start), classes=4)
    assert f"begin at iteration {start}" in (found.undecided or "")


@pytest.mark.parametrize("start", [99, 12_099])
def test_heads_at_chance_in_a_late_first_row_have_not_fallen_before(start):
    found = loss_fall(*_level(math.log(2), math.log(5), start), classes=4)
    assert found.undecided is None
    assert found.extras["z"] < 3.5


def test_a_late_first_row_of_losses_without_a_known_chance_is_undecided_when_resumed():
    flat = series(noisy(np.full(200, 22.0), 0.1, 1), every=20, statistic="median", start=8019)
    assert "begin at iteration 8019" in (loss_fall(flat).undecided or "")


@given(st.floats(1e-4, 1e4))
@settings(max_examples=20, deadline=None)
def test_the_unit_of_a_loss_does_not_matter(scale):
    values = noisy(power_law(2.0, 150), 0.2, 5)
    plain, scaled = loss_fall(series(values)), loss_fall(series(scale * values))
    assert plain.value == pytest.approx(scaled.value, rel=1e-6)


def test_a_level_second_half_has_little_left_to_fall():
    rows = 400
    stop = np.minimum(np.arange(rows), 120)
    courses = {n: s * (1 + stop / 40) ** -0.6 for n, s in {
        "loss_cls": 1.4, "loss_box_reg": 0.5, "loss_mask": 0.69, "loss_rpn_cls": 0.69,
        "loss_rpn_loc": 0.2}.items()}  # fmt: skip
    level = late_fall(*mask_rcnn(rows, 0.1, **courses))
    falling = late_fall(*mask_rcnn(rows, 0.1))
    assert level.value is not None
    assert falling.value is not None
    assert level.value < 0.08 < falling.value
    assert falling.extras["falling_z"] > 2.6 > level.extras["falling_z"]


def test_only_the_stretch_before_the_first_decay_counts():
    rows = 400
    lr = series(np.where(np.arange(rows) < 200, 0.02, 0.002), "lr")
    found = late_fall(*mask_rcnn(rows), lr, 0.02)
    assert found.span is not None
    assert found.span[1] < 200


@pytest.mark.parametrize(("end", "words"), [(9.0, "have risen together"), (1.0, "fall of up to")])
def test_what_is_no_plateau_is_told_without_negative_falls(end, words):
    course = np.concatenate((np.linspace(2.0, 1.1, 100), np.linspace(1.1, end, 100)))
    unsure = late_fall(series(noisy(course, 0.3, 1))).extras["unsure"]
    assert words in unsure
    assert "-" not in unsure


def test_the_most_that_a_plateau_fell_is_no_less_than_what_it_fell():
    course = np.concatenate((np.geomspace(72, 54, 20), np.geomspace(54, 53, 35)))
    found = late_fall(series(noisy(course, 0.02, 1), every=20, statistic="median", start=19))
    assert found.extras["most"] > found.extras["late"]
    assert found.extras["most"] > found.value


def test_medians_whose_second_half_begins_in_the_warm_up_are_no_plateau():
    course = np.concatenate((np.geomspace(72, 54, 20), np.full(35, 54.0)))
    total = series(noisy(course, 0.02, 1), every=20, statistic="median", start=19)
    lr = series(np.minimum(np.arange(1, 56) / 50, 1.0), "lr", every=20, start=19)
    assert "warming up until iteration 819" in (late_fall(total, None, lr, 1.0).undecided or "")
    constant = series(np.ones(55), "lr", every=20, start=19)
    assert late_fall(total, None, constant, 1.0).undecided is None


def test_returning_foreground_is_no_plateau():
    depth = np.exp(-np.arange(300) / 60) * (1 - np.exp(-np.arange(300) / 10))
    found = late_fall(*mask_rcnn(
        300, 0.05, loss_cls=1.1 * (1 - 0.9 * depth), loss_box_reg=0.5 * (1 - 0.97 * depth)
    ))  # fmt: skip
    assert "background" in (found.undecided or "")


def test_nan_is_counted_with_its_place_and_rate():
    values = power_law(2.0, 100)
    values[80:] = np.nan
    lr = series(np.full(100, 0.01), "lr")
    found = non_finite(series(values), {"loss_cls": series(values, "loss_cls")}, None, lr, 0.02)
    assert found.value == 40
    assert found.extras["at"] == 80
    assert found.extras["rate_share"] == pytest.approx(0.5)


def test_a_run_that_detectron2_stopped_for_nan_counts_without_any_nan_row():
    """Detectron2 raises before it stores the loss, so metrics.json never holds the NaN."""
    ending = Ending(EndingKind.NON_FINITE, iteration=812)
    found = non_finite(series(power_law(2.0, 40)), None, ending)
    assert found.value == 1
    assert found.extras["at"] == 812


def test_finite_losses_count_nothing():
    assert non_finite(series([2.0, 1.0]), {}).value == 0
    assert non_finite(None, None, Ending(EndingKind.FINISHED)).undecided  # nothing was trained


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=80), st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_numbers_are_measured_or_undecided(values, medians):
    total = series(values, every=20 if medians else 1, statistic="median" if medians else "raw")
    for check in (loss_fall, late_fall):
        found = check(total, {"loss_cls": total})
        assert found.undecided or (found.value is not None and not math.isnan(found.value))
    bad = int(np.sum(~np.isfinite(np.array(values, dtype=float))))
    assert non_finite(total).value == bad


def test_a_share_of_the_batch_is_judged_by_how_it_ended():
    share = {"processes": 1, "configured_for": 8, "base_lr": 0.02}
    ended = non_finite(ending=Ending(EndingKind.NON_FINITE, 40), **share)
    assert ended.value == 1
    assert ended.extras["share_lr"] == pytest.approx(0.0025)
    healthy = non_finite(ending=Ending(EndingKind.STOPPED, 299), **share)
    assert healthy.undecided == "only a share of the batch was trained, and no NaN ended it"
