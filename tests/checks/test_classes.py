"""Whether found objects get their class, or a guess."""

from __future__ import annotations

import numpy as np
import pytest

from d2check.checks.classes import class_choice
from d2check.model import Series

RNG_SEED = 3


def series(name, values):
    return Series(name, np.arange(len(values)), np.asarray(values, float), 1)


def run(
    right_of_found, missed, *, lr=None, rows=300, background_right=0.95, fg=20, bg=100, guess=0.4
):
    """Rows of an R-CNN whose found objects get their class with this chance in each row."""
    dice = np.random.default_rng(RNG_SEED)
    right_of_found, missed = np.broadcast_to(right_of_found, rows), np.broadcast_to(missed, rows)
    found = dice.binomial(fg, 1 - missed)
    right = dice.binomial(found, right_of_found)
    bg_right = dice.binomial(bg, background_right, rows)
    return class_choice(
        series("fg", right / fg),
        series("all", (right + bg_right) / (fg + bg)),
        series("missed", 1 - found / fg),
        series("num_fg", np.full(rows, fg)),
        series("num_bg", np.full(rows, bg)),
        int(100 * guess),
        100,
        lr if lr is None else series("lr", lr),
        base_lr=0.01,
    )


def test_labels_that_say_nothing_leave_it_at_a_guess():
    measured = run(0.35, np.r_[np.ones(100), np.full(200, 0.2)])
    assert measured.value == pytest.approx((0.35 - 0.4) / 0.6, abs=0.03)
    assert measured.extras["upper"] < 0.1
    assert measured.extras["rising"] == "no"
    assert measured.span == (200, 299)


def test_learned_classes_are_far_above_a_guess():
    measured = run(0.9, 0.2)
    assert measured.extras["lower"] > 0.7
    assert measured.extras["right"] == pytest.approx(0.9, abs=0.02)


def test_classes_that_are_being_learned_are_told_as_rising():
    measured = run(np.linspace(0.2, 0.6, 300), 0.2)
    assert measured.extras["rising"] == "yes"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"missed": 0.9}, "not yet told from background"),
        ({"missed": 0.1, "background_right": 0.3}, "not yet told from background"),
        ({"missed": 0.1, "rows": 30}, "only 30 rows"),
        ({"missed": 0.1, "lr": np.full(300, 0.001)}, "for 30 effective iterations only"),
        ({"missed": 0.1, "guess": 0.95}, "of one class"),
        ({"missed": 0.1, "rows": 60, "fg": 2}, "too few objects"),
    ],
)
def test_without_evidence_nothing_is_said(given, reason):
    assert reason in run(0.3, **given).undecided


def test_rows_without_any_object_are_left_out():
    whole = [series(name, np.full(100, v)) for name, v in
             (("all", 0.9), ("num_fg", 5), ("num_bg", 30))]  # fmt: skip
    some = np.arange(0, 100, 2)  # Detectron2 writes no accuracy for a batch without objects
    fg, missed = (Series(n, some, np.full(50, v), 1) for n, v in (("fg", 0.8), ("missed", 0.1)))
    measured = class_choice(fg, whole[0], missed, whole[1], whole[2], 4, 10, min_rows=50)
    assert measured.extras["right"] == pytest.approx(0.8 / 0.9)


EVERY = 10  # iterations between two looks of the probe at a dense detector


def dense(right, found, *, rows=30, guess=0.4, classes=3, lr=None, per_row=9, **other):
    """Looks at a RetinaNet with nine objects of seven anchors in a batch of four images."""
    dice = np.random.default_rng(RNG_SEED)
    at = np.arange(rows) * EVERY
    objects = dice.poisson(per_row, rows).clip(1)
    rights = dice.binomial(objects, np.broadcast_to(right, rows))

    def looks(name, values):
        return Series(f"dense/{name}", at, np.broadcast_to(values, rows).astype(float), EVERY)

    given = {"images": 50, "images_per_batch": 4, "processes": 1, "classes": classes} | other
    return class_choice(
        looks("fg_cls_accuracy", rights / objects),
        None, None, None, None,
        int(117 * guess), 117,
        lr if lr is None else series("lr", lr), 0.01,
        looks("fg_found", found), looks("fg_anchors", 7 * objects),
        **given,
    )  # fmt: skip


