"""Which way of laying a file's image makes it the one that the model is given."""

from __future__ import annotations

import numpy as np
import pytest

from d2check.probe.moves import MOVES, SIDE, UNMOVED, Frame, Unclear, move_of, moved, place

WHOLE = Frame(0, 0, 100, 50)


def picture(seed=0, grain=8):
    """A small copy with something to see in every corner."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(100, 40, (grain, grain))
    ticks = (np.arange(SIDE) + 0.5) / SIDE * grain - 0.5
    rows = np.array([np.interp(ticks, range(grain), column) for column in coarse.T]).T
    return np.array([np.interp(ticks, range(grain), row) for row in rows], np.float32)


def window(copy, begin, end):
    """The part of a copy between two shares of both its sides, stretched over all of it."""
    at = (begin + (np.arange(SIDE) + 0.5) / SIDE * (end - begin)) * SIDE - 0.5
    rows = np.array([np.interp(at, range(SIDE), column) for column in copy.T]).T
    return np.array([np.interp(at, range(SIDE), row) for row in rows], np.float32)


@pytest.mark.parametrize("move", MOVES, ids=lambda move: move.words)
def test_each_move_is_told_from_the_others_whatever_the_brightness(move):
    file = picture()
    found, likeness = move_of(moved(file, move) * 0.7 + 30, file)
    assert found == move
    assert likeness == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("move", MOVES, ids=lambda move: move.words)
def test_a_box_moves_with_the_pixels_that_it_holds(move):
    pixels = np.zeros((40, 60))
    pixels[5:15, 20:50] = 1
    laid = moved(pixels, move)
    height, width = laid.shape
    box = place(np.array([[20.0, 5, 50, 15]]), (60, 40), move, Frame(0, 0, width, height))[0]
    rows, columns = np.nonzero(laid)
    assert box == pytest.approx(
        [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], abs=1e-9
    )


def test_a_frame_scales_and_shifts_boxes():
    box = place(np.array([[10.0, 10, 20, 30]]), (100, 50), UNMOVED, Frame(5, 7, 200, 25))
    assert box.tolist() == [[25, 12, 45, 22]]


@pytest.mark.parametrize(("begin", "end"), [(0, 0.94), (0.05, 1), (0.1, 0.9), (0, 0.9)])
def test_a_crop_is_no_move_not_even_one_that_hardly_shows(begin, end):
    for seed in range(5):
        file = picture(seed, grain=4)
        with pytest.raises(Unclear, match="not the whole of their files"):
            move_of(window(file, begin, end), file)


def test_an_image_around_which_something_was_added_is_no_move():
    file = picture(3, grain=4)
    shrunk = np.full_like(file, 128)
    kept = np.linspace(0, SIDE - 1, SIDE - 5).astype(int)
    shrunk[: SIDE - 5, : SIDE - 5] = file[np.ix_(kept, kept)]
    with pytest.raises(Unclear, match="not the whole"):
        move_of(shrunk, file)


def test_images_that_are_symmetric_or_plain_tell_nothing():
    symmetric = picture()
    symmetric = symmetric + symmetric[:, ::-1]
    with pytest.raises(Unclear, match="look the same"):
        move_of(symmetric, symmetric)
    with pytest.raises(Unclear, match="one colour"):
        move_of(np.full((SIDE, SIDE), 7, np.float32), picture())
    with pytest.raises(Unclear, match="one colour"):
        move_of(np.full((SIDE, SIDE), np.nan, np.float32), picture())


def test_another_image_is_no_move():
    with pytest.raises(Unclear, match="not the whole"):
        move_of(picture(1), picture(2))
