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


HEAD = "fast_rcnn/fg_cls_accuracy"


def recognising(before, ramp):
    """A run of 300 iterations and a ramp of 90 whose classifier does this; its loss stays sound."""
    earlier = {HEAD: Series(HEAD, np.arange(300), np.asarray(before, float))}
    at = np.arange(300, 390)
    inside = {HEAD: Series(HEAD, at, np.asarray(ramp, float))}
    total, rate = (Series(s.name, at, s.values) for s in (series("total_loss", [1.5] * 90), RATE))
    return peak_rate_response(total, rate, recognition=inside, earlier=earlier).extras


def test_a_classifier_that_forgets_is_seen_where_the_loss_shows_nothing():
    extras = recognising([0.1] * 20 + [0] * 80 + [0.6] * 200, [0.6] * 30 + [0] * 60)
    assert (extras["knew"], extras["kept"]) == ("yes", 0)
    assert extras["learned"] == pytest.approx(0.6)


def test_what_it_forgot_before_the_ramp_counts_too():
    extras = recognising([0] * 100 + [0.5] * 100 + [0] * 100, [0] * 90)
    assert (extras["knew"], extras["kept"]) == ("yes", 0)


def test_what_it_keeps_is_a_share_of_what_it_had_learned():
    extras = recognising([0] * 100 + [0.8] * 200, [0.8] * 60 + [0.4] * 30)
    assert extras["kept"] == pytest.approx(0.5)


def test_lucky_guesses_of_a_fresh_head_are_no_knowledge():
    extras = recognising([0.5] * 30 + [0] * 270, [0] * 90)
    assert (extras["knew"], extras["recognised"], extras["kept"]) == ("no", 0, None)


def test_without_a_classifier_of_regions_nothing_is_said_of_it():
    measured = peak_rate_response(series("total_loss", [2.0] * 90), RATE, earlier={})
    assert (measured.extras["knew"], measured.extras["recognised"]) == ("unknown", None)


def test_a_cascade_is_as_good_as_the_mean_of_its_heads():
    at = np.arange(300, 390)
    heads = {f"stage{k}/{HEAD}": level for k, level in enumerate((0.2, 0.6))}
    earlier = {n: Series(n, np.arange(300), np.repeat([0, v], 150)) for n, v in heads.items()}
    inside = {name: Series(name, at, np.full(90, level)) for name, level in heads.items()}
    total = Series("total_loss", at, np.full(90, 1.0))
    rate = Series("lr_used", at, RATE.values)
    extras = peak_rate_response(total, rate, recognition=inside, earlier=earlier).extras
    assert extras["learned"] == pytest.approx(0.4)
    assert extras["kept"] == pytest.approx(1.0)


def test_the_rate_is_found_where_the_scaler_left_steps_out():
    """Under AMP a step that was left out has no rate: rows and rates are not of one length."""
    total = series("total_loss", [2.0] * 60 + [9.0] * 30)
    kept = [k for k in range(90) if k % 3]
    climbing = np.linspace(0.01, 0.2, 90)
    rate = Series("lr_used", RATE.iterations[kept], climbing[kept])
    measured = peak_rate_response(total, rate, lr_peak=0.2, min_at_peak=5)
    assert measured.extras["lr"] == pytest.approx(climbing[61], abs=0.005)


def test_the_best_level_ahead_of_the_ramp_tells_what_there_was_to_lose():
    at = np.arange(300)
    earlier = {"total_loss": Series("total_loss", at, np.linspace(2.0, 1.0, 300))}
    extras = peak_rate_response(series("total_loss", [1.9] * 90), RATE, earlier=earlier).extras
    assert extras["best_share"] == pytest.approx(1.0 / 1.9, rel=0.01)
    assert peak_rate_response(series("total_loss", [1.9] * 90), RATE).extras["best_share"] == 1


DENSE = "dense/fg_recognised"


