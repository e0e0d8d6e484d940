"""The synthetic data set: valid files, boxes that fit their masks, faults planted where told."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from d2check.demo import shapes
from d2check.errors import UsageError


def coco(folder, split="train"):
    return json.loads((folder / f"{split}.json").read_text())


def test_annotations_fit_their_images_and_each_other(tmp_path):
    shapes.write_demo(tmp_path)
    data = coco(tmp_path)
    sizes = {image["id"]: (image["width"], image["height"]) for image in data["images"]}
    assert len(sizes) == shapes.TRAIN_IMAGES
    assert {a["category_id"] for a in data["annotations"]} == {1, 2, 3}
    for annotation in data["annotations"]:
        left, top, width, height = annotation["bbox"]
        image_width, image_height = sizes[annotation["image_id"]]
        xs, ys = annotation["segmentation"][0][::2], annotation["segmentation"][0][1::2]
        assert (min(xs), min(ys)) == (left, top)
        assert min(left, top) >= 0
        assert left + width <= image_width + 0.01
        assert top + height <= image_height + 0.01
        assert 0.3 * width * height < annotation["area"] <= width * height + 0.1


def test_the_same_seed_draws_the_same_data_set(tmp_path):
    for name in ("a", "b"):
        shapes.write_demo(tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert len(files) == shapes.TRAIN_IMAGES + shapes.VAL_IMAGES + 5
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_objects_are_where_their_masks_say():
    disc = shapes.Shape("disc", 20.0, 30.0, 10.0, (250, 0, 0))
    pixels = shapes.draw([disc], 60, 50, np.random.default_rng(0))
    assert pixels.shape == (60, 50, 3)
    assert pixels[30, 20, 0] > 200
    assert pixels[30, 45, 0] < 200
    rows, columns = np.nonzero((pixels[..., 0] > 215) & (pixels[..., 1] < 50))
    assert rows.min() >= 19
    assert rows.max() <= 40
    assert columns.min() >= 9
    assert columns.max() <= 30


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_a_png_reads_back_as_the_same_pixels(height, width, seed):
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    again = np.asarray(image.open(io.BytesIO(shapes.png(pixels))))
    assert np.array_equal(again, pixels)


def test_the_healthy_rate_follows_the_linear_rule(tmp_path):
    solver = yaml.safe_load(shapes.write_demo(tmp_path).read_text())["SOLVER"]
    assert solver["BASE_LR"] == 0.02 * solver["IMS_PER_BATCH"] / 16


@pytest.mark.parametrize(
    ("sick", "load_s", "rate", "classes"),
    [
        (None, 0.0, 0.005, 3),
        ("lr", 0.0, 0.5, 3),
        ("loader", shapes.SLOW_LOAD_S, 0.005, 3),
        ("labels", 0.0, 0.005, 1),
    ],
)
def test_each_sick_demo_has_its_one_fault(tmp_path, sick, load_s, rate, classes):
    config = yaml.safe_load(shapes.write_demo(tmp_path, sick).read_text())
    assert json.loads((tmp_path / "demo.json").read_text())["load_s"] == load_s
    assert config["SOLVER"]["BASE_LR"] == rate
    assert config["MODEL"]["ROI_HEADS"]["NUM_CLASSES"] == classes


def test_sick_labels_are_of_a_class_that_the_model_takes_for_background(tmp_path):
    config = yaml.safe_load(shapes.write_demo(tmp_path, "labels").read_text())
    data = coco(tmp_path)
    order = [category["id"] for category in data["categories"]]
    used = {order.index(annotation["category_id"]) for annotation in data["annotations"]}
    assert used == {config["MODEL"]["ROI_HEADS"]["NUM_CLASSES"]}


def test_an_unknown_sickness_is_refused_with_the_choices(tmp_path):
    with pytest.raises(UsageError, match="lr, loader, labels"):
        shapes.write_demo(tmp_path, "flu")
