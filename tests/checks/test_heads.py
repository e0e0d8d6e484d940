"""Heads at chance, at nothing, and stalled."""

from __future__ import annotations

import math

import numpy as np
import pytest

from d2check.checks.heads import first_level, roi_stall, stuck_head, zero_head
from tests.checks.curves import mask_rcnn, noisy, power_law, series


@pytest.mark.parametrize(
    ("head", "chance"), [("loss_mask", math.log(2)), ("loss_cls", math.log(4))]
)
def test_a_head_at_chance_is_named(head, chance):
    total, heads = mask_rcnn(300, 0.1, **{head: np.full(300, chance)})
    found = stuck_head(heads, total, classes=3)
    assert found.value is not None
    assert found.value < 0.08
    assert found.extras["head"] == head
    assert found.extras["others"] > 0.4


def test_heads_that_learn_are_far_from_chance():
    total, heads = mask_rcnn(300, 0.15)
    found = stuck_head(heads, total, classes=3)
    assert found.value is not None
    assert found.value > 0.3


def test_classes_that_are_not_known_give_no_chance_level():
    total, heads = mask_rcnn(300, 0.1, loss_cls=np.full(300, math.log(4)))
    found = stuck_head(heads, total)
    assert found.extras["nearest"] != "loss_cls"


def test_a_head_that_falls_back_to_chance_is_stuck():
    learned = np.concatenate((power_law(0.69, 120), np.full(280, math.log(2))))
    total, heads = mask_rcnn(400, 0.1, loss_mask=learned)
    found = stuck_head(heads, total, classes=3)
    assert found.extras["head"] == "loss_mask"
    assert found.extras["effective"] == pytest.approx(200, abs=1)
    assert found.value is not None
    assert found.value < 0.08


@pytest.mark.parametrize(("head", "level"), [("loss_mask", 0.5), ("loss_cls", 0.9)])
def test_a_head_that_stands_still_away_from_chance_is_named(head, level):
    total, heads = mask_rcnn(300, 0.1, **{head: np.full(300, level)})
    found = stuck_head(heads, total, classes=3)
    assert found.extras["head"] == head
    assert found.extras["chance"] is None
    assert found.extras["still"] < 0.12
    assert found.extras["still_others"] > 0.3


def test_heads_that_learn_do_not_stand_still():
    for seed in range(20):
        total, heads = mask_rcnn(200, 0.3, seed)
        assert stuck_head(heads, total, classes=3).extras["still"] > 0.2


def test_a_trained_head_may_stand_still():
    total, heads = mask_rcnn(300, 0.1, loss_mask=np.full(300, 0.2))
    assert stuck_head(heads, total, classes=3).extras["still"] == math.inf


def test_the_mask_loss_of_another_family_has_no_chance_level():
    total, heads = mask_rcnn(100)
    other = {"loss_mask": heads["loss_mask"], "loss_dice": heads["loss_cls"]}
    assert "chance" in (stuck_head(other, total).undecided or "")


def test_a_focal_loss_at_its_prior_is_stuck():
    rows = 300
    flat = series(noisy(np.full(rows, 1.15), 0.05, 1), "loss_cls")
    box = series(noisy(power_law(0.7, rows), 0.1, 2), "loss_box_reg")
    total = series(flat.values + box.values)
    found = stuck_head(
        {"loss_cls": flat, "loss_box_reg": box}, total, meta_architecture="RetinaNet"
    )
    assert found.value is not None
    assert found.value < 0.08


def test_warm_up_proves_nothing():
    total, heads = mask_rcnn(100)
    lr = series(0.02 * np.arange(1, 101) / 1000, "lr")
    assert "effective" in (stuck_head(heads, total, lr, 0.02).undecided or "")


def test_a_dead_loss_is_found_among_the_living():
    _, heads = mask_rcnn(100)
    dead = {**heads, "loss_mask": series(np.zeros(100), "loss_mask")}
    found = zero_head(dead)
    assert found.value == 1.0
    assert found.extras["heads"] == "loss_mask"


