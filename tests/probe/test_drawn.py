"""Boxes and masks as the model is given them."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
structures = pytest.importorskip("detectron2.structures")

import numpy as np  # noqa: E402

from d2check.probe.drawn import FirstObjects, inside  # noqa: E402


def sample(boxes, masks):
    instances = structures.Instances((100, 100))
    instances.gt_boxes = structures.Boxes(torch.tensor(boxes, dtype=torch.float32))
    if masks is not None:
        instances.gt_masks = masks
    return {"image": torch.zeros(3, 100, 100), "instances": instances}


def polygons(*corners):
    return structures.PolygonMasks(
        [[np.array([a, b, c, b, c, d, a, d], np.float64)] for a, b, c, d in corners]
    )


def bits(*corners):
    masks = torch.zeros(len(corners), 100, 100, dtype=torch.bool)
    for mask, (a, b, c, d) in zip(masks, corners, strict=True):
        mask[b:d, a:c] = True
    return structures.BitMasks(masks)


@pytest.mark.parametrize("kind", [polygons, bits])
def test_a_mask_in_its_box_and_one_that_was_left_behind_are_told_apart(kind):
    watch = FirstObjects()
    watch.look(
        [sample([[10, 10, 30, 30], [60, 10, 80, 30]], kind((9, 11, 31, 25), (20, 10, 40, 30)))]
    )
    assert watch.facts() == {"masks_compared": 2, "masks_outside_box": 1}


def test_a_box_that_is_wider_than_its_mask_is_sound():
    # A crop cuts the mask more than the box; a rotation makes the box larger than it must be.
    watch = FirstObjects()
    watch.look([sample([[0, 0, 90, 90]], polygons((40, 40, 50, 50)))])
    assert watch.facts()["masks_outside_box"] == 0


def test_only_the_first_objects_are_compared():
    many = sample([[0, 0, 9, 9]] * 150, polygons(*[(0, 0, 9, 9)] * 150))
    watch = FirstObjects()
    for _ in range(3):
        watch.look([many])
    assert watch.facts()["masks_compared"] == 200


def test_what_has_no_boxes_or_no_masks_is_left_alone():
    watch = FirstObjects()
    empty = structures.Instances((100, 100))
    watch.look([sample([[0, 0, 9, 9]], None), {"image": 1}, {"instances": empty}, 3])
    watch.look(None)
    watch.look([sample(np.zeros((0, 4)), polygons())])
    watch.look([sample([[0, 0, 9, 9]], bits((0, 0, 0, 0)))])  # an empty mask
    assert watch.facts() == {}


def test_the_highest_class_is_that_of_the_first_batches():
    def of(*classes):
        instances = structures.Instances((9, 9))
        instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
        return {"instances": instances}

    watch = FirstObjects()
    watch.look([of(0, 3), of(1), of()])
    assert watch.facts() == {"highest_class": 3}
    for _ in range(30):
        watch.look([of(1)])
    watch.look([of(7)])  # a training of weeks is not watched to its end
    assert watch.facts() == {"highest_class": 3}


def test_the_share_of_a_mask_inside_a_box():
    assert inside([0, 0, 10, 10], [0, 0, 3, 10]) == pytest.approx(0.5)
    assert inside([0, 0, 10, 10], [50, 0, 60, 10]) == 0
    assert inside([0, 0, 10, 10], [9, 9, 3, 3]) == 0  # inverted


@pytest.mark.training
def test_a_sound_training_tells_its_boxes_its_masks_and_its_classes(healthy):
    facts = healthy.facts
    assert facts["boxes_sampled"] == facts["instances"] == facts["boxes_with_masks"]
    assert facts["boxes_format"] == "XYWH_ABS"
    assert facts["boxes_misplaced"] == 0
    assert facts["masks_compared"] > 150
    assert facts["masks_outside_box"] == 0
    assert facts["highest_class"] == facts["classes"] - 1