SOON = np.r_[np.linspace(0.1, 0.8, 8), np.full(92, 0.95)]  # objects are found after 80 iterations


def test_a_dense_detector_whose_labels_say_nothing_guesses():
    measured = dense(0.33, SOON, rows=100)
    assert measured.value == pytest.approx((0.33 - 0.4) / 0.6, abs=0.1)
    assert measured.extras["upper"] < 0.1
    assert measured.extras["rising"] == "no"
    assert measured.span[0] > 80
    assert measured.span[1] == 990


def test_a_dense_detector_that_names_its_objects_is_far_above_a_guess():
    measured = dense(0.9, SOON[:30])
    assert measured.extras["lower"] > 0.6
    assert measured.extras["right"] == pytest.approx(0.9, abs=0.05)


def test_a_dense_detectors_hard_classes_are_told_as_rising():
    measured = dense(np.linspace(0.2, 0.7, 30), SOON[:30], per_row=60)
    assert measured.extras["rising"] == "yes"


def test_as_many_objects_as_were_looked_at_bound_the_error():
    """Blocks that agree by luck tell no more than their objects do."""
    quarter = Series("dense/fg_cls_accuracy", np.arange(30) * EVERY, np.full(30, 0.25), EVERY)
    found, anchors = (
        Series(f"dense/{name}", quarter.iterations, np.full(30, value), EVERY)
        for name, value in (("fg_found", 0.95), ("fg_anchors", 60.0))
    )
    alike = class_choice(
        quarter, None, None, None, None, 47, 117, None, None, found, anchors, 50, 4, 3, 1
    )
    error = (alike.extras["upper"] - alike.extras["lower"]) / 4 * (1 - 47 / 117)
    objects = 117 / 50 * 4 * 21  # of the later two thirds of the rows, in threes
    assert error == pytest.approx((0.25 * 0.75 / objects) ** 0.5)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"found": 0.7}, "not yet told from background"),
        ({"found": np.r_[np.full(20, 0.95), np.full(10, 0.5)]}, "not yet told from background"),
        ({"found": 0.95, "rows": 6}, "not yet told from background"),
        ({"found": 0.95, "rows": 0}, "not yet told from background"),
        ({"found": 0.95, "lr": np.full(300, 0.002)}, "for 58 effective iterations only"),
        ({"found": 0.95, "classes": 30}, "each class was seen 91 times only"),
        ({"found": 0.95, "guess": 0.95}, "of one class"),
        ({"found": 0.95, "processes": 8}, "too few objects"),
        ({"found": 0.95, "classes": None}, "not known how often each class was seen"),
        ({"found": 0.95, "images": 0}, "not known how often each class was seen"),
    ],
)
def test_without_evidence_nothing_is_said_of_a_dense_detector(given, reason):
    assert reason in dense(0.33, **given).undecided


def test_an_accuracy_alone_tells_not_which_objects_are_found():
    for name in ("dense/fg_cls_accuracy", "fast_rcnn/fg_cls_accuracy"):
        measured = class_choice(series(name, np.full(300, 0.3)), None, None, None, None, 4, 10)
        assert measured.undecided == "it is not known how many objects are found"


def test_a_dense_detector_that_found_its_objects_late_learns_classes_slowly_too():
    late = np.r_[np.full(60, 0.5), np.full(25, 0.95)]
    assert "effective iterations only" in dense(0.33, late, rows=85).undecided
    assert dense(0.33, np.r_[late, np.full(20, 0.95)], rows=105).undecided is None
