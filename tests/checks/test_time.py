"""Waiting for data, slowing down, slow starts and stragglers."""

from __future__ import annotations

import numpy as np
import pytest

from d2check.checks.time import (
    data_share,
    hooks_share,
    slow_outliers,
    slow_start,
    slowdown,
    straggler,
)
from tests.checks.curves import noisy, series


def steady(level: float, rows: int = 200, sd: float = 0.05, seed: int = 0) -> np.ndarray:
    return noisy(np.full(rows, level), sd, seed)


def test_the_share_is_that_of_the_sums():
    found = data_share(series(steady(0.1), "data_time"), series(steady(0.5, seed=1), "time"))
    assert found.value == pytest.approx(0.2, rel=0.05)
    assert found.extras["speedup"] == pytest.approx(1.25, rel=0.05)


def test_a_stall_every_fourth_iteration_counts_though_its_median_is_zero():
    waits = np.where(np.arange(200) % 4 == 0, 0.8, 0.001)
    found = data_share(series(waits, "data_time"), series(waits + 0.3, "time"))
    assert np.median(waits) < 0.01
    assert found.value == pytest.approx(0.4, rel=0.05)


def test_the_start_of_the_workers_and_one_hiccup_do_not_count():
    waits = steady(0.01)
    waits[0], waits[120] = 12.0, 20.0
    found = data_share(series(waits, "data_time"), series(waits + 0.2, "time"))
    assert found.value < 0.06


def test_a_mean_since_the_start_is_undone():
    """log.txt prints the mean of all iterations so far; the loader starves in the second half."""
    whole = np.where(np.arange(400) < 200, 0.2, 0.8)
    waits = np.where(np.arange(400) < 200, 0.01, 0.6)
    rows = np.arange(19, 400, 20)
    mean = np.cumsum(whole)[rows] / (rows + 1)
    time = series(mean, "time", every=20, statistic="mean", start=19)
    time = type(time)("time", time.iterations, time.values, 20, 400, "mean")
    data = series(waits[rows], "data_time", every=20, statistic="mean", start=19)
    found = data_share(data, time)
    exact = waits[100:].sum() / whole[100:].sum()
    assert found.value == pytest.approx(exact, rel=0.1)


def test_workers_are_those_that_hide_the_loading():
    """Four images of 0.1 s in the 0.2 s of an iteration: two workers' work, with a fifth spare."""
    found = data_share(
        series(steady(0.3), "data_time"), series(steady(0.5, seed=1), "time"),
        images_per_batch=4, world_size=1, workers=1, load_s_per_image=0.1, cpus=8,
    )  # fmt: skip
    assert found.extras["workers_needed"] == 3
    assert found.extras["cores_suffice"] == "yes"


def test_medians_say_so():
    medians = series(steady(0.01), "data_time", every=20, statistic="median")
    time = series(steady(0.3), "time", every=20, statistic="median")
    assert data_share(medians, time).extras["sampling"] == "median"


def test_a_rise_over_the_run_is_measured_and_its_cause_named():
    waits = np.linspace(0.01, 0.2, 300)
    found = slowdown(series(waits + 0.3, "time"), series(waits, "data_time"))
    assert found.value == pytest.approx(0.19 / 0.4, rel=0.15)
    assert found.extras["concordance"] == pytest.approx(1.0)
    assert found.extras["loader"] == "yes"


@pytest.mark.parametrize("seed", range(5))
def test_noise_does_not_slow_down(seed):
    found = slowdown(series(steady(0.3, 300, 0.1, seed), "time"))
    assert abs(found.value or 0) < 0.08


def test_hooks_take_their_share_of_the_whole():
    hooks = np.zeros(100)
    hooks[49::50] = 10.0
    found = hooks_share(series(hooks, "hooks_s"), series(hooks + 0.2, "total_s"))
    assert found.value == pytest.approx(20 / (20 + 98 * 0.2), rel=0.05)


def test_slow_first_iterations_are_counted_in_iterations():
    values = steady(0.2, 100, 0.01)
    values[0] = 8.2
    assert slow_start(series(values, "time")).value == pytest.approx(40, rel=0.05)


def test_the_slowest_hundredth_is_set_against_the_median():
    values = steady(0.2, 1000, 0.01)
    values[::50] = 1.0
    assert slow_outliers(series(values, "time")).value == pytest.approx(5.0, rel=0.05)


def test_a_straggler_is_named():
    ranks = {f"rank{k}": series(steady(0.2 if k != 2 else 0.5, seed=k)) for k in range(4)}
    found = straggler(ranks)
    assert found.value == pytest.approx(2.5, rel=0.05)
    assert "2" in str(found.extras["rank"])
    assert "one rank" in (straggler({"rank0": ranks["rank0"]}).undecided or "")