def recognising_densely(before, ramp, total=1.5, first_losses=None, first_loss=None, **more):
    """A run of 300 iterations, looked at in every tenth, and a ramp of 90, in every one."""
    looked = np.arange(0, 300, 10)
    losses = np.full(300, 1.5) if first_losses is None else np.asarray(first_losses, float)
    earlier = {
        DENSE: Series(DENSE, looked, np.asarray(before, float), 10),
        "total_loss": Series("total_loss", np.arange(300), losses),
    }
    at = np.arange(300, 390)
    inside = {DENSE: Series(DENSE, at, np.asarray(ramp, float))}
    return peak_rate_response(
        Series("total_loss", at, np.full(90, total)),
        Series("lr_used", at, RATE.values),
        recognition=inside,
        earlier=earlier,
        first_loss=first_loss,
        **more,
    )


def test_a_dense_detector_that_forgets_is_seen_where_the_loss_shows_nothing():
    extras = recognising_densely([0.1] * 5 + [0.8] * 25, [0.8] * 30 + [0.01] * 60).extras
    assert (extras["knew"], extras["learned"]) == ("yes", pytest.approx(0.8))
    assert extras["kept"] == pytest.approx(0.0125)


def test_what_a_dense_detector_brought_along_counts_without_a_rise():
    extras = recognising_densely([0.9] * 30, [0.9] * 30 + [0] * 60).extras
    assert (extras["knew"], extras["kept"]) == ("yes", 0)


def test_what_a_fresh_dense_head_hits_by_chance_is_no_knowledge():
    extras = recognising_densely([0.2] * 30, [0.2] * 30 + [0] * 60).extras
    assert (extras["knew"], extras["kept"]) == ("no", None)


def test_the_start_of_a_dense_detector_is_where_its_losses_are_divided_by_its_own_anchors():
    """Detectron2 begins the running mean of the object anchors at 100, whatever their number."""
    small_at_first = [*np.linspace(0.5, 2.0, 60), *[2.0] * 240]
    of_dense = recognising_densely([0.8] * 30, [0.8] * 90, 2.0, small_at_first, first_loss=0.6)
    assert of_dense.extras["start"] == 2.0
    assert of_dense.value == 1.0


def test_what_is_recognised_is_compared_with_what_is_learned_at_a_lower_rate():
    extras = recognising_densely([0] * 30, [0.05] * 90, control_learned=0.5).extras
    assert (extras["control"], extras["of_control"]) == ("learns", pytest.approx(0.1))
    extras = recognising_densely([0] * 30, [0.05] * 90).extras
    assert (extras["control"], extras["of_control"]) == ("not tried or learns nothing", None)


@pytest.mark.parametrize(
    ("images", "optimizer", "architecture", "usual", "far"),
    [
        (4, None, None, 0.005, "yes"),
        (40, "SGD", "GeneralizedRCNN", 0.05, "no"),  # exactly four times
        (40, "torch.optim.sgd.SGD", "RetinaNet", 0.025, "yes"),
        (16, "AdamW", "RetinaNet", 0.0001, "yes"),
        (4, "Lion", None, None, "unknown"),
        (None, None, None, None, "unknown"),
    ],
)
def test_the_usual_rate_is_that_of_the_model_the_batch_and_the_optimizer(
    images, optimizer, architecture, usual, far
):
    measured = peak_rate_response(
        series("total_loss", [2.0] * 90),
        RATE,
        images=images,
        optimizer=optimizer,
        meta_architecture=architecture,
    )
    assert measured.extras["usual_lr"] == (None if usual is None else pytest.approx(usual))
    assert measured.extras["far"] == far


def test_why_nothing_is_said_of_one_ramp_is_how_far_the_rate_is_or_how_little_was_learned():
    far = {"images": 1}
    flat = series("total_loss", [2.0] * 90)
    fresh = {"loss_rpn_cls": series("loss_rpn_cls", [0.69] * 90)}
    unsure = "proves little"
    assert unsure in peak_rate_response(flat, RATE, **far).extras["unsure"]
    assert unsure not in peak_rate_response(flat, RATE, fresh, **far).extras["unsure"]
    assert peak_rate_response(flat, RATE, confirmed=True, **far).extras["unsure"] is None
