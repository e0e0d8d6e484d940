"""The answer of a training to the full rate."""

from __future__ import annotations

import math

import numpy as np
import pytest

from d2check.checks.ramp import peak_rate_response
from d2check.model import Event, Series


def series(name, values):
    return Series(name, np.arange(30, 30 + len(values)), np.asarray(values, float))


RATE = series("lr_used", [*np.linspace(0.01, 0.2, 20), *[0.2] * 70])


def test_a_rise_is_measured_against_the_level_at_the_start():
    total = series("total_loss", [2.0] * 20 + [5.0] * 70)
    measured = peak_rate_response(total, RATE)
    assert measured.value == 2.5
    assert measured.extras["end_share"] == 2.5
    assert measured.extras["lr"] == 0.2
    assert measured.extras["confirmed"] == "not tried"


def test_one_bad_batch_is_no_rise():
    values = np.full(90, 2.0)
    values[[30, 31, 60]] = 50.0
    assert peak_rate_response(series("total_loss", values), RATE).value == 1.0


def test_nan_that_ended_the_ramp_is_beyond_any_threshold():
    short = series("lr_used", RATE.values[:12])
    ended = Event("ramp-non-finite", "Loss became infinite or NaN at iteration=42!")
    measured = peak_rate_response(
        series("total_loss", [2.0] * 12), short, events=(ended,), lr_peak=0.2, confirmed=True
    )
    assert math.isinf(measured.value)
    assert measured.extras["outcome"] == "non-finite"
    assert measured.extras["lr"] == short.values[-1]
    assert measured.extras["confirmed"] == "yes"


def test_a_ramp_that_hardly_reached_the_peak_is_undecided():
    short = series("lr_used", RATE.values[:30])
    measured = peak_rate_response(series("total_loss", [2.0] * 30), short, lr_peak=0.2)
    assert "iterations at the peak" in measured.undecided


@pytest.mark.parametrize(("level", "fresh"), [(0.69, "yes"), (0.05, "no")])
def test_trained_proposals_need_not_fall(level, fresh):
    losses = {"loss_rpn_cls": series("loss_rpn_cls", [level] * 90)}
    measured = peak_rate_response(series("total_loss", [2.0] * 90), RATE, losses)
    assert measured.extras["fresh"] == fresh


def test_without_a_proposal_head_nobody_knows_whether_it_is_fresh():
    measured = peak_rate_response(series("total_loss", [2.0] * 90), RATE, {})
    assert measured.extras["fresh"] == "unknown"


def test_the_level_of_the_whole_runs_start_counts_where_it_is_known():
    """The ramp may begin in the dip of a detector that takes everything for background."""
    total = series("total_loss", [1.0] * 20 + [2.0] * 70)
    measured = peak_rate_response(total, RATE, first_loss=4.0)
    assert measured.value == 0.5
    assert measured.extras["start"] == 4.0
