"""The largest batch, tried on the micro Mask R-CNN with a meter of our own."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("detectron2")

from d2check.probe import extremes, wire  # noqa: E402  (imports torch)
from d2check.probe.phases import worst_batch  # noqa: E402
from d2check.probe.plan import Plan  # noqa: E402
from d2check.probe.recorder import Recorder  # noqa: E402
from d2check.probe.session import Session  # noqa: E402

pytestmark = pytest.mark.training


class Meter:
    """Counts the trials, in place of an allocator."""

    def __init__(self):
        self.begun = self.ended = 0

    def capacity(self):
        return {"gpu_total_mib": 1000.0}

    def begin_trial(self):
        self.begun += 1

    def take_trial(self):
        return {"peak_allocated_mib": 100.0 + self.begun, "peak_reserved_mib": 120.0 + self.begun}

    def end_trial(self):
        self.ended += 1
        return 50.0


@pytest.fixture(scope="module")
def built(demo, tmp_path_factory):
    """The demo's trainer, not yet trained, with one of its batches."""
    from detectron2.config import get_cfg
    from detectron2.engine import DefaultTrainer

    from d2check.probe import datasets, run_config

    run_config.load_setup(str(demo / "demo_setup.py"))
    cfg = get_cfg()
    cfg.merge_from_file(str(demo / "config.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    cfg.OUTPUT_DIR = str(tmp_path_factory.mktemp("output"))
    trainer = DefaultTrainer(cfg)
    folder = str(tmp_path_factory.mktemp("records"))
    session = Session(Plan({"folder": folder}), Recorder(folder))
    session.recorder.open(0)
    dicts = json.loads((demo / "train.json").read_text())
    counts = [0] * len(dicts["images"])
    for annotation in dicts["annotations"]:
        counts[annotation["image_id"]] += 1
    shapes = [(i["height"], i["width"], n) for i, n in zip(dicts["images"], counts, strict=True)]
    files = [image["file_name"] for image in dicts["images"]]
    entry = {"names": list(cfg.DATASETS.TRAIN), "images": len(shapes)}
    entry.update(shapes=shapes, files=files)
    session.data_sets.append(entry)
    assert datasets.training_set(session, None, cfg)["shapes"] == shapes
    trainer.batch = next(iter(trainer.data_loader))
    return trainer, session


@pytest.fixture
def storage():
    from detectron2.utils.events import EventStorage

    with EventStorage(5) as storage:
        yield storage


def state_of(model):
    parts = {name: value.clone() for name, value in model.state_dict().items()}
    return parts, [None if p.grad is None else p.grad.clone() for p in model.parameters()]


def test_the_training_is_as_before(built, storage):
    trainer, session = built
    model = trainer._trainer.model
    sum(model(trainer.batch).values()).backward()
    written = dict(storage.latest())
    before, gradients = state_of(model)
    randomness = torch.get_rng_state()
    facts = extremes.measure(session, trainer, trainer._trainer, trainer.batch, Meter())
    after, gradients_after = state_of(model)
    assert facts["worst_batch_mib"] == 120.0 + trials_of(session)[-1]["number"]
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(
        (a is None) == (b is None) and (a is None or torch.equal(a, b))
        for a, b in zip(gradients, gradients_after, strict=True)
    )
    assert torch.equal(randomness, torch.get_rng_state())
    assert storage.latest() == written
    assert "label_and_sample_proposals" not in vars(model.roi_heads)


def test_the_batch_has_the_largest_size_and_the_most_objects(built, storage):
    trainer, session = built
    shapes = session.data_sets[0]["shapes"]
    facts = extremes.measure(session, trainer, trainer._trainer, trainer.batch, Meter())
    assert facts["worst_batch_objects"] == max(n for _, _, n in shapes)
    assert facts["worst_batch_height"] >= 128
    assert facts["worst_batch_height"] <= 192
    seen = max(s["image"].shape[-1] for s in trainer.batch)
    assert facts["worst_batch_width"] >= seen or facts["worst_batch_height"] > 128


def test_every_roi_head_gets_all_the_foreground_that_it_may_sample(built, storage):
    trainer, _ = built
    model = trainer._trainer.model
    batch = worst_batch.build(trainer.batch, [9, 9], 160, 128)
    with worst_batch.most_foreground(model):
        model(batch)
    most = model.roi_heads.batch_size_per_image * model.roi_heads.positive_fraction
    assert storage.latest()["roi_head/num_fg_samples"][0] == most


def test_the_box_head_gets_all_the_regions_that_it_may_take(built, storage):
    """Background too: with nothing but foreground it had a quarter of them."""
    trainer, _ = built
    model = trainer._trainer.model
    batch = worst_batch.build(trainer.batch, [9, 9], 160, 128)
    with worst_batch.most_foreground(model):
        model(batch)
    written = {name: value for name, (value, _) in storage.latest().items()}
    found = written["roi_head/num_fg_samples"] + written["roi_head/num_bg_samples"]
    assert found == model.roi_heads.batch_size_per_image


def test_a_model_that_proposes_little_yet_is_tried_with_what_it_may_propose(built, storage):
    trainer, _ = built
    model = trainer._trainer.model
    batch = worst_batch.build(trainer.batch, [3, 3], 160, 128)
    with worst_batch.most_foreground(model):
        inner = model.roi_heads.label_and_sample_proposals
        object.__setattr__(
            model.roi_heads,
            "label_and_sample_proposals",
            lambda proposals, targets: inner([one[:2] for one in proposals], targets),
        )
        model(batch)
    written = {name: value for name, (value, _) in storage.latest().items()}
    found = written["roi_head/num_fg_samples"] + written["roi_head/num_bg_samples"]
    assert found == model.roi_heads.batch_size_per_image


def test_out_of_memory_is_a_result_and_leaves_all_as_it_was(built, storage):
    trainer, _ = built
    model = trainer._trainer.model
    before, _ = state_of(model)

    def limited(module, arguments, output):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    handle = model.backbone.register_forward_hook(limited)
    meter = Meter()
    try:
        (told,) = worst_batch.measure(model, [trial(trainer)], meter, contextlib.nullcontext)
    finally:
        handle.remove()
    assert told["oom"] is True
    assert "peak_allocated_mib" not in told
    assert meter.ended == 1
    after, _ = state_of(model)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_another_error_of_the_model_is_raised(built, storage):
    trainer, _ = built
    model = trainer._trainer.model

    def broken(module, arguments, output):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    handle = model.backbone.register_forward_hook(broken)
    try:
        with pytest.raises(RuntimeError, match="mat1"):
            worst_batch.measure(model, [trial(trainer)], Meter(), contextlib.nullcontext)
    finally:
        handle.remove()


def test_what_is_larger_in_everything_than_what_did_not_fit_is_not_tried(built, storage):
    trainer, _ = built
    model = trainer._trainer.model
    seen = []

    def limited(module, arguments):
        seen.append(tuple(arguments[0].shape))
        if arguments[0].shape[0] > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    handle = model.backbone.register_forward_pre_hook(limited)
    sizes = [(1, 128), (2, 128), (1, 160), (2, 160)]
    try:
        told = worst_batch.measure(
            model, [trial(trainer, *one) for one in sizes], Meter(), contextlib.nullcontext
        )
    finally:
        handle.remove()
    assert [one.get("oom", False) for one in told] == [False, True, False, True]
    assert told[3]["tried"] is False
    assert [shape[0] for shape in seen] == [1, 1, 2, 1, 1]


def test_the_gradients_of_one_pass_are_there_during_the_next_forward(built, storage):
    """As in Detectron2, whose optimizer forgets them between forward and backward."""
    trainer, _ = built
    model = trainer._trainer.model
    parameter = next(p for p in model.parameters() if p.requires_grad)
    present = []
    handle = model.register_forward_pre_hook(lambda *_: present.append(parameter.grad is not None))
    try:
        worst_batch.measure(model, [trial(trainer)], Meter(), contextlib.nullcontext)
    finally:
        handle.remove()
    assert present == [False, True]


def test_trials_differ_in_images_in_area_and_in_objects(built):
    trainer, session = built
    shapes = session.data_sets[0]["shapes"]
    trials = extremes.design(trainer.batch, shapes, 160, 128, 32)
    sizes = [one.size for one in trials]
    assert {one["images"] for one in sizes} == {2, 4}
    assert len({one["padded_pixels"] for one in sizes}) == 3
    assert len({one["instances"] for one in sizes if one["images"] == 4}) == 3
    worst = sizes[-1]
    assert all(worst[name] == max(one[name] for one in sizes) for name in worst)
    made = trials[-2].batch()
    counts = [len(one["instances"]) for one in made]
    assert (sum(counts), max(counts)) == (sizes[-2]["instances"], sizes[-2]["most_instances"])


def test_keypoints_are_visible_in_the_boxes_that_were_stretched():
    """A keypoint head leaves out the regions without any, and its memory with them."""
    from detectron2.structures import Boxes, Instances, Keypoints

    boxes = torch.tensor([[10.0, 10.0, 30.0, 40.0], [50.0, 60.0, 70.0, 90.0]])
    keypoints = torch.tensor([[[20.0, 20.0, 2.0], [25.0, 30.0, 1.0]], [[0.0, 0.0, 0.0]] * 2])
    found = Instances((100, 80), gt_boxes=Boxes(boxes), gt_classes=torch.zeros(2).long())
    found.gt_keypoints = Keypoints(keypoints)
    sample = {"image": torch.zeros(3, 100, 80, dtype=torch.uint8), "instances": found}
    (made,) = worst_batch.build([sample], [3], 800, 960)
    corners, points = made["instances"].gt_boxes.tensor, made["instances"].gt_keypoints.tensor
    assert corners[0].tolist() == [120.0, 80.0, 360.0, 320.0]
    assert (points[..., 2] == 2).all()
    assert (points[..., :2] > corners[:, None, :2]).all()
    assert (points[..., :2] < corners[:, None, 2:]).all()
    assert found.gt_keypoints.tensor.tolist() == keypoints.tolist()


def test_a_batch_of_one_image_is_tried_once_in_each_size(built):
    """The objects of the others, which there are none of, make no other batch."""
    trainer, session = built
    one = trainer.batch[:1]
    trials = extremes.design(one, session.data_sets[0]["shapes"], 160, 128, 32)
    sizes = [tuple(trial.size.items()) for trial in trials]
    assert len(sizes) == len(set(sizes)) == 5


def test_where_the_largest_does_not_fit_the_limit_is_looked_at_from_near(built, storage):
    trainer, session = built
    limit = 4 * 130 * 128

    def limited(module, arguments):
        images, _, height, width = arguments[0].shape
        if images * height * width > limit:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    handle = trainer._trainer.model.backbone.register_forward_pre_hook(limited)
    try:
        facts = extremes.measure(session, trainer, trainer._trainer, trainer.batch, Meter())
    finally:
        handle.remove()
    told = trials_of(session)
    assert facts["worst_batch_oom"] is True
    assert "worst_batch_mib" not in facts
    fitted = [one["padded_pixels"] for one in told if one["images"] == 4 and "oom" not in one]
    assert (
        max(fitted)
        == 128 * 128
        < 160 * 128
        == min(one["padded_pixels"] for one in told if one.get("oom"))
    )


def trial(trainer, images=2, height=160):
    size = {"images": images, "padded_pixels": height * 128, "instances": 9 * images}
    size["most_instances"] = 9
    return worst_batch.Trial(
        size, lambda: worst_batch.build(trainer.batch, [9] * images, height, 128)
    )


def trials_of(session):
    """The trials recorded by the latest measurement, each with its number."""
    lines = (Path(session.plan.folder) / wire.RECORDS).read_text().splitlines()
    found = [wire.decode(line) for line in lines]
    last = max(at for at, record in enumerate(found) if "gpu_total_mib" in record.get("facts", {}))
    trials = [record for record in found[last:] if record["t"] == "trial"]
    return [dict(record, number=number) for number, record in enumerate(trials, 1)]


@pytest.mark.parametrize(
    "words",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "Unable to find a valid cuDNN algorithm to run convolution",
        "GET was unable to find an engine to execute this computation",
    ],
)
def test_libraries_that_find_no_room_are_out_of_memory(words):
    assert worst_batch.is_out_of_memory(RuntimeError(words))
    assert not worst_batch.is_out_of_memory(
        RuntimeError("CUDA error: device-side assert triggered")
    )
