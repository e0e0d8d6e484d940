"""The shape of a rate read from its values, with no config at hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2check.config.lr_decay import roundest
from d2check.config.lr_shape import describe_lr
from d2check.config.schedule import planned_lr
from d2check.model import Config

ROWS = np.arange(19, 9000, 20)


def planned(at=ROWS, formula=None, **solver):
    solver = {"MAX_ITER": 9000, "STEPS": [], "BASE_LR": 0.02, **solver}
    config = Config("yacs", {f"SOLVER.{k}": v for k, v in solver.items()}, complete=False)
    return planned_lr(config, at, formula=formula)


def five_digits(values):
    return np.array([float(f"{value:.5g}") for value in values])


def test_the_users_line_is_a_warm_up_and_no_decay():
    """iter 59, lr 1.4985e-05: linear warm-up over 1,000 to 0.00025, still at 6 %."""
    shape = describe_lr([59], np.array([1.4985e-05]))
    assert (shape.warmup, shape.after) == ("linear", "unseen")
    assert (shape.warmup_iters, shape.warmup_factor, shape.peak) == (1000, 0.001, 0.00025)
    assert shape.progress == pytest.approx(0.06, abs=0.001)


def test_one_line_names_every_reading_that_fits():
    shape = describe_lr([59], np.array([1.4985e-05]))
    assert shape.candidates[0].peak == shape.peak
    assert len(shape.candidates) > 1
    for reading in shape.candidates:
        share = reading.warmup_factor + (1 - reading.warmup_factor) * 59 / reading.warmup_iters
        assert abs(reading.peak * share - 1.4985e-05) < 0.5001e-9  # five digits were printed


def test_a_rate_on_the_edge_of_its_rounding_is_still_read():
    """0.00025 x (0.001 + 0.999 x 19 / 1000) is 4.99525e-06; real logs show both neighbours."""
    for printed in (4.9952e-06, 4.9953e-06):
        shape = describe_lr([19], np.array([printed]))
        assert (shape.peak, shape.warmup_iters) == (0.00025, 1000)


def test_a_round_rate_in_one_line_is_likelier_the_rate_itself():
    shape = describe_lr([400], np.array([0.0025]))
    assert (shape.warmup, shape.peak) == ("unseen", 0.0025)
    assert len(shape.candidates) > 1


def test_at_iteration_zero_no_length_can_be_told():
    shape = describe_lr([0], np.array([2e-5]))
    assert all(reading.warmup_iters is None for reading in shape.candidates)
    assert (0.02, 0.001) in {(r.peak, r.warmup_factor) for r in shape.candidates}


@pytest.mark.parametrize("show", [np.asarray, five_digits])
def test_default_schedule_is_read_whole(show):
    shape = describe_lr(ROWS, show(planned(STEPS=[6000, 8000])))
    assert (shape.warmup, shape.warmup_iters, shape.warmup_factor) == ("linear", 1000, 0.001)
    assert (shape.after, shape.steps, shape.gamma) == ("step", (6000, 8000), 0.1)
    assert shape.peak == pytest.approx(0.02, rel=1e-4)
    assert shape.progress == pytest.approx(0.01, rel=1e-3)
    assert shape.candidates == ()


def test_a_warm_up_without_its_end_keeps_its_future_open():
    shape = describe_lr(np.arange(200), planned(np.arange(200)))
    assert (shape.warmup_iters, shape.peak, shape.after) == (1000, 0.02, "unseen")
    assert shape.progress == pytest.approx(0.2, abs=0.002)


def test_cosine_tells_its_length_and_end():
    shape = describe_lr(ROWS, planned(LR_SCHEDULER_NAME="WarmupCosineLR", BASE_LR_END=0.002))
    assert (shape.after, shape.length) == ("cosine", 9000)
    assert shape.end == pytest.approx(0.002)
    assert (shape.warmup_iters, shape.peak) == (1000, pytest.approx(0.02))


def test_cosine_of_which_a_quarter_is_seen_still_tells_its_length():
    at = ROWS[:110]
    shape = describe_lr(at, planned(at, LR_SCHEDULER_NAME="WarmupCosineLR"))
    assert 9000 in {reading.length for reading in (shape, *shape.candidates)}


def test_poly_of_the_deeplab_project_tells_its_power():
    values = planned(
        LR_SCHEDULER_NAME="WarmupPolyLR", POLY_LR_POWER=0.9, POLY_LR_CONSTANT_ENDING=0.0
    )
    shape = describe_lr(ROWS, values)
    assert (shape.after, shape.length, shape.power) == ("poly", 9000, 0.9)
    assert (shape.warmup, shape.warmup_iters) == ("linear", 1000)


def test_warm_up_that_multiplies_the_decay_is_read_as_well():
    values = planned(LR_SCHEDULER_NAME="WarmupCosineLR", formula="before-0.4")
    shape = describe_lr(ROWS, values)
    assert (shape.warmup_iters, shape.after, shape.length) == (1000, "cosine", 9000)


def test_constant_warm_up_ends_in_a_jump():
    values = planned(WARMUP_METHOD="constant", WARMUP_FACTOR=1 / 3, WARMUP_ITERS=500)
    shape = describe_lr(ROWS, values)
    assert (shape.warmup, shape.warmup_iters) == ("constant", 500)
    assert shape.warmup_factor == pytest.approx(1 / 3)
    assert (shape.after, shape.peak) == ("constant", 0.02)


def test_a_step_inside_the_warm_up_shows_as_a_low_peak():
    shape = describe_lr(ROWS, planned(STEPS=[500]))
    assert shape.peak == pytest.approx(0.002)
    assert shape.warmup_iters == 1000


def test_a_warm_up_longer_than_the_run_never_ends():
    at = np.arange(300)
    shape = describe_lr(at, planned(at, MAX_ITER=300))
    assert (shape.warmup_iters, shape.after) == (300, "unseen")


def test_rows_that_begin_late_say_nothing_of_the_warm_up():
    at = ROWS[100:]
    shape = describe_lr(at, planned(at, STEPS=[6000]))
    assert (shape.warmup, shape.warmup_iters, shape.steps) == ("unseen", None, (6000,))


def test_no_warm_up_is_only_told_from_the_first_iteration():
    assert describe_lr(np.arange(50), np.full(50, 0.01)).warmup == "none"
    assert describe_lr(np.arange(19, 1000, 20), np.full(50, 0.01)).warmup == "unseen"


def test_one_row_of_warm_up_leaves_open_how_long_it_was():
    """Rows at 19 (still low) and 39 (at the peak): a length only where a usual factor gives one."""
    at = np.arange(19, 300, 20)
    known = describe_lr(at, planned(at, MAX_ITER=300, WARMUP_ITERS=20))
    assert known.warmup_iters == 20
    values = np.full(len(at), 0.02)
    values[0] = 0.0071
    assert describe_lr(at, values).warmup_iters is None


def test_two_rows_of_a_slow_decay_are_no_step():
    shape = describe_lr([19, 30], np.array([0.00019999997216463264, 0.0001999999306043521]))
    assert shape.after == "unseen"


def test_noise_is_irregular():
    values = 0.01 * np.random.default_rng(0).random(300)
    assert describe_lr(np.arange(300), values).after == "irregular"


def test_a_straight_rise_that_fits_no_usual_warm_up_gets_no_numbers():
    """Real rows of a warm-up that multiplies a decay, seen for a sixth of its length."""
    at = np.array([99, 199, 299, 399, 400])
    factor = 0.001 + 0.999 * at / 2500
    shape = describe_lr(at, 5e-5 * factor * (1 - at / 60000) ** 0.9)
    assert (shape.warmup, shape.warmup_iters, shape.after) == ("linear", None, "unseen")


@pytest.mark.parametrize("values", [[], [np.nan], [np.nan, np.inf]])
def test_no_finite_rate_is_unseen(values):
    assert describe_lr(np.arange(len(values)), np.array(values)).after == "unseen"


def test_rates_of_zero_or_below_are_irregular():
    assert describe_lr([0, 1], np.array([0.0, 0.0])).after == "irregular"
    assert describe_lr([0, 1], np.array([0.1, -0.1])).after == "irregular"


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([1000, 5000, 20000]),
    st.sampled_from([0.0, 0.05, 0.1, 0.2]),
    st.sampled_from(["WarmupMultiStepLR", "WarmupCosineLR"]),
    st.sampled_from([0.02, 0.0025, 0.00025]),
    st.sampled_from([1, 20]),
    st.sampled_from([np.asarray, five_digits]),
)
def test_schedules_of_detectron2_are_recognised(length, warmup, name, base, every, show):
    at = np.arange(every - 1, length, every)
    iters, steps = int(warmup * length), [int(0.6 * length), int(0.9 * length)]
    values = planned(
        at, MAX_ITER=length, WARMUP_ITERS=iters, LR_SCHEDULER_NAME=name, BASE_LR=base, STEPS=steps
    )
    shape = describe_lr(at, show(values))
    if name == "WarmupMultiStepLR":
        assert shape.after == "step"
        assert len(shape.steps) == 2
        assert all(abs(a - b) < every for a, b in zip(shape.steps, steps, strict=True))
    else:
        assert "cosine" in {reading.after for reading in (shape, *shape.candidates)}
    assert shape.peak == pytest.approx(base, rel=0.01)
    if iters > 2 * every:
        assert abs(shape.warmup_iters - iters) <= max(2, 0.01 * iters)


@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=30),
    st.integers(0, 50),
    st.integers(1, 20),
)
@settings(max_examples=150, deadline=None)
def test_any_values_get_an_answer(values, first, every):
    at = first + every * np.arange(len(values))
    with np.errstate(all="ignore"):
        shape = describe_lr(at, np.array(values, float))
    assert shape.after in (
        "constant", "step", "cosine", "poly", "exponential", "irregular", "unseen",
    )  # fmt: skip


@pytest.mark.parametrize("values", [[0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0, 1.7e308]])
def test_rates_that_no_training_has_get_an_answer(values):
    """Found by the test above: a rate of zero right behind the rise, and one that overflows."""
    assert describe_lr(np.arange(len(values)), np.array(values)).warmup in ("linear", "unseen")


@given(st.floats(0, 1e6), st.floats(0, 1000))
def test_the_roundest_number_lies_in_its_range(low, width):
    found = roundest(low, low + width)
    assert found >= low
    assert found <= max(low + width, np.ceil(low))


def test_round_numbers_are_preferred():
    assert roundest(987, 1010) == 1000
    assert roundest(5981, 5999) in (5985, 5990)
    assert roundest(59981, 60001) == 60000


# --------------------------------------------------------------- rows as users paste them


@pytest.mark.parametrize(
    ("iterations", "rates", "length", "factor", "peak"),
    [
        # https://github.com/facebookresearch/detectron2/issues/214: six decimals
        ([19, 39, 59, 139], [0.0002, 0.0004, 0.000599, 0.001399], 1000, 0.001, 0.01),
        # https://github.com/facebookresearch/detectron2/issues/1022: six decimals of a small rate
        ([60, 80, 100, 120], [1.5e-05, 2e-05, 2.5e-05, 3e-05], 1000, 0.001, 0.00025),
        # https://github.com/facebookresearch/detectron2/issues/2958: CenterNet2's own factor
        ([359, 379, 399], [0.0071982, 0.0075981, 0.007998], 4000, 0.00025, 0.08),
    ],
)
def test_a_warm_up_is_read_from_few_printed_digits(iterations, rates, length, factor, peak):
    shape = describe_lr(iterations, np.array(rates))
    assert (shape.warmup, shape.warmup_iters, shape.peak) == ("linear", length, peak)
    assert shape.warmup_factor == pytest.approx(factor, rel=1e-6)


def test_three_printed_digits_are_allowed_for():
    """fastreid, https://github.com/JDAI-CV/fast-reid/issues/342"""
    rates = np.array([5.04e-06, 6.76e-06, 8.47e-06, 1.02e-05, 1.19e-05])
    shape = describe_lr([9, 19, 29, 39, 49], rates)
    assert (shape.warmup, shape.warmup_factor, shape.peak) == ("linear", 0.01, 0.00035)
    assert 1980 <= shape.warmup_iters <= 2050
