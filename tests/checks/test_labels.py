from __future__ import annotations

from dataclasses import replace

import pytest

from d2check.checks.labels import (
    anchor_fit,
    box_format,
    boxes_left_behind,
    boxes_off_masks,
    class_range,
    data_error,
    emptiness,
    imbalance,
)
from d2check.model import Ending, EndingKind, Event

FPN = [[32], [64], [128], [256], [512]]


def test_the_middle_object_is_measured_by_the_smallest_anchor():
    measured = anchor_fit(16, FPN)
    assert measured.value == 0.5
    assert measured.extras["proposed_smallest"] == 16
    assert anchor_fit(16, [[8, 10.1], [16, 20.2]]).value == 2
    assert anchor_fit(16, [32, 64]).value == 0.5  # one list for all levels, as old configs have it


@pytest.mark.parametrize("sizes", [[], [[]], [["large"]], [[0]]])
def test_anchors_without_a_size_are_not_judged(sizes):
    assert anchor_fit(16, sizes).undecided


def test_imbalance_is_the_commonest_over_the_rarest():
    assert imbalance(6, 8000).value == pytest.approx(8000 / 6)


def test_an_end_that_nobody_tells_clears_no_label_and_an_event_still_convicts():
    truncated = Ending(EndingKind.TRUNCATED)
    assert data_error(truncated, "empty").undecided
    assert data_error(truncated, "empty", (Event("empty", "no images"),)).value == 1
    assert data_error(Ending(EndingKind.FINISHED), "empty").value == 0


def test_an_error_before_the_first_iteration_clears_no_label():
    early = Ending(EndingKind.CRASHED, error="NameError", message="name 'x' is not defined")
    assert data_error(early, "empty").undecided
    assert data_error(early, "empty", last_iteration=12).value == 0
    assert data_error(replace(early, iteration=12), "empty").undecided is None


@pytest.mark.parametrize(
    ("kind", "error", "message", "value"),
    [
        ("class-out-of-range", "IndexError", "Target 80 is out of bounds.", 1),
        ("class-out-of-range", "RuntimeError", "CUDA error: device-side assert triggered", 1),
        # A list of the user's own that is too short.
        ("class-out-of-range", "IndexError", "index 5 is out of bounds for axis 0 with size 5", 0),
        ("box-format", "AssertionError", "Input boxes to Box2BoxTransform are not valid!", 1),
        ("box-format", "KeyError", "bbox_mode", 1),
        # Imports that were forgotten, or are of another version.
        ("box-format", "NameError", "name 'BoxMode' is not defined", 0),
        ("box-format", "ImportError", "cannot import name 'BoxMode' from 'detectron2.data'", 0),
        ("box-format", "ValueError", "the paths given are not valid", 0),
        ("size-mismatch", "SizeMismatchError", "Mismatched image shape for image 1.jpg", 1),
        ("size-mismatch", "SizeMismatchError", "Mismatched (W,H) for image 1.jpg", 1),
    ],
)
def test_an_error_is_of_the_data_by_detectron2s_words(kind, error, message, value):
    ending = Ending(EndingKind.CRASHED, 12, error=error, message=message)
    assert data_error(ending, kind).value == value


def test_a_refused_box_counts_whatever_the_boxes_look_like():
    crash = Ending(EndingKind.CRASHED, error="AssertionError", message="boxes are not valid!")
    measured = box_format(crash, (), 100, 0, "XYWH_ABS")
    assert measured.value == 1
    assert measured.extras["refused"] == 1


def test_the_share_of_misplaced_boxes_is_told_with_the_best_other_reading():
    measured = box_format(Ending(EndingKind.STOPPED), (), 200, 150, "XYWH_ABS", "XYXY", 1)
    assert measured.value == 0.75
    assert measured.extras["share_so"] == 0.005
    assert measured.extras["reading"] == "XYXY"


def test_boxes_that_nobody_looked_at_are_not_judged():
    assert "d2check run" in box_format(Ending(EndingKind.FINISHED)).undecided
    assert "how the run ended" in box_format(Ending(EndingKind.UNKNOWN)).undecided
    assert "no upright boxes" in box_format(Ending(EndingKind.FINISHED), (), 0).undecided
    assert "only 9 boxes" in box_format(Ending(EndingKind.FINISHED), (), 9, 9).undecided


def test_objects_outside_their_boxes_are_a_share_of_those_compared():
    assert boxes_off_masks(200, 50).value == 0.25
    assert "1 object " in boxes_off_masks(1, 1).undecided


def test_boxes_left_behind_are_counted_among_the_images_that_could_show_it():
    counts = {"moved": 20, "resized": 0, "fault": "words", "kind": "not moved"}
    found = boxes_left_behind(40, 0, 20, 15, 3, **counts, agree=15, of=20)
    assert found.value == 0.75
    assert found.extras["told"] == 38
    assert found.extras["stray"] == 3
    assert boxes_left_behind(40, 0, 36, 0, 0, 20, 0).value == 0
    # A single image that stayed agrees with none: it is one more that tells nothing.
    assert boxes_left_behind(40, 0, 9, 1, 0, **counts, agree=1, of=1).extras["stray_share"] == 0.1


def test_few_images_do_not_tell_of_boxes_left_behind():
    few = boxes_left_behind(3, 37, 2, 1, 0, 1, 1, "they are cropped", agree=1, of=1)
    assert few.undecided == (
        "the boxes of only 3 of 40 images could be compared, mostly because they are cropped"
    )
    assert boxes_left_behind(0, 0, 0, 0, 0, 0, 0).undecided.endswith("could be compared")


def test_the_class_after_the_last_is_background_and_no_class():
    finished = Ending(EndingKind.FINISHED)
    assert class_range(finished, (), 2, 3).value == 0
    assert class_range(finished, (), 3, 3).value == 1
    assert class_range(finished, (), 3, 3).extras["last"] == 2
    assert "d2check run" in class_range(finished, (), None, 3).undecided


def test_a_training_set_without_any_object_is_empty_though_its_images_are_kept():
    stopped = Ending(EndingKind.STOPPED)
    assert emptiness(stopped, instances=0, images=60).value == 1
    assert emptiness(stopped, instances=0, images=60).extras["images"] == 60
    assert emptiness(stopped, instances=142, images=60).value == 0
    refused = Ending(EndingKind.CRASHED, error="AssertionError", message="No valid data found in a")
    assert emptiness(refused).value == 1
