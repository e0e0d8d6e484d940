"""Ranks that are given the same images, and ranks that share some by chance."""

from __future__ import annotations

import numpy as np
import pytest

from d2check.checks.ranks import shared_images
from d2check.model import Series


def given(*ranks):
    """Series of ranks; of each a list of batches, which are lists of image numbers."""
    found = {}
    for rank, batches in enumerate(ranks):
        for place in range(max(map(len, batches))):
            name = ("" if rank == 0 else f"rank{rank}/") + f"given_image_{place}"
            at = [i for i, batch in enumerate(batches) if place < len(batch)]
            values = np.array([batches[i][place] for i in at], float)
            found[name] = Series(name, np.array(at), values)
    return found


def dealt(images, per_rank, world_size, seed=0, iterations=20):
    """As a TrainingSampler deals: shuffles of all images one after another, in turns."""
    dice = np.random.default_rng(seed)
    need = per_rank * world_size * iterations
    order = np.concatenate([dice.permutation(images) for _ in range(-(-need // images))])
    cards = [order[rank::world_size] for rank in range(world_size)]
    return [
        [sorted(own[i * per_rank : (i + 1) * per_rank].tolist()) for i in range(iterations)]
        for own in cards
    ]


@pytest.mark.parametrize("images", [40, 50, 200, 5000])
@pytest.mark.parametrize("seed", range(5))
def test_images_that_are_dealt_out_are_shared_by_none(images, seed):
    found = shared_images(given(*dealt(images, 2, 4, seed)))
    assert found.value is not None
    assert found.value < 0.2


@pytest.mark.parametrize("images", [50, 5000])
def test_the_same_shuffle_on_all_ranks_is_found(images):
    (own,) = dealt(images, 4, 1)
    found = shared_images(given(own, own))
    assert found.value == 1
    assert (found.extras["rank"], found.extras["other"]) == ("rank 1", "rank 0")
    assert found.extras["in_words"] == "80 images"


def test_a_shuffle_of_its_own_for_each_rank_shares_what_chance_gives():
    first, second = dealt(60, 4, 1, seed=1)[0], dealt(60, 4, 1, seed=2)[0]
    found = shared_images(given(first, second))
    assert found.value == pytest.approx(4 / 60, abs=0.1)
    assert found.extras["chance"] == pytest.approx(4 / 60, abs=0.05)


def test_machines_that_count_their_ranks_from_0_again_are_found():
    mine, other = dealt(5000, 2, 2)
    found = shared_images(given(mine, other, mine, other))
    assert (found.extras["rank"], found.extras["other"]) == ("rank 2", "rank 0")


@pytest.mark.parametrize("images", [1, 2, 4])
def test_a_handful_of_images_tells_nothing(images):
    (own,) = dealt(images, min(images, 4), 1)
    assert "so few images" in (shared_images(given(own, own), images).undecided or "")


def test_a_handful_of_images_that_are_dealt_out_passes():
    assert shared_images(given(*dealt(4, 2, 2))).value == 0


def test_few_iterations_are_not_judged():
    found = shared_images(given([[1], [2], [3]], [[1], [2], [3]]))
    assert found.undecided == "only 3 images could be compared"


def test_one_rank_or_no_names_are_not_judged():
    assert "one process" in (shared_images(given([[1], [2]])).undecided or "")
    assert "nothing tells" in (shared_images(None).undecided or "")
