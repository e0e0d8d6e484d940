"""How a run ended, and how its evaluations went."""

from __future__ import annotations

import numpy as np
import pytest

from d2check.checks.ending import (
    ended_as,
    ended_badly,
    missing_share,
    out_of_memory,
    runs_mixed,
)
from d2check.checks.evaluation import ap_lost, best_ap
from d2check.model import Ending, EndingKind, Event
from tests.checks.curves import power_law, series


@pytest.mark.parametrize("kind", [EndingKind.CRASHED, EndingKind.KILLED, EndingKind.HUNG])
def test_an_error_or_a_signal_is_a_bad_end(kind):
    assert ended_badly(Ending(kind, 12, "KeyError")).value == 1
    assert ended_as(Ending(kind), kind.value).value == 1


@pytest.mark.parametrize("kind", [EndingKind.FINISHED, EndingKind.STOPPED])
def test_a_planned_end_is_none(kind):
    assert ended_badly(Ending(kind)).value == 0


def test_no_trace_of_an_ending_is_undecided():
    assert ended_badly(Ending()).undecided


def test_an_oom_that_detectron2_got_round_is_half_of_one():
    event = Event("oom", "Attempting to copy inputs to CPU", 120)
    found = out_of_memory(Ending(EndingKind.FINISHED), (event,), images_per_batch=8)
    assert found.value == 0.5
    assert found.extras["at"] == 120
    assert found.extras["half_batch"] == 4


def test_a_short_run_that_was_stopped_misses_nothing():
    assert missing_share(Ending(EndingKind.STOPPED), 90_000, 299).undecided
    assert missing_share(Ending(EndingKind.FINISHED), 300, 279).value == 0
    found = missing_share(Ending(EndingKind.TRUNCATED), 1000, 249)
    assert found.value == pytest.approx(0.75)


def test_minus_one_and_nan_are_no_results():
    ap = series([-1.0, np.nan, 12.0, 30.0], "bbox/AP", every=500)
    found = best_ap(ap)
    assert found.value == 30
    assert found.extras["evaluations"] == 2
    assert best_ap(series([-1.0, np.nan], "bbox/AP")).undecided


def test_points_lost_since_the_best_evaluation_while_the_loss_falls():
    ap = series([10.0, 30.0, 28.0, 22.0], "bbox/AP", every=100)
    found = ap_lost(ap, series(power_law(2.0, 400)))
    assert found.value == 8
    assert found.extras["worse"] == 2
    assert found.extras["loss_falling"] == "yes"


def test_a_resume_at_the_first_rows_counts_only_where_rows_stand_before_them():
    resume = (Event("resume", "the rows begin at iteration 102", 102),)
    assert runs_mixed(resume, 102).value == 0
    found = runs_mixed(resume, 102, segment=1)
    assert found.value == 1
    assert found.extras["kinds"] == "earlier rows"
