"""Whether boxes went with their image, and what they did instead."""

from __future__ import annotations

import numpy as np
import pytest

from d2check.probe import left_behind as faults
from d2check.probe.left_behind import Scene, fate, share
from d2check.probe.moves import MOVES, UNMOVED, Frame, place

LEFT_RIGHT, TOP_BOTTOM, CLOCKWISE, COUNTER = MOVES[1], MOVES[2], MOVES[4], MOVES[5]
SIZE = (400, 300)
FILE = np.array([[10.0, 20, 90, 70], [120, 30, 160, 110], [30, 200, 110, 280]])


def scene(move=UNMOVED, scale=1.0, pad=(0, 0), *, boxes=FILE, xywh=False):
    wide, tall = (SIZE[1], SIZE[0]) if move.swap else SIZE
    frame = Frame(pad[0], pad[1], wide * scale, tall * scale)
    image = (wide * scale + 2 * pad[0], tall * scale + 2 * pad[1])
    return Scene(boxes, SIZE, move, frame, image, xywh)


def followed(of):
    return place(of.boxes, of.size, of.move, of.frame)


@pytest.mark.parametrize("move", MOVES, ids=lambda move: move.words)
@pytest.mark.parametrize("scale", [1.0, 0.5, 1.6])
def test_boxes_that_go_with_their_image_follow(move, scale):
    of = scene(move, scale)
    assert fate(followed(of), of).end == "followed"
    assert fate(followed(of)[:2], of).end == "followed"  # a filter dropped one


def test_mirroring_about_the_last_pixel_and_rounding_are_no_fault():
    tiny = np.array([[10.0, 20, 14, 24], [120, 30, 126, 35], [30, 200, 33, 204]])
    of = scene(LEFT_RIGHT, boxes=tiny)
    assert fate(followed(of) - [1, 0, 1, 0], of).end == "followed"


def test_boxes_cut_at_the_edge_of_their_image_follow():
    over = np.array([[-40.0, 20, 90, 70], [350, 30, 460, 110]])
    of = scene(LEFT_RIGHT, 0.5, boxes=over)
    assert fate(np.clip(followed(of), 0, 200), of).end == "followed"
    assert fate(followed(of), of).end == "followed"


@pytest.mark.parametrize(
    ("of", "drawn", "fault", "moved"),
    [
        (scene(LEFT_RIGHT, 1.6), followed(scene(scale=1.6)), faults.UNMIRRORED, UNMOVED),
        (scene(CLOCKWISE, 1.6), followed(scene(scale=1.6)), faults.UNMIRRORED, UNMOVED),
        (scene(scale=1.6), FILE, faults.UNSCALED, UNMOVED),
        (scene(LEFT_RIGHT, 1.6), followed(scene(LEFT_RIGHT)), faults.UNSCALED, LEFT_RIGHT),
        (scene(LEFT_RIGHT, 1.6), followed(scene(LEFT_RIGHT)) + [240, 0, 240, 0], faults.UNSCALED,
         LEFT_RIGHT),
        (scene(LEFT_RIGHT, 1.6), FILE, faults.NEITHER, UNMOVED),
        (scene(scale=0.5), followed(scene(LEFT_RIGHT, 0.5)), faults.ALONE, LEFT_RIGHT),
        (scene(LEFT_RIGHT), followed(scene(TOP_BOTTOM)), faults.OTHERWISE, TOP_BOTTOM),
        (scene(CLOCKWISE), followed(scene(COUNTER)), faults.OTHERWISE, COUNTER),
        (scene(scale=1.6), FILE * 2.56, faults.RESCALED, UNMOVED),
        (scene(), FILE * 0.5, faults.RESCALED, UNMOVED),
        (scene(scale=0.5, pad=(0, 60)), FILE * 0.5, faults.UNPADDED, UNMOVED),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)  # fmt: skip
def test_what_boxes_do_instead_is_named(of, drawn, fault, moved):
    told = fate(drawn, of)
    assert (told.end, told.fault, told.boxes_moved) == ("stayed", fault, moved)


def test_width_and_height_that_are_taken_for_corners_are_named():
    of = scene(LEFT_RIGHT, 0.5, xywh=True)
    corners = FILE.copy()
    corners[:, 2:] -= corners[:, :2]
    drawn = place(corners, SIZE, of.move, of.frame)
    drawn = np.hstack((np.minimum(drawn[:, :2], drawn[:, 2:]),
                       np.maximum(drawn[:, :2], drawn[:, 2:])))  # fmt: skip
    assert fate(drawn, of).fault == faults.READ_AS_CORNERS
    # Where the boxes leave the image as they are told, the record may be wrong and not the mapper.
    outside = np.vstack((FILE, [[300.0, 200, 650, 500]]))
    assert fate(drawn, of._replace(boxes=outside)).fault != faults.READ_AS_CORNERS


def test_boxes_that_a_mirror_leaves_in_place_tell_nothing():
    middle = np.array([[150.0, 20, 250, 70], [100, 100, 300, 200]])
    of = scene(LEFT_RIGHT, boxes=middle)
    assert fate(followed(of), of).end == "untold"
    assert fate(middle, of).end == "untold"
    # Of a resized image they still tell that they were resized.
    resized = scene(LEFT_RIGHT, 1.6, boxes=middle)
    told = fate(followed(resized), resized)
    assert told.end == "followed"
    assert faults.UNSCALED in told.tells
    assert faults.UNMIRRORED not in told.tells


def test_boxes_of_no_known_place_are_elsewhere():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 150, (3, 2))
    drawn = np.hstack((corner, corner + [37, 23]))
    assert fate(drawn, scene(LEFT_RIGHT)).end == "elsewhere"


def test_boxes_that_were_pasted_in_do_not_hide_those_that_followed():
    of = scene(LEFT_RIGHT)
    corner = np.random.default_rng(0).uniform(0, 250, (6, 2))
    pasted = np.hstack((corner, corner + 20))
    assert fate(np.vstack((followed(of), pasted)), of).end == "followed"
    assert fate(np.vstack((FILE, pasted)), of).end == "elsewhere"


def test_many_boxes_are_looked_at_in_part():
    rng = np.random.default_rng(1)
    corner = rng.uniform(0, 250, (3000, 2))
    of = scene(boxes=np.hstack((corner, corner + 20)))
    assert fate(followed(of), of).end in ("followed", "untold")


def test_the_share_of_boxes_with_a_partner():
    one = np.array([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    assert share(one, one[:1], 0.5, (100, 100), 0) == 0.5
    assert share(one, np.zeros((0, 4)), 0.5, (100, 100), 2) == 0
    assert share(one, one + 1.5, 0.9, (100, 100), 2) == 1
