from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2check.checks.rates import group_factors, lr_leap, lr_mismatch
from d2check.model import Config, Series


def rates(values, start=0, name="lr"):
    values = np.asarray(values, float)
    return Series(name, np.arange(start, start + len(values)), values)


WARM = np.concatenate([np.linspace(1e-5, 1e-2, 200), np.full(300, 1e-2)])


@pytest.mark.parametrize("factor", [0.1, 2.0])
def test_a_constant_factor_over_a_warm_up_is_that_of_a_parameter_group(factor):
    measured = lr_mismatch(rates(factor * WARM), rates(WARM))
    assert measured.value == 0
    assert measured.extras["constant_factor"] == pytest.approx(factor)


def test_a_factor_on_a_plateau_is_not_told_from_another_rate():
    assert lr_mismatch(rates([0.002] * 300), rates([0.02] * 300)).value == 1
    resumed = lr_mismatch(rates(0.1 * WARM, 5000), rates(WARM, 5000))
    assert (resumed.value, resumed.extras["kept"]) == (1, "yes")
    assert lr_mismatch(rates(0.1 * WARM**2, 5000), rates(WARM, 5000)).extras["kept"] == "no"


def test_a_factor_that_the_config_names_is_believed_anywhere():
    config = Config("yacs", {"SOLVER.BACKBONE_MULTIPLIER": 0.1, "SOLVER.BASE_LR": 0.02})
    assert group_factors(config) == (0.1,)
    measured = lr_mismatch(rates([0.002] * 300, 5000), rates([0.02] * 300, 5000), config)
    assert measured.value == 0
    assert measured.extras["constant_factor"] == 0.1


def test_another_length_of_the_warm_up_is_no_factor():
    plan = np.concatenate([np.linspace(1e-5, 1e-2, 400), np.full(100, 1e-2)])
    measured = lr_mismatch(rates(WARM), rates(plan))
    assert measured.value > 0.5
    assert measured.extras["constant_factor"] is None


def test_six_printed_decimals_are_forgiven_half_a_unit_and_no_more():
    plan = np.linspace(1e-7, 4e-6, 100)
    assert lr_mismatch(rates(np.round(plan, 6)), rates(plan)).value == 0
    assert lr_mismatch(rates(np.round(plan + 2e-6, 6)), rates(plan)).value > 0.9
    assert lr_leap(rates(np.round(plan, 6))).value < 1.5


@pytest.mark.parametrize(
    ("before", "after", "leap"),
    [(0.002, 0.02, 10.0), (0.02, 0.002, 1.0), (0.02, 0.0004, 50.0), (0.02, 0.02, 1.0)],
)
def test_the_step_from_the_training_that_is_resumed_counts(before, after, leap):
    """A tenth is a usual decay; ten times, or a fiftieth, no schedule has."""
    measured = lr_leap(rates([after] * 50, 500), None, rates([before] * 10, 490, "lr_before"))
    assert measured.value == pytest.approx(leap)
    if leap > 1:
        assert measured.span == (499, 500)
        assert (measured.extras["before"], measured.extras["after"]) == (before, after)


def test_a_resume_within_a_warm_up_is_no_leap():
    warm = np.linspace(1e-5, 1e-2, 100)
    before = rates(warm[20:32], 20, "lr_before")
    assert lr_leap(rates(warm[30:], 30), rates(warm[30:], 30), before).value < 1.1


SMOOTH = {
    "cosine": lambda left: 0.5 * (1 - np.cos(np.pi * left)),
    "linear": lambda left: left,
    "poly": lambda left: left**0.9,
    "square": lambda left: left**2,
}


@given(
    st.sampled_from(sorted(SMOOTH)), st.integers(200, 5000), st.sampled_from([1, 5, 20, 50]),
    st.integers(0, 100),
)  # fmt: skip
def test_no_smooth_schedule_leaps_at_its_end(name, planned, period, warm_up):
    at = np.arange(period - 1, planned, period)
    left = np.clip((planned - at) / planned, 1e-9, 1)
    values = 0.01 * SMOOTH[name](left) * np.minimum(1, (at + 1) / (warm_up + 1))
    leap = lr_leap(Series("lr", at, values), skip_rows=4)
    assert leap.undecided or leap.value < 1.5
