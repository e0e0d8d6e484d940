"""The largest batch, tried on the micro Mask R-CNN with a meter of our own."""

from __future__ import annotations

import contextlib
import json

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("detectron2")

from d2check.probe import extremes  # noqa: E402  (imports torch)
from d2check.probe.phases import worst_batch  # noqa: E402
from d2check.probe.plan import Plan  # noqa: E402
from d2check.probe.recorder import Recorder  # noqa: E402
from d2check.probe.session import Session  # noqa: E402

pytestmark = pytest.mark.training


class Meter:
    """Counts what the model asks for, in place of an allocator."""

    def __init__(self, device=None):
        self.begun = self.ended = False

    def begin(self):
        self.begun = True

    def peak_mib(self):
        return 123.0

    def end(self):
        self.ended = True


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
    dicts = json.loads((demo / "train.json").read_text())
    counts = [0] * len(dicts["images"])
    for annotation in dicts["annotations"]:
        counts[annotation["image_id"]] += 1
    shapes = [(i["height"], i["width"], n) for i, n in zip(dicts["images"], counts, strict=True)]
    entry = {"names": list(cfg.DATASETS.TRAIN), "images": len(shapes), "shapes": shapes}
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
    facts = extremes.measure(session, trainer, trainer._trainer, trainer.batch, Meter, on_cpu=True)
    after, gradients_after = state_of(model)
    assert facts["worst_batch_mib"] == 123.0
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
    facts = extremes.measure(session, trainer, trainer._trainer, trainer.batch, Meter, on_cpu=True)
    assert facts["worst_batch_objects"] == max(n for _, _, n in shapes)
    assert facts["worst_batch_height"] >= 128
    assert facts["worst_batch_height"] <= 192
    seen = max(s["image"].shape[-1] for s in trainer.batch)
    assert facts["worst_batch_width"] >= seen or facts["worst_batch_height"] > 128


def test_every_roi_head_gets_all_the_foreground_that_it_may_sample(built, storage):
    trainer, _ = built
    model = trainer._trainer.model
    batch = worst_batch.build(trainer.batch, 2, 160, 128, 9)
    with worst_batch.most_foreground(model):
        model(batch)
    most = model.roi_heads.batch_size_per_image * model.roi_heads.positive_fraction
    assert storage.latest()["roi_head/num_fg_samples"][0] == most


def test_out_of_memory_is_a_result_and_leaves_all_as_it_was(built, storage):
    trainer, _ = built
    model = trainer._trainer.model
    before, _ = state_of(model)

    def limited(module, arguments, output):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    handle = model.backbone.register_forward_hook(limited)
    meter = Meter()
    batch = worst_batch.build(trainer.batch, 2, 160, 128, 9)
    try:
        facts = worst_batch.measure(model, batch, meter, contextlib.nullcontext)
    finally:
        handle.remove()
    assert facts["worst_batch_oom"] is True
    assert "worst_batch_mib" not in facts
    assert meter.ended
    after, _ = state_of(model)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_another_error_of_the_model_is_raised(built, storage):
    trainer, _ = built
    model = trainer._trainer.model

    def broken(module, arguments, output):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    handle = model.backbone.register_forward_hook(broken)
    batch = worst_batch.build(trainer.batch, 1, 128, 128, 1)
    try:
        with pytest.raises(RuntimeError, match="mat1"):
            worst_batch.measure(model, batch, Meter(), contextlib.nullcontext)
    finally:
        handle.remove()


def test_on_the_processor_it_is_not_tried(built):
    trainer, session = built
    with pytest.raises(extremes.NotPossible, match="CPU"):
        extremes.measure(session, trainer, trainer._trainer, trainer.batch)


def test_wide_and_tall_images_meet_only_without_grouping():
    shapes = [(400, 800, 1), (800, 400, 1)]
    assert sorted(worst_batch.largest_size(shapes, 200, 1000, grouping=True)) == [200, 400]
    assert worst_batch.largest_size(shapes, 200, 1000, grouping=False) == (400, 400)


def test_the_long_side_stays_below_its_limit():
    assert worst_batch.largest_size([(100, 1000, 1)], 800, 1333, grouping=True) == (133, 1333)
