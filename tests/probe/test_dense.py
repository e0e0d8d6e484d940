"""What is told of a dense detector's anchors: how many objects are found, and named rightly."""

from __future__ import annotations

import copy
import pickle

import pytest

from d2check.probe import dense, wire

torch = pytest.importorskip("torch")
retinanet = pytest.importorskip("detectron2.modeling.meta_arch.retinanet")

from detectron2.engine import train_loop  # noqa: E402
from detectron2.layers import ShapeSpec  # noqa: E402
from detectron2.modeling import Backbone  # noqa: E402
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator  # noqa: E402
from detectron2.modeling.box_regression import Box2BoxTransform  # noqa: E402
from detectron2.modeling.matcher import Matcher  # noqa: E402
from detectron2.structures import Boxes, Instances  # noqa: E402
from detectron2.utils.events import EventStorage  # noqa: E402

from d2check.probe.iteration import IterationProbe, make_hooks  # noqa: E402
from d2check.probe.plan import Plan  # noqa: E402
from d2check.probe.recorder import Recorder  # noqa: E402
from d2check.probe.session import Session  # noqa: E402
from d2check.probe.stopping import StopRule  # noqa: E402

CLASSES = 3
SHAPES = {"p3": ShapeSpec(channels=4, stride=8), "p4": ShapeSpec(channels=4, stride=16)}
PIXELS = {"pixel_mean": [0.0] * 3, "pixel_std": [1.0] * 3}


class TinyBackbone(Backbone):
    """Two levels, of one convolution each."""

    def __init__(self):
        super().__init__()
        self.p3 = torch.nn.Conv2d(3, 4, 8, stride=8)
        self.p4 = torch.nn.Conv2d(3, 4, 16, stride=16)

    def forward(self, image):
        return {"p3": self.p3(image), "p4": self.p4(image)}

    def output_shape(self):
        return SHAPES


def make_retinanet(cls=retinanet.RetinaNet):
    """A real RetinaNet of a few hundred weights."""
    torch.manual_seed(0)
    shapes = list(SHAPES.values())
    anchors = DefaultAnchorGenerator(sizes=[[16], [32]], aspect_ratios=[1.0], strides=[8, 16])
    head = retinanet.RetinaNetHead(
        input_shape=shapes, num_classes=CLASSES, num_anchors=1, conv_dims=[4]
    )
    return cls(
        backbone=TinyBackbone(),
        head=head,
        head_in_features=["p3", "p4"],
        anchor_generator=anchors,
        box2box_transform=Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
        anchor_matcher=Matcher([0.4, 0.5], [0, -1, 1], allow_low_quality_matches=True),
        num_classes=CLASSES,
        **PIXELS,
    )


def make_fcos():
    fcos = pytest.importorskip("detectron2.modeling.meta_arch.fcos")
    torch.manual_seed(0)
    head = fcos.FCOSHead(input_shape=list(SHAPES.values()), num_classes=CLASSES, conv_dims=[4])
    return fcos.FCOS(
        backbone=TinyBackbone(),
        head=head,
        head_in_features=["p3", "p4"],
        num_classes=CLASSES,
        **PIXELS,
    )


def batch(objects=(2, 0)):
    """Two images of 64 pixels with so many objects."""
    samples = []
    for count in objects:
        instances = Instances((64, 64))
        boxes = [[4.0, 4, 22, 22], [30, 30, 60, 60]][:count]
        instances.gt_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
        instances.gt_classes = torch.tensor([1, 2][:count], dtype=torch.int64)
        samples.append({"image": torch.rand(3, 64, 64), "instances": instances})
    return samples


