"""The first images of a training against their files, through Detectron2's own transforms."""

from __future__ import annotations

import copy
import math
import types

import numpy as np
import pytest

torch = pytest.importorskip("torch")
structures = pytest.importorskip("detectron2.structures")

from detectron2.data import detection_utils  # noqa: E402
from detectron2.data import transforms as tf  # noqa: E402
from detectron2.data.common import DatasetFromList, MapDataset  # noqa: E402
from fvcore.transforms.transform import HFlipTransform, NoOpTransform, TransformList  # noqa: E402
from PIL import Image  # noqa: E402

from d2check.probe import first_images  # noqa: E402
from d2check.probe.first_images import FirstImages, content  # noqa: E402
from d2check.probe.moves import SIDE, Frame  # noqa: E402

XYWH_ABS = structures.BoxMode.XYWH_ABS


@pytest.fixture(autouse=True)
def time_enough(monkeypatch):
    """However slow the machine that the tests run on is."""
    monkeypatch.setattr(first_images, "LIMIT_S", math.inf)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Twelve pictures of 200 x 150 pixels and their records."""
    folder, rng, made = tmp_path_factory.mktemp("images"), np.random.default_rng(0), []
    for number in range(12):
        coarse = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((200, 150), Image.BICUBIC)
        name = str(folder / f"{number}.{'png' if number % 2 else 'jpg'}")
        picture.save(name)
        boxes = [[5.0, 10.0, 60.0, 30.0], [80.0, 15.0, 20.0, 90.0], [20.0, 100.0, 50.0, 40.0]]
        notes = [{"bbox": box, "bbox_mode": XYWH_ABS, "category_id": 0} for box in boxes]
        crowd = {"bbox": [0, 0, 200, 150], "bbox_mode": XYWH_ABS, "category_id": 0, "iscrowd": 1}
        made.append({"file_name": name, "image_id": number, "width": 200, "height": 150,
                     "annotations": [*notes, crowd]})  # fmt: skip
    return made


def mapper(augmentations, spoil=None):
    def load(record):
        record = copy.deepcopy(record)
        image = detection_utils.read_image(record["file_name"], "BGR")
        given = tf.AugInput(image)
        transforms = tf.AugmentationList(augmentations)(given)
        height, width = given.image.shape[:2]
        used = transforms if spoil is None else spoil(transforms)
        objects = [
            detection_utils.transform_instance_annotations(note, used, (height, width))
            for note in record.pop("annotations")
            if not note.get("iscrowd")
        ]
        record["instances"] = detection_utils.annotations_to_instances(objects, (height, width))
        record["image"] = torch.from_numpy(np.ascontiguousarray(given.image.transpose(2, 0, 1)))
        return record

    return load


def without(*kinds):
    return lambda transforms: TransformList(
        [t for t in transforms.transforms if not isinstance(t, kinds)] or [NoOpTransform()]
    )


def facts_of(records, load, *, files=True, batches=10):
    data_set = MapDataset(DatasetFromList(records), load)
    watch = FirstImages()
    for batch in range(batches):
        watch.look([data_set[(batch * 4 + k) % len(records)] for k in range(4)])
    loader = types.SimpleNamespace(dataset=data_set)
    return watch.facts(loader, [r["file_name"] for r in records] if files else None)


RESIZE = tf.ResizeShortestEdge(240, 400)


@pytest.mark.parametrize("files", [True, False])
def test_boxes_of_a_sound_mapper_follow_their_images(records, files):
    always = [RESIZE, tf.RandomFlip(1.0), tf.RandomBrightness(0.8, 1.2)]
    told = facts_of(records, mapper(always), files=files)
    assert told["drawn_compared"] == told["drawn_followed"] == 40
    assert told["drawn_moved"] == told["drawn_resized"] == 40
    assert told["drawn_stayed"] == told["drawn_elsewhere"] == told["drawn_not_compared"] == 0
    assert "drawn_fault" not in told


def test_a_flip_that_forgets_the_boxes_is_named(records):
    augmentations = [RESIZE, tf.RandomFlip(1.0)]
    told = facts_of(records, mapper(augmentations, without(HFlipTransform)))
    assert told["drawn_fault"] == "images are mirrored left to right, and their boxes are not"
    assert told["drawn_fault_kind"] == "not moved"
    assert told["drawn_fault_images"] == told["drawn_fault_of"] == 40


def test_a_resize_that_forgets_the_boxes_is_named(records):
    told = facts_of(records, mapper([RESIZE], without(tf.ResizeTransform)))
    assert told["drawn_fault"] == (
        "images are resized by 1.6, and their boxes keep the pixels of the file"
    )
    assert told["drawn_fault_images"] == 40


def test_flipped_and_resized_images_with_the_boxes_of_the_file_are_one_fault(records):
    told = facts_of(records, mapper([RESIZE, tf.RandomFlip()], lambda _: NoOpTransform()))
    assert told["drawn_fault"].startswith("images are resized by 1.6 and mirrored left to right")
    assert told["drawn_fault_images"] == 40


def test_images_hardly_resized_show_the_same_fault(records):
    load = mapper([tf.ResizeShortestEdge((160, 240), 400, "choice"), tf.RandomFlip(1.0)],
                  lambda _: NoOpTransform())  # fmt: skip
    told = facts_of(records, load)
    assert told["drawn_fault"].startswith("images are resized by 1.6 and mirrored left to right")
    assert told["drawn_fault_images"] == told["drawn_fault_of"] == 40


def test_boxes_that_are_resized_alone_are_named(records):
    half = lambda transforms: TransformList([tf.ScaleTransform(150, 200, 75, 100)])  # noqa: E731
    told = facts_of(records, mapper([], half))
    assert told["drawn_fault"] == "boxes are resized by 0.5, and their images are not"
    assert told["drawn_fault_kind"] == "resized alone"


def test_crops_are_left_out_and_counted(records):
    told = facts_of(records, mapper([tf.RandomCrop("relative", (0.9, 0.9))]))
    assert told["drawn_compared"] == 0
    assert told["drawn_not_compared"] == 40
    assert "crop" in told["drawn_not_compared_why"]


def test_padding_is_seen_through(records):
    told = facts_of(records, mapper([tf.RandomFlip(1.0), tf.FixedSizeCrop((300, 300))]))
    assert told["drawn_followed"] == 40


def one(records, **change):
    """What is told of a single sample, changed."""
    sample = dict(mapper([RESIZE])(records[0]), **change)
    watch = FirstImages()
    watch.look([sample])
    data_set = MapDataset(DatasetFromList(records), mapper([RESIZE]))
    return watch.facts(types.SimpleNamespace(dataset=data_set), None)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("number", [float("inf"), float("nan"), -1e30])
def test_boxes_that_are_no_numbers_are_elsewhere_without_a_word(records, number):
    boxes = structures.Boxes(torch.full((3, 4), number))
    told = one(records, instances=instances_with(boxes))
    assert told["drawn_elsewhere"] == told["drawn_compared"] == 1


def instances_with(boxes):
    instances = structures.Instances((240, 320))
    instances.gt_boxes = boxes
    return instances


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"file_name": None}, "no file_name"),
        ({"file_name": "moved.png"}, "no record of the data set"),
        ({"image": np.zeros((3, 4, 4))}, "no image of three dimensions"),
        ({"instances": None}, "no boxes that are upright"),
        ({"instances": instances_with(structures.RotatedBoxes(torch.zeros(1, 5)))}, "upright"),
        ({"instances": instances_with(structures.Boxes(torch.zeros(0, 4)))}, "no objects"),
        ({"image": torch.zeros(3, 240, 320)}, "one colour"),
        ({"image": torch.full((3, 240, 320), float("nan"))}, "one colour"),
    ],
)
def test_what_cannot_be_compared_is_told_with_its_reason(records, change, why):
    told = one(records, **change)
    assert told["drawn_compared"] == 0
    assert told["drawn_not_compared"] == 1
    assert why in told["drawn_not_compared_why"]


def reason(records, loader=None):
    if loader is None:
        data_set = MapDataset(DatasetFromList(records), mapper([]))
        loader = types.SimpleNamespace(dataset=data_set)
    watch = FirstImages()
    watch.look([mapper([])(records[0])])
    told = watch.facts(loader, None)
    assert told["drawn_compared"] == 0
    return told["drawn_not_compared_why"]


def test_records_that_do_not_tell_are_left_alone(records):
    changed = copy.deepcopy(records)
    changed[0]["width"] = 201
    assert "another size" in reason(changed)
    changed = copy.deepcopy(records)
    changed[0]["annotations"][1]["bbox_mode"] = structures.BoxMode.XYWHA_ABS
    assert "formats" in first_unclear(changed[0])
    changed = copy.deepcopy(records)
    changed[1] = {**copy.deepcopy(records[1]), "file_name": records[0]["file_name"]}
    changed[1]["annotations"][0]["bbox"][0] += 1
    assert "several records" in reason(changed)
    assert "no mapper" in reason(records, loader=[])


def test_a_data_set_that_breaks_when_it_is_asked_again_is_told(records):
    class Broken(list):
        def __getitem__(self, index):
            raise RuntimeError("the connection is closed")

    data_set = MapDataset(DatasetFromList(records), mapper([]))
    data_set._dataset = Broken(records)
    loader = types.SimpleNamespace(dataset=data_set)
    assert reason(records, loader) == "RuntimeError: the connection is closed"


def test_a_file_that_would_take_seconds_is_not_read_again(records, monkeypatch):
    monkeypatch.setattr(first_images, "LARGEST", 200 * 150 - 1)
    assert "too large" in reason(records)


def first_unclear(record):
    with pytest.raises(first_images.Unclear) as raised:
        first_images.file_boxes(record)
    return str(raised.value)


def test_a_file_with_an_orientation_is_left_alone_and_one_that_is_gone_is_told(records, tmp_path):
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[274] = 6
    Image.open(records[0]["file_name"]).convert("RGB").save(turned, exif=exif)
    with pytest.raises(first_images.Unclear, match="EXIF"):
        first_images.read_small(str(turned))
    gone = [{**copy.deepcopy(records[0]), "file_name": str(tmp_path / "gone.jpg")}]
    Image.open(records[0]["file_name"]).save(gone[0]["file_name"])
    data_set = MapDataset(DatasetFromList(gone), mapper([]))
    watch = FirstImages()
    watch.look([data_set[0]])
    (tmp_path / "gone.jpg").unlink()
    told = watch.facts(types.SimpleNamespace(dataset=data_set), None)
    assert "FileNotFoundError" in told["drawn_not_compared_why"]


def test_reading_ends_when_it_takes_too_long(records, monkeypatch):
    monkeypatch.setattr(first_images, "LIMIT_S", -1.0)
    told = facts_of(records, mapper([]))
    assert told["drawn_not_compared"] == 40
    assert "too long" in told["drawn_not_compared_why"]


def test_only_the_first_images_are_kept_and_nothing_of_other_batches(records):
    assert facts_of(records, mapper([]), batches=30)["drawn_compared"] == 40
    watch = FirstImages()
    for batch in (None, 3, [3], ["image"], []):
        watch.look(batch)
    assert watch.facts(None, None) == {}


def test_the_random_generators_are_left_alone(records):
    sample = mapper([])(records[0])
    torch.manual_seed(1)
    before = torch.get_rng_state()
    FirstImages().look([sample])
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("size", [(30, 50), (300, 700), (900, 801)])
def test_the_content_inside_an_edge_of_one_colour_is_found_to_the_pixel(size):
    rng = np.random.default_rng(2)
    height, width = size
    for _ in range(20):
        top, left = int(rng.integers(0, height // 3)), int(rng.integers(1, width // 3))
        bottom = int(rng.integers(height // 2, height + 1))
        right = int(rng.integers(width // 2, width + 1))
        image = torch.full((3, height, width), 7, dtype=torch.uint8)
        inner = image[:, top:bottom, left:right]
        inner.copy_(torch.randint(8, 255, inner.shape, dtype=torch.uint8))
        assert content(image) == Frame(left, top, right - left, bottom - top)
    assert content(torch.full((3, 9, 9), 7)) is None
    assert content(torch.rand(3, height, width)) is None


def test_the_small_copy_does_not_depend_on_the_order_of_channels():
    image = torch.rand(3, 130, 90)
    one, other = (first_images.small_copy(i) for i in (image, image[[2, 1, 0]]))
    assert one.shape == (SIDE, SIDE)
    assert np.allclose(one, other)


@pytest.mark.training
def test_a_sound_training_tells_that_its_boxes_follow(healthy):
    facts = healthy.facts
    assert facts["drawn_compared"] == 40
    assert facts["drawn_followed"] >= 35
    assert facts["drawn_moved"] >= 8
    assert facts["drawn_stayed"] == facts["drawn_elsewhere"] == 0