def test_a_denormal_total_is_nothing_too():
    assert zero_head({}, series(np.full(30, 1e-44))).value == 1.0


def test_images_without_objects_leave_most_rows_alive():
    values = power_law(0.4, 100)
    values[::5] = 0.0
    assert zero_head({"loss_box_reg": series(values, "loss_box_reg")}).value == pytest.approx(0.2)


def stalled(level: float):
    fall = level + (1.4 - level) * np.exp(-np.arange(300) / 8)
    box = np.full(300, 0.5)
    return mask_rcnn(300, 0.06, loss_cls=fall, loss_box_reg=box)


def test_a_stalled_box_head_has_nothing_left_to_fall():
    total, heads = stalled(0.9)
    found = roi_stall(heads, total)
    assert found.value is not None
    assert found.value < 0.10
    assert found.extras["level"] == pytest.approx(0.9, rel=0.05)
    assert found.extras["fresh"] == "yes"
    assert found.extras["mask"] > 0.3


def test_a_learning_box_head_goes_on_falling():
    total, heads = mask_rcnn(300, 0.1)
    assert roi_stall(heads, total).value > 0.15


def test_one_stage_detectors_have_no_such_head():
    total, heads = mask_rcnn(300)
    retina = {n: heads[n] for n in ("loss_cls", "loss_box_reg")}
    assert "one box head" in (roi_stall(retina, total).undecided or "")


@pytest.mark.parametrize(("rows", "judged"), [(80, False), (200, True)])
def test_a_focal_loss_is_given_ninety_iterations_to_leave_chance(rows, judged):
    heads = {
        "loss_cls": series(noisy(np.full(rows, 1.1), 0.05, 1), "loss_cls"),
        "loss_box_reg": series(noisy(power_law(0.7, rows), 0.05, 2), "loss_box_reg"),
    }
    total = series(heads["loss_cls"].values + heads["loss_box_reg"].values)
    found = stuck_head(heads, total, meta_architecture="RetinaNet")
    assert ("focal" not in (found.undecided or "")) is judged


def test_a_fresh_head_starts_at_chance():
    total, heads = mask_rcnn(200, 0.1)
    assert first_level(heads, total, classes=3).value == pytest.approx(1.0, abs=0.3)


def test_exploding_features_start_far_above_chance_and_stay():
    total, heads = mask_rcnn(200, 0.1, loss_rpn_cls=np.full(200, 12.0))
    found = first_level(heads, total, classes=3)
    assert found.extras["head"] == "loss_rpn_cls"
    assert found.value == pytest.approx(12 / math.log(2), rel=0.2)
    assert found.extras["later"] > 10


def test_the_total_of_a_wild_start_is_that_of_the_same_rows():
    values = [145.0, 9.6, *[0.3] * 40]
    heads = {
        "loss_cls": series(values, "loss_cls", every=20, start=19, statistic="median"),
        "loss_rpn_cls": series([0.2] * 42, "loss_rpn_cls", every=20, start=19, statistic="median"),
    }
    total = series([156.0, 11.0, *[0.7] * 40], every=20, start=19, statistic="median")
    assert first_level(heads, total, classes=101).extras["total"] == 156.0


@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize(("loss_cls", "told"), [(1.5, True), (15.0, False)])
def test_proposals_alone_above_chance_are_those_of_a_trained_model(classes, loss_cls, told):
    fall = np.linspace(1, 0.1, 100)
    total, heads = mask_rcnn(
        100,
        0.05,
        loss_cls=np.full(100, loss_cls),
        loss_rpn_cls=np.concatenate((np.full(20, 4.0), 0.6 * fall[20:])),
    )
    found = first_level(heads, total, classes=classes)
    assert ("trained on other images" in (found.undecided or "")) is told


def test_a_later_start_tells_nothing_of_the_first_losses():
    total, heads = mask_rcnn(50)
    late = series(total.values, start=4000)
    assert "first iterations" in (first_level(heads, late).undecided or "")