def train(model, folder, *, iterations=dense.EVERY + 1, objects=(2, 0), phases=()):
    """Records of some iterations of a SimpleTrainer with the probe on, and what else came."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    trainer = train_loop.SimpleTrainer(model, [batch(objects)] * (iterations + 1), optimizer)
    session = Session(Plan({"folder": str(folder), "phases": list(phases)}), Recorder(str(folder)))
    session.recorder.open(0)
    with EventStorage(0) as trainer.storage:
        probe = IterationProbe(session, trainer, StopRule(str(folder / "stop"), None, None))
        trainer.register_hooks(make_hooks(train_loop.HookBase, probe, lambda reason: None))
        probe.attach()
        probe.course.begin(0)
        for trainer.iter in range(iterations):
            trainer.before_step()
            trainer.run_step()
            trainer.after_step()
        probe.flush()
        probe.detach()
        written = set(trainer.storage.latest())
    lines = (folder / wire.RECORDS).read_text().splitlines()
    records = [wire.decode(line) for line in lines]
    return records, written


def looks(records):
    """Iteration -> what was told of the anchors in it."""
    return {
        record["i"]: {
            name: value for name, value in record["scalars"].items() if name.startswith("dense/")
        }
        for record in records
        if record["t"] == "iter" and "dense/fg_anchors" in record["scalars"]
    }


@pytest.mark.parametrize(
    ("make", "objects"),
    [(make_retinanet, (2, 0)), (make_fcos, (2, 1))],  # FCOS of v0.6 fails without an object
    ids=["RetinaNet", "FCOS"],
)
def test_a_dense_head_is_looked_at_every_so_often_and_left_as_it_was(make, objects, tmp_path):
    model = make()
    original = type(model).losses
    records, written = train(model, tmp_path, objects=objects)
    told = looks(records)
    assert list(told) == [0, dense.EVERY]
    assert set(told[0]) == {dense.PREFIX + name for name in dense.NAMES}
    anchors = {r["i"]: r["scalars"]["num_pos_anchors"] for r in records if r["t"] == "iter"}
    assert told[0]["dense/fg_anchors"] == 2 * anchors[0]  # Detectron2 tells them per image
    assert 0 <= told[0]["dense/fg_cls_accuracy"] <= 1
    assert 0 <= told[0]["dense/fg_found"] <= 1
    assert not any(name.startswith("dense/") for name in written)  # the user's log is his own
    assert type(model).losses is original
    assert "losses" not in vars(model)


def test_in_a_ramp_every_iteration_is_looked_at(tmp_path):
    phases = [{"name": "as-configured", "iterations": 3}, {"name": "ramp", "iterations": 6}]
    records, _ = train(make_retinanet(), tmp_path, iterations=9, phases=phases)
    assert list(looks(records)) == [0, *range(3, 9)]


def test_losses_and_random_numbers_are_those_of_a_training_without_the_probe(tmp_path):
    model = make_retinanet()
    alone = copy.deepcopy(model)
    given = batch()
    look = dense.DenseHead(lambda: True, pytest.fail)
    undo = look.attach(model)
    with EventStorage(0):
        torch.manual_seed(3)
        watched = model(given)
        after = torch.rand(1)
        undo()
        torch.manual_seed(3)
        unwatched = alone(given)
    assert after == torch.rand(1)
    assert {k: v.item() for k, v in watched.items()} == {k: v.item() for k, v in unwatched.items()}
    assert all(loss.requires_grad for loss in watched.values())
    assert look.take() is not None
    assert look.take() is None


def test_a_batch_without_objects_tells_nothing(tmp_path):
    records, _ = train(make_retinanet(), tmp_path, objects=(0, 0))
    assert looks(records) == {}
    assert [r for r in records if r["t"] == "note"] == []


class OtherSignature(retinanet.RetinaNet):
    """As a project's own head would have it."""

    def forward_training(self, images, features, predictions, gt_instances):
        return self.losses({"all": predictions})

    def losses(self, everything):
        return {"loss_cls": sum(level.mean() for level in everything["all"][0])}


class HandsOn(retinanet.RetinaNet):
    """Another signature, and the parent's losses in it."""

    def forward_training(self, images, features, predictions, gt_instances):
        logits, deltas = self._transpose_dense_predictions(predictions, [CLASSES, 4])
        return self.losses(self.anchor_generator(features), gt_instances, logits, deltas)

    def losses(self, anchors, gt_instances, logits, deltas):
        labels, boxes = self.label_anchors(anchors, gt_instances)
        return super().losses(anchors, logits, labels, pred_anchor_deltas=deltas, gt_boxes=boxes)


class OneHot(retinanet.RetinaNet):
    """The same names, and labels of another kind."""

    def label_anchors(self, anchors, gt_instances):
        labels, boxes = super().label_anchors(anchors, gt_instances)
        return [torch.nn.functional.one_hot(label.clamp(0), CLASSES + 1) for label in labels], boxes

    def losses(self, anchors, pred_logits, gt_labels, pred_anchor_deltas, gt_boxes):
        return {"loss_cls": sum(level.mean() for level in pred_logits)}


@pytest.mark.parametrize(("cls", "seen"), [(OtherSignature, 0), (HandsOn, 2), (OneHot, 0)])
def test_losses_of_ones_own_are_told_where_they_are_as_expected(cls, seen, tmp_path):
    before = [vars(each).get("losses") for each in cls.__mro__]
    records, _ = train(make_retinanet(cls), tmp_path)
    assert len(looks(records)) == seen
    iterations = [r for r in records if r["t"] == "iter"]
    assert len(iterations) == dense.EVERY + 1
    assert "total_loss" in iterations[0]["scalars"]
    assert [r for r in records if r["t"] == "note"] == []
    assert [vars(each).get("losses") for each in cls.__mro__] == before


