"""Regular swings against noise of any colour."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from d2check.checks.swing import _log10_tail, _mean_of_lower, loss_swing
from d2check.model import Series
from tests.checks.curves import coloured, noisy, power_law, series


def swung(rows: int, amplitude: float, period: float, sd: float = 0.15, seed: int = 0):
    wave = 1 + amplitude * np.sin(2 * np.pi * np.arange(rows) / period)
    return series(noisy(power_law(2.0, rows), sd, seed) * wave)


@pytest.mark.parametrize("period", [3.0, 12.0, 40.0])
def test_a_swing_is_found_with_amplitude_and_period(period):
    found = loss_swing(swung(400, 0.3, period))
    assert found.value == pytest.approx(0.3, rel=0.3)
    assert found.extras["period"] == pytest.approx(period, rel=0.1)
    assert found.extras["surprise"] > 10


@pytest.mark.parametrize("rows", [100, 300])
def test_white_noise_is_no_swing(rows):
    found = [loss_swing(series(noisy(power_law(2.0, rows), 0.2, seed))) for seed in range(120)]
    surprising = [f for f in found if f.extras["surprise"] > 3.2]
    assert len(surprising) <= 4  # the level of the noise is itself estimated from 100 rows
    assert not [f for f in surprising if f.value > 0.15]
    assert np.median([f.extras["surprise"] for f in found]) < 1.5


def test_coloured_noise_is_no_swing():
    rng = np.random.default_rng(0)
    noise = np.zeros(600)
    for i in range(1, 600):
        noise[i] = 0.4 * noise[i - 1] + 0.15 * rng.standard_normal()
    found = loss_swing(series(power_law(2.0, 600) * np.exp(noise)))
    assert found.extras["surprise"] < 4 or found.value < 0.15


@pytest.mark.parametrize("sd", [0.1, 0.5])
def test_the_scatter_is_that_around_the_course(sd):
    found = loss_swing(series(noisy(power_law(2.0, 400), sd, 3)))
    assert found.extras["scatter"] == pytest.approx(sd, rel=0.1)
    assert found.extras["within"] == pytest.approx(np.expm1(1.645 * sd), rel=0.2)


def test_heads_of_coloured_noise_each_of_its_own_do_not_swing():
    for seed in range(12):
        rng = np.random.default_rng(seed)
        heads = {}
        for k, start in enumerate((1.4, 0.5, 0.7, 0.2)):
            noise = np.convolve(rng.standard_normal(360), 0.4 ** np.arange(40))[:300]
            heads[f"loss_{k}"] = series(power_law(start, 300) * np.exp(0.3 * noise), f"loss_{k}")
        total = series(np.sum([s.values for s in heads.values()], axis=0))
        assert loss_swing(total, heads).extras["surprise"] < 2


def test_strongly_coloured_noise_that_heads_share_in_part_is_no_swing():
    found = [loss_swing(*coloured(300, 0.65, seed)) for seed in range(40)]
    assert sum(f.extras["surprise"] > 2 and f.value > 0.14 for f in found) <= 2


def test_heads_that_swing_together_do_so_in_coloured_noise_as_well():
    rng = np.random.default_rng(0)
    wave = 0.35 * np.sin(2 * np.pi * np.arange(300) / 18)
    heads = {}
    for k, start in enumerate((1.4, 0.5, 0.7, 0.2)):
        noise = np.convolve(rng.standard_normal(360), 0.5 ** np.arange(40))[:300]
        values = power_law(start, 300) * np.exp(0.25 * noise + wave)
        heads[f"loss_{k}"] = series(values, f"loss_{k}")
    total = series(np.sum([s.values for s in heads.values()], axis=0))
    found = loss_swing(total, heads)
    assert found.extras["surprise"] > 5
    assert found.extras["period"] == pytest.approx(18, rel=0.1)


def test_a_healthy_bump_is_no_swing():
    bump = 1 + 0.25 * np.exp(-(((np.arange(300) - 140) / 30) ** 2))
    found = loss_swing(series(noisy(power_law(2.9, 300) * bump, 0.12, 1)))
    assert found.extras["surprise"] < 3.2 or found.value < 0.15


def test_forty_rows_are_too_few():
    assert "rows" in (loss_swing(swung(40, 0.3, 10)).undecided or "")


@pytest.mark.parametrize(("shape", "x"), [(1, 4.0), (3, 12.0), (10, 31.0)])
def test_the_tail_agrees_with_scipy(shape, x):
    known = np.log10(stats.gamma.sf(x, shape))
    assert _log10_tail(shape, x, 1e7) == pytest.approx(known, abs=1e-3)
    estimated = np.log10(stats.f.sf(x / shape, 2 * shape, 2 * 16))
    assert _log10_tail(shape, x, 16.0) == pytest.approx(estimated, abs=1e-6)


def test_the_lower_part_of_an_exponential_has_its_mean():
    draws = np.sort(np.random.default_rng(1).exponential(size=200_000))
    assert draws[:140_000].mean() == pytest.approx(_mean_of_lower(0.7), rel=0.01)


def test_a_swing_in_a_very_long_run_is_found_where_it_is(monkeypatch):
    """Pieces bound the memory of a million rows; the span tells in which the swing is."""
    rng = np.random.default_rng(4)
    n = 4000
    values = np.exp(rng.normal(0, 0.05, n))
    at = np.arange(n)
    values[2000:3000] *= 1 + 0.1 * np.sin(2 * np.pi * at[2000:3000] / 25)
    total = Series("total_loss", 20 * at + 19, values, 20, 20, "median")
    whole = loss_swing(total)
    monkeypatch.setattr("d2check.checks.swing.ROWS_AT_ONCE", 1000)
    piece = loss_swing(total)
    assert piece.span == (20 * 2000 + 19, 20 * 2999 + 19)
    assert piece.extras["period"] == pytest.approx(500, rel=0.05)
    assert min(piece.extras["surprise"], whole.extras["surprise"]) > 3
    calm = Series("total_loss", total.iterations, np.exp(rng.normal(0, 0.05, n)), 20, 20, "median")
    assert loss_swing(calm).extras["surprise"] < 3
