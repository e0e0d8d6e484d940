"""The noise, the pool and the effective iterations that loss checks rest on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from d2check.checks._curve import (
    LossCurve,
    effective_iterations,
    loss_curve,
    noise_of,
    robust_sd,
    slope_of,
    usual_phi,
    warmup_target,
)
from d2check.checks._rcnn import background_dip, trained_level
from tests.checks.curves import coloured, mask_rcnn, noisy, power_law, series


def curve_of(total, heads, **given) -> LossCurve:
    curve = loss_curve(total, heads, **given)
    assert isinstance(curve, LossCurve)
    return curve


@pytest.mark.parametrize("sd", [0.05, 0.3])
def test_noise_is_found_under_any_course(sd):
    course = np.log(power_law(3.0, 2000)) + 0.5 * np.sin(np.arange(2000) / 150)
    noise = noise_of(course + sd * np.random.default_rng(1).standard_normal(2000))
    assert noise.sd == pytest.approx(sd, rel=0.08)
    assert noise.vif < 1.3


def test_autocorrelated_noise_counts_fewer_rows():
    rng = np.random.default_rng(2)
    values = np.zeros(3000)
    for i in range(1, 3000):
        values[i] = 0.5 * values[i - 1] + rng.standard_normal()
    noise = noise_of(values)
    assert noise.vif == pytest.approx(3.0, rel=0.25)  # (1 + 0.5) / (1 - 0.5)
    assert noise.sd == pytest.approx(np.std(values), rel=0.1)


def test_heads_tell_together_how_a_hundred_rows_are_correlated():
    apart, together = [], []
    for seed in range(12):
        curve = curve_of(*coloured(100, 0.6, seed))
        apart.append(noise_of(curve.pool).vif)
        together.append(noise_of(curve.pool, usual_phi(curve)).vif)
    truth = 1.6 / 0.4
    assert abs(np.mean(together) - truth) < 0.7 * abs(np.mean(apart) - truth)


def test_a_few_outliers_do_not_raise_the_noise():
    values = np.random.default_rng(3).standard_normal(500)
    values[::50] += 30
    assert robust_sd(values) == pytest.approx(1.0, rel=0.12)


def test_slope_agrees_with_theil_sen_under_outliers():
    rng = np.random.default_rng(4)
    x = np.arange(300.0)
    y = -0.01 * x + 0.2 * rng.standard_normal(300)
    y[10::60] += 5
    slope, se = slope_of(x, y, noise_of(y))
    expected = stats.theilslopes(y, x)
    assert slope == pytest.approx(expected.slope, abs=4 * se)
    assert se < 0.001


def test_pooled_heads_have_less_noise_than_the_total():
    """With the noise that real heads have, the quiet mask loss is worth most."""
    sds = {"loss_cls": 0.34, "loss_box_reg": 0.23, "loss_mask": 0.14, "loss_rpn_cls": 1.0}
    heads = {
        name: series(noisy(power_law(0.7, 500), sd, k), name)
        for k, (name, sd) in enumerate(sds.items())
    }
    curve = curve_of(series(sum(s.values for s in heads.values())), heads)
    assert noise_of(curve.pool).sd < 0.6 * noise_of(curve.total).sd


def test_a_curve_ends_before_its_first_nan():
    values = power_law(2.0, 100)
    values[60] = np.nan
    assert len(curve_of(series(values), None)) == 60


def test_overlapping_windows_are_thinned():
    """A writer with period 1 stores medians of the last 20: 400 rows hold 20 values."""
    values = power_law(2.0, 400)
    running = series(values, every=1, statistic="median")
    assert len(curve_of(running, None)) == 20


def test_a_loss_that_is_not_positive_has_no_logarithm():
    assert loss_curve(series([1.0, 0.5, -0.1, 0.2]), None) == (
        "total_loss is not positive everywhere, so relative changes mean nothing"
    )


def test_a_hundred_iterations_of_the_default_warmup_are_five():
    iterations = np.arange(100)
    lr = 0.02 * (0.001 + 0.999 * iterations / 1000)
    with_config = effective_iterations(iterations, lr, 0.02)[-1]
    by_shape = effective_iterations(iterations, lr, None)[-1]
    assert with_config == pytest.approx(5.0, abs=0.1)
    assert by_shape == pytest.approx(5.0, abs=0.1)


def test_an_unfinished_warmup_tells_where_it_is_heading():
    iterations = np.arange(19, 200, 20)
    lr = 0.0025 * (0.001 + 0.999 * iterations / 1000)
    assert warmup_target(iterations, lr) == pytest.approx(0.0025)
    assert warmup_target(iterations, np.full(10, 0.0025)) is None


def test_without_rates_every_iteration_counts():
    assert effective_iterations(np.arange(19, 400, 20), None, None)[-1] == pytest.approx(400)


def test_a_restart_begins_below_half_of_chance():
    total, heads = mask_rcnn(100)
    assert trained_level(curve_of(total, heads), classes=3) is None
    low = {name: series(0.2 * s.values, name) for name, s in heads.items()}
    assert "loss_mask" in (trained_level(curve_of(total, low), classes=3) or "")


def dipped(rows: int = 300) -> dict[str, np.ndarray]:
    depth = np.exp(-np.arange(rows) / 40) * (1 - np.exp(-np.arange(rows) / 8))
    return {
        "loss_cls": power_law(1.1, rows) * (1 - 0.85 * depth),
        "loss_box_reg": power_law(0.5, rows, power=0.2) * (1 - 0.95 * depth),
    }


def test_returning_foreground_is_known():
    assert background_dip(curve_of(*mask_rcnn(300, 0.1, **dipped())))


def test_a_rise_of_all_heads_is_no_returning_foreground():
    total, heads = mask_rcnn(300, 0.1)
    climb = np.exp(np.clip(np.arange(300) - 150, 0, None) / 120)
    raised = {name: series(s.values * climb, name) for name, s in heads.items()}
    assert not background_dip(curve_of(series(total.values * climb), raised))


@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=60),
    st.integers(1, 20),
)
@settings(max_examples=60, deadline=None)
def test_any_numbers_make_a_curve_or_a_reason(values, every):
    found = loss_curve(series(values, every=every), {"loss_cls": series(values, "loss_cls")})
    if isinstance(found, LossCurve):
        assert np.isfinite(found.total).all()
        assert np.isfinite(found.pool).all()
        assert np.all(np.diff(found.effective) >= 0)
    else:
        assert found


@given(st.floats(1e-3, 1e3), st.integers(0, 50))
@settings(max_examples=25, deadline=None)
def test_the_scale_of_a_loss_does_not_change_its_noise(scale, seed):
    values = noisy(power_law(2.0, 120), 0.2, seed)
    assert noise_of(np.log(values)).sd == pytest.approx(noise_of(np.log(scale * values)).sd)