def test_an_error_in_a_look_is_noted_and_ends_the_looks_alone(tmp_path, monkeypatch):
    def broken(pred_logits, gt_labels):
        raise RuntimeError("no such thing")

    monkeypatch.setattr(dense, "measure", broken)
    records, _ = train(make_retinanet(), tmp_path)
    notes = [r["message"] for r in records if r["t"] == "note"]
    assert notes == ["scores of anchors could not be looked at: no such thing"]
    assert len([r for r in records if r["t"] == "iter"]) == dense.EVERY + 1


def test_a_model_without_such_losses_is_not_touched():
    assert dense.DenseHead(lambda: True, pytest.fail).attach(torch.nn.Linear(2, 1)) is None


def test_of_a_model_in_a_wrapper_only_that_model_is_looked_at():
    class Wrapped(torch.nn.Module):
        """As DistributedDataParallel."""

        def __init__(self, module):
            super().__init__()
            self.module = module

    student, teacher = make_retinanet(), make_retinanet()
    look = dense.DenseHead(lambda: True, pytest.fail)
    undo = look.attach(Wrapped(student))
    copied = copy.deepcopy(student)
    with EventStorage(0):
        teacher(batch())
        copied(batch())
        assert look.take() is None
        pickle.dumps(student)
        student(batch())
    undo()
    assert look.take() is not None


LABELS = [torch.tensor([0, 2, 3, -1, 1, 3, 3, 3]), torch.tensor([3] * 7 + [2])]


def scores(*of_objects):
    """Two levels of 6 and 2 anchors; these rows at the four objects' anchors, low ones elsewhere.

    The anchor to be ignored scores highest of all.
    """
    whole = torch.full((2, 8, CLASSES), -5.0)
    whole[0, 3] = 9.0
    for (image, anchor), row in zip([(0, 0), (0, 1), (0, 4), (1, 7)], of_objects, strict=True):
        whole[image, anchor] = torch.tensor(row)
    return [whole[:, :6], whole[:, 6:]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_shares_are_of_the_objects_anchors_alone(dtype):
    rows = [[2.0, 0, 0], [0, 2, 0], [-9, -6, -8], [0, 0, 2.0]]  # right, wrong, right but low, right
    levels = [level.to(dtype) for level in scores(*rows)]
    told = dense.told(dense.measure(levels, LABELS))
    assert told["dense/fg_anchors"] == 4
    assert told["dense/fg_cls_accuracy"] == 0.75
    assert told["dense/fg_found"] == 0.75
    assert told["dense/fg_recognised"] == 0.5


def test_scores_at_anchors_are_those_of_all_levels_joined():
    generator = torch.Generator().manual_seed(1)
    levels = [torch.randn(3, size, 5, generator=generator) for size in (700, 90, 10, 1)]
    labels = torch.randint(-1, 40, (3, 801), generator=generator).clamp(max=5)
    joined = torch.cat(levels, 1)
    objects = (labels >= 0) & (labels < 5)
    told = dense.told(dense.measure(levels, list(labels)))
    right = joined[objects].argmax(1) == labels[objects]
    assert told["dense/fg_anchors"] == int(objects.sum())
    assert told["dense/fg_cls_accuracy"] == pytest.approx(right.float().mean().item())
    background = joined.amax(2)[labels == 5]
    level = background.quantile(0.95)
    found = (joined[objects].amax(1) > level).float().mean().item()
    assert told["dense/fg_found"] == pytest.approx(found, abs=0.1)  # of a sample of the background


@pytest.mark.parametrize(
    ("levels", "labels"),
    [
        ([], []),
        (torch.zeros(2, 8, 3), LABELS),
        ([torch.zeros(2, 9, 3)], LABELS),
        ([torch.zeros(1, 8, 3)], LABELS),
        ([torch.zeros(2, 8, 0)], LABELS),
        ([torch.zeros(2, 8, 3)], [label.float() for label in LABELS]),
    ],
)
def test_what_is_not_retinanets_is_left_alone(levels, labels):
    assert dense.measure(levels, labels) is None


@pytest.mark.parametrize("label", [3, 0], ids=["no object", "no background"])
def test_without_objects_or_background_nothing_is_told(label):
    seen = dense.measure([torch.zeros(2, 8, 3)], [torch.full((8,), label)] * 2)
    assert dense.told(seen) == {}
