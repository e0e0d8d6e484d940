"""Stalls that rows of medians hide and the clock shows."""

from __future__ import annotations

import numpy as np
import pytest

from d2check.checks.time import stalls
from d2check.model import Series

AT = np.arange(19, 3000, 20)


def clocked(extra_s, every=500):
    """Rows of 0.2 s iterations, and a clock that jumps by `extra_s` at every so many iterations."""
    time = Series("time", AT, np.full(len(AT), 0.2), 20, 20, "median")
    wall = 0.2 * AT + extra_s * ((AT + 1) // every)
    return time, Series("wall_s", AT, wall)


def test_what_only_the_clock_saw_is_lost():
    time, wall = clocked(120.0)
    measured = stalls(time, wall)
    assert measured.value == pytest.approx(6 * 120 / (6 * 120 + 600), abs=0.03)
    assert measured.extras["stretches"] == 6
    assert measured.extras["longest_s"] == pytest.approx(120)


def test_evaluations_are_no_stalls_by_the_period_or_by_their_results():
    time, wall = clocked(120.0)
    assert stalls(time, wall, eval_period=500).value == pytest.approx(0, abs=1e-9)
    results = Series("bbox/AP", np.arange(499, 3000, 500), np.arange(6.0))
    assert stalls(time, wall, results).value == pytest.approx(0, abs=1e-9)
    # v0.1's console tells results with the iteration before
    results = Series("bbox/AP", np.arange(499, 3000, 500) + 1, np.arange(6.0))
    assert stalls(time, wall, results).value == pytest.approx(0, abs=1e-9)


def test_a_night_without_the_process_is_no_stall():
    assert stalls(*clocked(40_000.0, 1500)).value == pytest.approx(0, abs=1e-9)


def test_a_period_as_short_as_the_rows_leaves_nothing_to_judge():
    assert stalls(*clocked(5.0, 20), eval_period=20).undecided
