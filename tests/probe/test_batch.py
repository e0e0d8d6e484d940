"""What a batch holds, and that the probe's own key leaves it."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from d2check.probe.batch import LOAD_KEY, BatchFacts


@dataclass
class Image:
    shape: tuple[int, ...]


def sample(height, width, objects, **more):
    return {"image": Image((3, height, width)), "instances": [0] * objects, **more}


def test_counts_and_padded_size():
    facts = BatchFacts(size_divisibility=32)
    facts.add([sample(100, 60, 2), sample(64, 130, 0)])
    assert facts.take() == {
        "images": 2,
        "instances": 2,
        "most_instances": 2,
        "max_height": 100,
        "max_width": 130,
        "padded_pixels": 128 * 160,
    }


def test_several_batches_of_one_iteration_are_added():
    facts = BatchFacts()
    facts.add([sample(10, 10, 1)])
    facts.add([sample(5, 20, 3)])
    taken = facts.take()
    assert (taken["images"], taken["instances"]) == (2, 4)
    assert taken["padded_pixels"] == 100  # batches are padded apart
    assert facts.take() == {}


def test_loading_times_are_taken_out_of_the_samples():
    facts = BatchFacts()
    batch = [
        sample(8, 8, 0, **{LOAD_KEY: (0.25, 0.1, None), "file_name": "a.png"}),
        sample(8, 8, 0),
    ]
    facts.add(batch)
    assert LOAD_KEY not in batch[0]
    assert facts.files == ["a.png"]
    assert facts.loads == [(0.25, 0.1, None)]
    assert facts.take()["load_s"] == 0.25


@pytest.mark.parametrize("batch", [None, {"image": 1}, [1, 2], [], [[sample(1, 1, 1)]], "text"])
def test_batches_of_another_kind_are_left_alone(batch):
    facts = BatchFacts()
    facts.add(batch)
    assert facts.take() == {}


def marks(taken):
    return [value for name, value in taken.items() if name.startswith("given_image_")]


def test_images_of_the_first_iterations_are_marked_by_their_names():
    one, other = BatchFacts(), BatchFacts()
    one.add([sample(8, 8, 0, file_name="a.png"), sample(8, 8, 0, file_name="b.png")])
    other.add([sample(9, 9, 1, file_name="b.png"), sample(8, 8, 0, file_name="a.png")])
    first = one.take()
    assert marks(first) == marks(other.take())  # another order, other transforms
    assert len(marks(first)) == 2
    assert all(mark == int(float(mark)) < 2**52 for mark in marks(first))
    one.add([sample(8, 8, 0, file_name="c.png"), sample(8, 8, 0, image_id=5)])
    second = marks(one.take())
    assert len(set(second) | set(marks(first))) == 4


def test_marks_are_of_few_images_and_end():
    facts = BatchFacts()
    counts = []
    for i in range(25):
        facts.add([sample(8, 8, 0, file_name=f"{i}-{n}.png") for n in range(12)])
        counts.append(len(marks(facts.take())))
    assert counts == [8] * 20 + [0] * 5


def test_images_without_a_name_have_no_mark():
    facts = BatchFacts()
    facts.add([sample(8, 8, 0), sample(8, 8, 0, file_name=None)])
    assert marks(facts.take()) == []


def test_batches_of_one_iteration_are_counted_where_there_are_several():
    facts = BatchFacts()
    facts.add([sample(10, 10, 1)])
    assert "batches" not in facts.take()
    facts.add([sample(10, 10, 1)])
    facts.add([sample(10, 10, 1)])
    assert facts.take()["batches"] == 2


def test_images_and_boxes_that_are_no_numbers_are_named():
    torch = pytest.importorskip("torch")

    boxes = SimpleNamespace(tensor=torch.tensor([[0.0, 1.0, torch.inf, 3.0]]))
    objects = SimpleNamespace(_fields={"gt_boxes": boxes, "gt_classes": torch.zeros(1)})
    nan, whole = torch.full((3, 4, 4), torch.nan), torch.zeros((3, 4, 4), dtype=torch.uint8)
    facts = BatchFacts()
    facts.add(
        [{"image": whole, "file_name": "a/one.png"}, {"image": nan, "file_name": "a/two.png"}]
    )
    facts.add([{"image": whole, "instances": objects}])
    assert facts.not_finite() == ["two.png (image)", "image 0 (boxes)"]
    facts.take()
    assert facts.not_finite() == []
