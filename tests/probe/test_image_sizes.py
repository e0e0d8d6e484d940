"""What the transforms of a training make of image sizes, against Detectron2's own."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("detectron2")

from detectron2.data import transforms as T  # noqa: E402, N812
from detectron2.data.common import AspectRatioGroupedDataset, DatasetFromList, MapDataset  # noqa: E402
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler  # noqa: E402

from d2check.checks.batches.draws import transformed  # noqa: E402
from d2check.probe import image_sizes, wire  # noqa: E402
from d2check.probe.plan import Plan  # noqa: E402
from d2check.probe.recorder import Recorder  # noqa: E402
from d2check.probe.session import Session  # noqa: E402

pytestmark = pytest.mark.training

SHAPES = [(480, 640), (640, 480), (333, 500), (100, 1000), (1200, 1201), (37, 41)]


def loader_of(*augmentations, images=SHAPES, sampler=None, grouping=True):
    """Detectron2's nest of a loader, without worker processes."""
    mapper = SimpleNamespace(augmentations=T.AugmentationList(list(augmentations)))
    dicts = [{"height": h, "width": w} for h, w in images]
    mapped = MapDataset(DatasetFromList(dicts, copy=False), lambda one: one)
    mapped._map_func = mapper
    inner = SimpleNamespace(dataset=mapped, sampler=sampler or TrainingSampler(len(images)))
    return AspectRatioGroupedDataset(inner, 2) if grouping else inner


LISTS = {
    "choice": [T.ResizeShortestEdge((320, 400), 600, "choice"), T.RandomFlip()],
    "range": [T.ResizeShortestEdge((100, 300), 500, "range")],
    "none": [T.ResizeShortestEdge((0,), 500, "choice")],
    "large scale jitter": [T.ResizeScale(0.1, 2.0, 512, 512), T.FixedSizeCrop((512, 512))],
    "crop without pad": [T.FixedSizeCrop((300, 200), pad=False)],
    "relative crop": [T.RandomCrop("relative", (0.5, 0.8)), T.ResizeShortestEdge(80, 300)],
    "relative range": [T.RandomCrop("relative_range", (0.3, 0.3))],
    "absolute": [T.RandomCrop("absolute", (30, 40))],
    "absolute range": [T.RandomCrop("absolute_range", (20, 36))],
    "fixed": [T.Resize((120, 130)), T.RandomBrightness(0.9, 1.1)],
}


def sizes_by_detectron2(augmentations, height, width, times=12):
    found = set()
    for _ in range(times):
        given = T.AugInput(np.zeros((height, width, 3), np.uint8))
        T.AugmentationList(augmentations)(given)
        found.add(given.image.shape[:2])
    return found


@pytest.mark.parametrize("name", LISTS)
def test_sizes_are_those_that_detectron2_makes(name):
    """Each size that Detectron2 makes lies among those drawn, and neither exceeds the largest."""
    np.random.seed(0)
    told = image_sizes.transforms_of(loader_of(*LISTS[name]))
    json.dumps(told)  # plain data
    rng = np.random.default_rng(1)
    for height, width in SHAPES[:4]:
        theirs = sizes_by_detectron2(LISTS[name], height, width)
        tall, wide = np.full(4000, float(height)), np.full(4000, float(width))
        tall, wide = transformed(tall, wide, told, lambda shape=tall.shape: rng.random(shape))
        most = [int(side[0]) for side in image_sizes.largest_sizes([height], [width], told)]
        assert int(tall.max()) <= most[0]
        assert int(wide.max()) <= most[1]
        for one, side in zip(zip(*theirs, strict=True), (tall, wide), strict=True):
            assert side.min() <= min(one)
            assert max(one) <= side.max()
        if "range" not in name and "jitter" not in name:
            assert theirs <= set(zip(tall.astype(int), wide.astype(int), strict=True))


def test_an_unknown_augmentation_is_named():
    with pytest.raises(image_sizes.SizesUnknown, match="RandomRotation"):
        image_sizes.transforms_of(loader_of(T.RandomRotation([0, 30])))


def test_a_mapper_of_another_kind_is_told():
    with pytest.raises(image_sizes.SizesUnknown, match="no list of augmentations"):
        image_sizes.transforms_of(SimpleNamespace(dataset=None))


def test_wide_and_tall_images_meet_only_without_grouping():
    wide = [True, False]
    found = image_sizes.largest_padded(
        np.array([200, 400]), np.array([400, 200]), wide, grouping=True
    )
    assert sorted(found) == [200, 400]
    found = image_sizes.largest_padded(
        np.array([200, 400]), np.array([400, 200]), wide, grouping=False
    )
    assert found == (400, 400)


def test_the_long_side_stays_below_its_limit():
    told = [{"kind": "shortest", "lengths": [800], "range": False, "longest": 1333}]
    tall, wide = image_sizes.largest_sizes([100], [1000], told)
    assert (tall[0], wide[0]) == (133, 1333)


def test_a_sampler_that_repeats_is_followed():
    repeats = torch.tensor([1.0, 2.5, 1.0])
    loader = loader_of(sampler=RepeatFactorTrainingSampler(repeats))
    name, often = image_sizes.frequencies(loader, 3)
    assert name == "RepeatFactorTrainingSampler"
    assert often.tolist() == [1.0, 2.5, 1.0]


def test_a_sampler_of_the_users_own_is_not_guessed():
    class Hard:
        pass

    assert image_sizes.frequencies(loader_of(sampler=Hard()), 3) == ("Hard", None)


def test_of_a_large_set_the_heaviest_are_told_and_others_stand_for_the_rest():
    rng = np.random.default_rng(0)
    heights, widths = rng.integers(300, 800, 5000), rng.integers(300, 800, 5000)
    objects = rng.poisson(5, 5000)
    objects[17] = 900
    order, weights = image_sizes.listed(heights, widths, objects, np.ones(5000), most=1500)
    assert len(order) == len(weights) == 1500
    assert 17 in order
    assert weights[list(order).index(17)] == 1
    assert weights.sum() == pytest.approx(5000)
    assert len(set(order)) == 1500


def test_the_file_holds_what_a_batch_can_be_drawn_from(tmp_path):
    session = Session(Plan({"folder": str(tmp_path)}), Recorder(str(tmp_path)))
    shapes = [(h, w, n) for n, (h, w) in enumerate(SHAPES)]
    files = [f"s3://me:secret@bucket/{n}.jpg" for n in range(len(SHAPES))]
    image_sizes.write(session, loader_of(*LISTS["choice"]), shapes, files, 32)
    told = json.loads((tmp_path / wire.DATA_SET).read_text())
    assert told["height"] == [h for h, _ in SHAPES]
    assert told["objects"] == list(range(len(SHAPES)))
    assert told["weight"] == [1.0] * len(SHAPES)
    assert (told["grouping"], told["divisibility"], told["sampler_known"]) == (True, 32, True)
    assert told["named"]["5"] == "s3://***@bucket/5.jpg"
