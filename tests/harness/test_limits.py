from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2check.harness.limits import Limits, Watch


def watch_after(*records, at=0.0, limits=None):
    """A watch that saw each record, one second apart from `at` on, and the time of the last."""
    watch = Watch(limits or Limits(), at)
    now = at
    for record in records:
        now += 1.0
        watch.saw_record(record, now)
    return watch, now


def iters(count, total_s=0.1, first=0):
    return [{"t": "iter", "i": first + n, "total_s": total_s} for n in range(count)]


BEGIN = {"t": "begin"}


def test_slow_start_without_a_sign_of_life_is_given_ten_minutes():
    watch = Watch(Limits(), 0.0)
    assert watch.overdue(599.0) is None
    assert "no record and no output for 601 s" in (watch.overdue(601.0) or "")


def test_output_at_the_start_extends_the_wait_but_not_for_ever():
    watch = Watch(Limits(), 0.0)
    for now in range(0, 3600, 500):
        watch.saw_output(float(now))
        assert watch.overdue(float(now)) is None
    watch.saw_output(3601.0)
    assert "did not start within 3601 s" in (watch.overdue(3601.0) or "")


def test_first_iteration_has_the_time_of_a_start():
    watch, now = watch_after(BEGIN)
    assert watch.overdue(now + 500) is None
    assert watch.overdue(now + 601) is not None


def test_quick_iterations_that_stop_for_a_minute_are_a_hang():
    watch, now = watch_after(BEGIN, *iters(50))
    assert watch.overdue(now + 60) is None
    message = watch.overdue(now + 61)
    assert message == ("no iteration ended for 61 s, while one usually took 0.1 s (limit 60 s)")


def test_output_does_not_prove_that_the_loop_goes_on():
    watch, now = watch_after(BEGIN, *iters(50))
    watch.saw_output(now + 60)
    assert watch.overdue(now + 61) is not None


def test_slow_iterations_get_twenty_medians():
    watch, now = watch_after(BEGIN, *iters(30, total_s=10.0))
    assert watch.hang_limit_s() == 200.0
    assert watch.overdue(now + 199) is None
    assert watch.overdue(now + 201) is not None


def test_a_slow_hook_that_came_once_may_come_again():
    watch, now = watch_after(BEGIN, *iters(30), *iters(1, total_s=40.0), *iters(30))
    assert watch.hang_limit_s() == 200.0
    assert watch.overdue(now + 150) is None


def test_new_phase_may_start_as_slowly_as_the_first():
    watch, now = watch_after(BEGIN, *iters(50), {"t": "phase", "name": "worst-batch"})
    assert watch.overdue(now + 500) is None
    assert "the next phase did not start" in (watch.overdue(now + 601) or "")


def test_process_that_stays_after_its_end_is_overdue_after_a_minute():
    watch, now = watch_after(BEGIN, *iters(3), {"t": "end", "kind": "stopped"})
    assert watch.overdue(now + 59) is None
    assert "did not leave" in (watch.overdue(now + 61) or "")


def test_budget_counts_from_the_begin_of_training_and_has_a_grace():
    watch, _ = watch_after(at=1000.0)
    assert not watch.over_budget(10.0, 5000.0)
    watch.saw_record(BEGIN, 1100.0)
    assert not watch.over_budget(10.0, 1139.0)
    assert watch.over_budget(10.0, 1141.0)
    assert not watch.over_budget(None, 9999.0)


def test_grace_of_the_budget_lets_a_slow_iteration_end():
    watch, now = watch_after(BEGIN, *iters(3, total_s=100.0))
    assert not watch.over_budget(1.0, now + 190.0)


@pytest.mark.parametrize("total_s", ["NaN", "Infinity", None, "x", -1.0, [1]])
def test_time_that_is_no_time_is_replaced_by_the_time_of_arrival(total_s):
    watch, _ = watch_after(BEGIN, *iters(5, total_s=total_s))
    assert watch.hang_limit_s() == 60.0
    assert watch.last_iteration == 4


@given(st.lists(st.floats(0.001, 1e4), min_size=1, max_size=60))
def test_limit_is_never_below_the_floor_nor_any_multiple(times):
    watch, _ = watch_after(BEGIN, *[{"t": "iter", "i": 0, "total_s": t} for t in times])
    assert watch.hang_limit_s() >= max(60.0, 5.0 * max(times))


def test_a_training_whose_records_a_full_disk_refuses_is_not_taken_for_hung():
    watch, now = watch_after(BEGIN, *iters(30))
    watch.lose_sight()
    watch.saw_output(now + 1000)
    assert watch.overdue(now + 4000) is None
    assert "could not be written" in (watch.overdue(now + 5000) or "")
