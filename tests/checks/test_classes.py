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
