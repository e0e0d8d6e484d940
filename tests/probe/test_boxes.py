"""Which way of reading their numbers puts boxes where they belong."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2check.probe import boxes

XYXY, XYWH = 0, 1

# What a box (left, top, width, height) in an image (wide, high) looks like in each format.
WRITTEN = {
    "XYXY": lambda x, y, w, h, wide, high: (x, y, x + w, y + h),
    "XYWH": lambda x, y, w, h, wide, high: (x, y, w, h),
    "centre, width and height": lambda x, y, w, h, wide, high: (x + w / 2, y + h / 2, w, h),
    "YXYX": lambda x, y, w, h, wide, high: (y, x, y + h, x + w),
    "relative XYXY": lambda x, y, w, h, wide, high: (
        x / wide, y / high, (x + w) / wide, (y + h) / high,
    ),
    "relative XYWH": lambda x, y, w, h, wide, high: (x / wide, y / high, w / wide, h / high),
    "relative centre, width and height": lambda x, y, w, h, wide, high: (
        (x + w / 2) / wide, (y + h / 2) / high, w / wide, h / high,
    ),
}  # fmt: skip


def data_set(form, mode, *, sides=(0.05, 0.5), masks=False, overshoot_px=0.0, seed=1):
    """300 images of random sizes with a dozen objects at most."""
    dice = random.Random(seed)
    dicts = []
    for _ in range(300):
        wide, high = dice.randint(200, 800), dice.randint(200, 800)
        notes = []
        for _ in range(dice.randint(1, 12)):
            side = dice.uniform(*sides)
            w, h = side * wide * dice.uniform(0.6, 1), side * high * dice.uniform(0.6, 1)
            x, y = dice.uniform(0, wide - w), dice.uniform(0, high - h)
            polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
            x, y = x - overshoot_px * dice.random(), y - overshoot_px * dice.random()
            w, h = w + 2 * overshoot_px * dice.random(), h + 2 * overshoot_px * dice.random()
            note = {"bbox": list(WRITTEN[form](x, y, w, h, wide, high)), "bbox_mode": mode}
            notes.append({**note, "segmentation": [polygon]} if masks else note)
        dicts.append({"width": wide, "height": high, "annotations": notes})
    return dicts


def shares(facts):
    count = facts["boxes_sampled"]
    return facts["boxes_misplaced"] / count, facts.get("boxes_misplaced_so", 0) / count


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("sides", [(0.02, 0.1), (0.05, 0.5), (0.4, 0.9)])
@pytest.mark.parametrize(("form", "mode"), [("XYXY", XYXY), ("XYWH", XYWH)])
def test_boxes_in_their_own_format_are_never_misplaced(form, mode, sides, masks):
    facts = boxes.facts(data_set(form, mode, sides=sides, masks=masks, overshoot_px=1))
    assert facts["boxes_misplaced"] == 0
    assert "boxes_reading" not in facts
    assert facts["boxes_with_masks"] == (facts["boxes_sampled"] if masks else 0)


@pytest.mark.parametrize("mode", [XYXY, XYWH])
@pytest.mark.parametrize("form", WRITTEN)
def test_another_format_is_found_and_named_where_there_are_masks(form, mode):
    if boxes.DECLARED[mode] == form:
        return
    facts = boxes.facts(data_set(form, mode, masks=True))
    misplaced, so = shares(facts)
    assert misplaced > 0.9
    assert so == 0
    assert facts["boxes_reading"] == form


@pytest.mark.parametrize("mode", [XYXY, XYWH])
@pytest.mark.parametrize("form", WRITTEN)
def test_another_format_is_found_without_masks_too(form, mode):
    if boxes.DECLARED[mode] == form:
        return
    facts = boxes.facts(data_set(form, mode))
    misplaced, so = shares(facts)
    assert misplaced > 0.2
    assert so == 0
    assert facts["boxes_reading"] == form


def image(*numbers, mode=XYWH, wide=600, high=400, **more):
    notes = [{"bbox": box, "bbox_mode": mode, **more} for box in numbers]
    return {"width": wide, "height": high, "annotations": notes}


def test_a_few_pixels_and_a_tenth_of_the_side_beyond_the_edge_are_no_fault():
    assert boxes.facts([image([590, 0, 11.9, 9], [500, 0, 108, 9], [0, -2, 9, 9])]) == {
        "boxes_sampled": 3, "boxes_format": "XYWH_ABS", "boxes_misplaced": 0,
        "boxes_with_masks": 0,
    }  # fmt: skip
    assert boxes.facts([image([590, 0, 14, 9])])["boxes_misplaced"] == 1


def test_what_is_no_box_in_pixels_of_a_known_image_is_not_counted():
    nothing = [
        image([0, 0, 9, 9], iscrowd=1),
        image([0, 0, 9, 9, 30.0], mode=4),  # rotated
        image(None, "box", [1, 2, 3], [0, 0, float("nan"), 9]),
        image([0, 0, 9, 9], wide=None),
        {"annotations": [{}]},
        {},
    ]
    assert boxes.facts(nothing) == {"boxes_sampled": 0}


def test_numpy_numbers_and_box_mode_itself_are_read():
    np = pytest.importorskip("numpy")
    structures = pytest.importorskip("detectron2.structures")
    one = image(np.array([10, 10, 40, 40], np.float32), mode=structures.BoxMode.XYXY_ABS)
    assert boxes.facts([one])["boxes_format"] == "XYXY_ABS"


def test_of_mixed_formats_the_one_with_more_misplaced_boxes_is_told():
    sound = data_set("XYWH", XYWH)
    facts = boxes.facts(sound + data_set("XYWH", XYXY))
    assert facts["boxes_format"] == "XYXY_ABS"
    assert facts["boxes_reading"] == "XYWH"
    assert boxes.facts(sound + data_set("XYXY", XYXY))["boxes_misplaced"] == 0


def test_a_large_set_is_sampled_over_its_whole_length():
    dicts = [image([0, 0, n // 50 % 50 + 1, 9], wide=600 if n < 90_000 else 5)
             for n in range(100_000)]  # fmt: skip
    facts = boxes.facts(dicts)
    assert 1900 < facts["boxes_sampled"] <= 2050
    assert 0.05 < facts["boxes_misplaced"] / facts["boxes_sampled"] < 0.1


def test_a_tiny_box_may_differ_from_its_mask_by_two_pixels():
    tiny = image([8, 8, 8, 8], segmentation=[[10, 10, 14, 10, 14, 14, 10, 14]])
    assert boxes.facts([tiny])["boxes_misplaced"] == 0
    elsewhere = image([20, 8, 4, 4], segmentation=[[10, 10, 14, 10, 14, 14, 10, 14]])
    assert boxes.facts([elsewhere])["boxes_misplaced"] == 1


def test_only_polygons_have_an_extent():
    assert boxes.extent([[0, 0, 4, 0, 4, 3], [9, 1, 9, 5]]) == (0, 0, 9, 5)
    assert boxes.extent({"counts": "x", "size": [2, 2]}) is None
    assert boxes.extent([]) is None
    assert boxes.extent([{"counts": []}]) is None
    assert boxes.extent([[5, 5, 5, 5, 5, 5]]) is None


NUMBER = st.floats(-1e6, 1e6)


@given(st.tuples(NUMBER, NUMBER, NUMBER, NUMBER), st.sampled_from(sorted(boxes.READINGS)))
def test_any_four_numbers_can_be_read_in_any_way(numbers, reading):
    sample = boxes.Sample(XYWH, numbers, 640, 480, (10.0, 10.0, 20.0, 20.0))
    assert boxes.misplaced(sample, reading) in (True, False)
