"""Loading measured apart from the training, and without a trace in it."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from d2check.probe.phases import loader  # noqa: E402  (imports torch)


class Mapped:
    def __init__(self, images, load):
        self._dataset, self._map_func = images, load


class Outer:
    def __init__(self, inner):
        self.dataset = inner


class Cost:
    taken = 0

    def take(self):
        Cost.taken += 1
        return (0.5, 0.2, None) if Cost.taken > 1 else (9.0, 9.0, None)


@pytest.fixture(autouse=True)
def time_enough(monkeypatch):
    """However slow the machine that the tests run on is."""
    monkeypatch.setattr(loader, "LIMIT_S", math.inf)


def test_the_median_leaves_the_first_image_out():
    Cost.taken = 0
    seen = []
    facts = loader.measure(Outer(Outer(Mapped(list(range(1000)), seen.append))), Cost)
    assert facts == {"alone_load_s_per_image": 0.5, "alone_load_cpu_s_per_image": 0.2}
    assert max(seen) > 800  # spread over the whole data set
    assert len(seen) == loader.FEWEST + 1  # always the same: nothing more to learn


def test_more_images_are_loaded_where_their_times_differ():
    times = iter([9.0] + [0.1, 0.9] * 50)

    class Uneven:
        def take(self):
            return next(times), 0.1, None

    seen = []
    facts = loader.measure(Mapped(list(range(1000)), seen.append), Uneven)
    assert facts["alone_load_s_per_image"] == pytest.approx(0.5)
    assert len(seen) == loader.IMAGES + 1
    assert max(seen) > 900


@given(st.integers(1, 5000), st.integers(1, 40))
def test_every_beginning_of_the_chosen_images_is_spread_over_the_data_set(length, most):
    chosen = loader.spread(length, most)
    assert len(set(chosen)) == len(chosen) == min(length, most)
    assert all(0 <= index < length for index in chosen)
    if len(chosen) >= 8:
        assert {3 * index // length for index in chosen[:8]} == {0, 1, 2}  # every third of it


@pytest.mark.parametrize(
    ("seconds", "known"),
    [
        ([1.0] * 7, False),
        ([1.0] * 8, True),
        ([1.0, 1.5] * 4, False),
        ([1.0, 1.06] * 6, True),
        ([0.1] * 5 + [0.9] * 4, False),
    ],
)
def test_a_time_is_known_when_its_median_is_sure_to_a_twentieth(seconds, known):
    assert loader.is_precise(seconds) is known


def test_a_tiny_data_set_is_enough():
    Cost.taken = 0
    assert loader.measure(Mapped([1], lambda image: None), Cost) is not None


def test_random_generators_end_where_they_began():
    def draw(image=None):
        return random.random(), np.random.rand(), torch.rand(1).item()

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = draw()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    loader.measure(Mapped(list(range(50)), draw), Cost)
    assert draw() == expected


@pytest.mark.parametrize("stream", [None, iter([1]), Mapped(iter([1]), str), Mapped([], str)])
def test_loaders_without_a_data_set_of_known_length_are_left_alone(stream):
    assert loader.measure(stream, Cost) is None


def test_a_mapper_that_raises_leaves_the_generators_as_they_were():
    def fail(image):
        torch.rand(3)
        raise ValueError("no such image")

    torch.manual_seed(3)
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="no such image"):
        loader.measure(Mapped([1, 2], fail), Cost)
    assert torch.equal(torch.get_rng_state(), before)
