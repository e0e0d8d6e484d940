"""NaN and infinity that end a training in other words than Detectron2's own loop has for them."""

from __future__ import annotations

import pytest

from d2check.harness.classify import crash_kind
from d2check.model import EndingKind
from d2check.probe import failure


def of_a_script(finite):
    losses = {"loss_cls": "tensor(nan)"}
    assert isfinite(finite), losses


def isfinite(value):
    return value


class Boxes:
    """A matcher's cost, given boxes whose corners are NaN."""

    def __init__(self, ordered):
        self.ordered = ordered

    def __getitem__(self, key):
        return self

    def __ge__(self, other):
        return self

    def all(self):
        return self.ordered


def generalized_box_iou(boxes1, boxes2):
    assert (boxes1[:, 2:] >= boxes1[:, :2]).all()
    assert (boxes2[:, 2:] >= boxes2[:, :2]).all()


def giou_loss(x1, x2):
    assert (x2 >= x1).all(), "bad box: x1 larger than x2"


def caught(function, *arguments):
    with pytest.raises(AssertionError) as raised:
        function(*arguments)
    return raised.value


@pytest.mark.parametrize(
    ("broken", "line"),
    [
        (caught(of_a_script, False), "assert isfinite(finite), losses"),
        (
            caught(generalized_box_iou, Boxes(False), Boxes(True)),
            "assert (boxes1[:, 2:] >= boxes1[:, :2]).all()",
        ),
        (
            caught(giou_loss, Boxes(False), Boxes(False)),
            'assert (x2 >= x1).all(), "bad box: x1 larger than x2"',
        ),
    ],
)
def test_an_assertion_that_numbers_are_finite_tells_that_they_are_not(broken, line):
    assert failure.is_non_finite(broken)
    told = failure.describe(broken)
    assert told["message"].startswith(f"NaN or infinity: {line}")
    assert crash_kind(told["error"], told["message"]) is EndingKind.NON_FINITE


def test_the_losses_that_a_script_tells_are_kept():
    told = failure.describe(caught(of_a_script, False))
    assert "{'loss_cls': 'tensor(nan)'}" in told["message"]


def test_labels_whose_corners_are_in_disorder_are_no_nan():
    broken = caught(generalized_box_iou, Boxes(True), Boxes(False))
    assert not failure.is_non_finite(broken)
    assert "NaN" not in failure.describe(broken)["message"]


@pytest.mark.parametrize(
    ("error", "non_finite"),
    [
        (FloatingPointError("Loss became infinite or NaN at iteration=3!"), True),
        (AssertionError("Predicted boxes or scores contain Inf/NaN. Training has diverged."), True),
        (ValueError("matrix contains invalid numeric entries"), True),
        (RuntimeError("The total norm of order 2.0 for gradients is non-finite"), True),
        (ValueError("need at least one array to concatenate"), False),
        (AssertionError("expected nanometres"), False),
    ],
)
def test_the_words_of_libraries_are_known(error, non_finite):
    assert failure.is_non_finite(error) is non_finite


TRAINS = """
import sys
config, setup = sys.argv[1:]
sys.path.insert(0, setup)
import demo_setup
import torch
from detectron2.config import get_cfg
from detectron2.data import build_detection_train_loader
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
cfg = get_cfg()
cfg.merge_from_file(config)
cfg.MODEL.DEVICE = "cpu"
model = build_model(cfg)
optimizer = torch.optim.SGD(model.parameters(), 1e-4)
with EventStorage(0) as storage:
    for batch in build_detection_train_loader(cfg):
        storage.step()
        if storage.iter == 3:
            batch[0]["image"] = batch[0]["image"].float() * float("nan")
        losses = model(batch)
        total = sum(losses.values())
        assert torch.isfinite(total).all(), losses
        storage.put_scalars(total_loss=total, lr=1e-4)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
"""


@pytest.mark.training
def test_a_loop_of_its_own_names_the_images_over_which_it_broke(train):
    ran = train.script(TRAINS, str(train.demo / "config.yaml"), str(train.demo), iterations=6)
    assert ran.end["kind"] == "crashed"
    assert len(ran.end["batch_files"]) == 4
    assert ran.facts["batch_not_finite"] == 1
    assert "(image)" in ran.facts["batch_not_finite_named"]
    assert ran.facts["groups_not_finite"] == 0
    assert ran.notes("dataset")[0]["instances"]
