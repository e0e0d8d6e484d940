"""Whether a config belongs to the rows beside it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2check.config.match import matches, planned_series, rate_fit
from d2check.config.schedule import ScheduleUnknown, planned_lr
from d2check.model import Config, Series

ROWS = np.arange(19, 2000, 20)


def yacs(**solver):
    solver = {"MAX_ITER": 3000, "STEPS": [1500], "BASE_LR": 0.02, **solver}
    return Config("yacs", {f"SOLVER.{k}": v for k, v in solver.items()}, complete=False)


def rates(config, iterations=ROWS, factor=1.0, **kwargs):
    return Series("lr", iterations, planned_lr(config, iterations, **kwargs) * factor, every=20)


OWN = yacs()


def test_rows_of_the_configs_own_rate_belong_to_it():
    assert matches(OWN, rates(OWN), 1999) == (True, None)
    assert matches(OWN, rates(OWN), 1999, segments=4, is_last=False) == (True, None)


def test_rows_longer_than_the_config_are_of_another_start():
    fits, reason = matches(OWN, rates(OWN), 4999)
    assert fits is False
    assert "iteration 4,999" in reason
    assert "3,000" in reason


def test_the_evaluation_after_the_last_iteration_is_not_too_long():
    assert matches(OWN, rates(OWN), 3000) == (True, None)


@pytest.mark.parametrize(
    "other",
    [yacs(BASE_LR=0.002), yacs(WARMUP_ITERS=500), yacs(STEPS=[1000]),
     yacs(LR_SCHEDULER_NAME="WarmupCosineLR")],
)  # fmt: skip
def test_among_several_starts_rows_of_another_rate_are_turned_away(other):
    fits, reason = matches(OWN, rates(other), 1999, segments=3, is_last=False)
    assert fits is False
    assert "another of the 3 starts" in reason


@pytest.mark.parametrize("other", [yacs(WARMUP_ITERS=500), yacs(STEPS=[1000])])
def test_in_the_only_segment_another_rate_stays_a_question_so_that_rules_may_speak(other):
    fits, reason = matches(OWN, rates(other), 1999)
    assert fits is None
    assert "overwritten" in reason


def test_the_only_start_of_a_folder_belongs_to_its_config_whatever_differs():
    assert matches(OWN, rates(yacs(WARMUP_ITERS=500)), 1999, starts=1) == (True, None)


def test_a_constant_multiple_is_a_parameter_groups_rate():
    """The logged group may have a multiplier; shape and length still belong together."""
    assert matches(OWN, rates(OWN, factor=0.1), 1999) == (True, None)
    fit = rate_fit(OWN, rates(OWN, factor=0.1))
    assert (fit.fits, fit.same_shape) == (False, True)
    assert fit.factor == pytest.approx(0.1)


def test_a_constant_multiple_among_several_starts_may_be_another_base_rate():
    last = matches(OWN, rates(OWN, factor=0.1), 1999, segments=2)
    assert last[0] is None
    assert "factor of 0.1" in last[1]
    assert matches(OWN, rates(OWN, factor=0.1), 1999, segments=2, is_last=False)[0] is False


def test_a_flat_stretch_shows_no_shape_to_agree_on():
    flat = rates(OWN, np.arange(1019, 1400, 20), factor=0.5)
    assert rate_fit(OWN, flat).same_shape is False
    assert matches(OWN, flat, 1399)[0] is None


def test_rows_without_a_rate_cannot_be_tried():
    nothing = Series("lr", np.array([], np.int64), np.array([]))
    assert matches(OWN, nothing, 100)[0] is None
    assert matches(OWN, None, 100)[0] is None
    assert matches(yacs(LR_SCHEDULER_NAME="MyLR"), rates(OWN), 100)[0] is None


def test_six_printed_decimals_do_not_turn_rows_away():
    """v0.1 printed lr with .6f: at iteration 19 that is two digits."""
    config = yacs(BASE_LR=0.00025)
    printed = Series("lr", ROWS, np.round(planned_lr(config, ROWS), 6))
    assert matches(config, printed, 1999) == (True, None)


def test_one_odd_row_after_a_resume_is_forgiven():
    lr = rates(OWN)
    values = lr.values.copy()
    values[50] = 2e-5
    assert matches(OWN, Series("lr", ROWS, values), 1999) == (True, None)


def test_scaling_to_the_number_of_gpus_is_redone_or_left_open():
    config = yacs(REFERENCE_WORLD_SIZE=8, IMS_PER_BATCH=16, MAX_ITER=1000, STEPS=[500])
    on_two = yacs(BASE_LR=0.005, MAX_ITER=4000, STEPS=[2000], WARMUP_ITERS=4000)
    lr = rates(on_two)
    assert matches(config, lr, 1999, world_size=2) == (True, None)
    fits, reason = matches(config, lr, 1999)
    assert fits is None
    assert "REFERENCE_WORLD_SIZE" in reason


def test_rates_of_an_old_detectron2_are_planned_by_its_formula():
    config = yacs(MAX_ITER=500, STEPS=[], WARMUP_ITERS=1000)
    at = np.arange(19, 500, 20)
    old = rates(config, at, formula="before-0.4")
    assert matches(config, old, 499) == (True, None)
    np.testing.assert_allclose(planned_series(config, old).values, old.values)


def test_iterations_counted_from_one_are_recognised():
    late = Series("lr", ROWS + 1, planned_lr(OWN, ROWS))
    assert matches(OWN, late, 2000) == (True, None)
    np.testing.assert_allclose(planned_series(OWN, late).values, late.values)


def test_a_plan_for_rows_that_it_does_not_fit_is_still_the_configs():
    planned = planned_series(OWN, rates(yacs(WARMUP_ITERS=500)))
    np.testing.assert_allclose(planned.values, planned_lr(OWN, ROWS))
    assert planned.name == "planned_lr"
    assert planned.every == 20


def test_no_plan_is_made_for_a_scheduler_of_the_projects_own():
    with pytest.raises(ScheduleUnknown):
        planned_series(yacs(LR_SCHEDULER_NAME="MyLR"), rates(OWN))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(10, 400), st.integers(0, 500), st.sampled_from([1, 5, 20]), st.integers(0, 9),
    st.booleans(),
)  # fmt: skip
def test_own_rows_always_belong(length, warmup, every, first, cosine):
    name = "WarmupCosineLR" if cosine else "WarmupMultiStepLR"
    config = yacs(MAX_ITER=length, WARMUP_ITERS=warmup, STEPS=[], LR_SCHEDULER_NAME=name)
    lr = rates(config, np.arange(first, length, every))
    assert matches(config, lr, length - 1)[0] is True
