"""Memory that is nearly full, grows, or is held for nothing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from d2check.checks.memory import (
    _log10_poisson_tail,
    fragmentation,
    growth,
    headroom,
    underused,
)
from tests.checks.curves import series


def peaks(rows: int = 400, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 4000 + 1500 * np.minimum(np.exp(0.2 * rng.standard_normal(rows)), 1.4)


def test_headroom_is_what_is_left_at_the_highest_peak():
    found = headroom(10_000, series(peaks(), "peak_reserved_mib"), planned_iterations=400)
    assert found.value == pytest.approx(1 - peaks().max() / 10_000)
    assert found.extras["measured"] == "reserved"


def test_the_forecast_grows_with_the_planned_length():
    short = headroom(10_000, series(peaks()), planned_iterations=400)
    long = headroom(10_000, series(peaks()), planned_iterations=90_000)
    assert short.extras["forecast_mib"] < long.extras["forecast_mib"] < 10_000


def test_allocated_memory_says_that_it_is_not_all():
    assert headroom(10_000, None, series(peaks())).extras["measured"] == "allocated"


def test_what_the_allocator_keeps_is_no_shortage_where_the_largest_batch_needs_less():
    kept, used = series(np.full(50, 9800.0)), series(np.full(50, 7000.0))
    found = headroom(10_000, kept, used, planned_iterations=90_000, worst_batch_mib=8000)
    assert found.value == pytest.approx(0.2)
    assert found.extras["measured"] == "needed"
    assert found.extras["forecast_mib"] == 8000


def test_a_largest_batch_that_a_training_has_exceeded_is_not_believed():
    kept, used = series(np.full(50, 9800.0)), series(np.full(50, 9500.0))
    assert headroom(10_000, kept, used, worst_batch_mib=8000).value == pytest.approx(0.05)
    assert headroom(10_000, used, worst_batch_mib=9900).value == pytest.approx(0.05)


@pytest.mark.parametrize("leak", [0.2, 2.0])
def test_a_leak_is_measured_in_mib(leak):
    held = 1500 + leak * np.arange(400) + np.random.default_rng(1).standard_normal(400)
    found = growth(series(held, "allocated_mib"), gpu_total_mib=8000)
    assert found.value == pytest.approx(1000 * leak, rel=0.1)
    assert found.extras["z"] > 6
    assert found.extras["rising_blocks"] > 0.85
    assert found.extras["exhausted_at"] == pytest.approx(400 + (8000 - held[-1]) / leak, rel=0.15)


@pytest.mark.parametrize("seed", range(5))
def test_held_memory_that_varies_is_no_leak(seed):
    held = 1500 + 3 * np.random.default_rng(seed).standard_normal(400)
    assert abs(growth(series(held)).extras["z"]) < 5


def test_records_of_a_leaking_peak_surprise():
    steady = np.maximum.accumulate(peaks(300))
    leaking = np.maximum.accumulate(peaks(300) + 8.0 * np.arange(300))
    assert growth(peak=series(steady)).extras["surprise"] < 2
    assert growth(peak=series(leaking)).extras["surprise"] > 4


@pytest.mark.parametrize(("count", "mean"), [(1, 0.7), (5, 0.69), (9, 2.1)])
def test_the_poisson_tail_agrees_with_scipy(count, mean):
    expected = np.log10(stats.poisson.sf(count - 1, mean))
    assert _log10_poisson_tail(count, mean) == pytest.approx(expected, abs=1e-9)


def test_unused_reserved_memory_is_a_share():
    reserved, allocated = series(np.full(100, 8000.0)), series(np.full(100, 6000.0))
    assert fragmentation(reserved, allocated, 10_000).value == pytest.approx(0.25)


def test_the_batch_grows_by_powers_of_two_within_the_card():
    found = underused(24_000, series(np.full(50, 4500.0)), 2, 1)
    assert found.extras["proposed_batch"] == 8
    assert 4500 * found.extras["batch_factor"] < 0.8 * 24_000


def test_too_few_rows_are_undecided():
    assert "rows" in (growth(series(peaks(20))).undecided or "")
