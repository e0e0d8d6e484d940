"""The probe in training loops that no TrainerBase runs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from d2check.probe import plain_loop, wire
from d2check.probe.plan import Plan
from d2check.probe.recorder import Recorder
from d2check.probe.seen import Seen
from d2check.probe.session import Session
from d2check.probe.stopping import LeaveScript

pytestmark = pytest.mark.training

PREPARE = """
import sys
config, setup = sys.argv[1:]
sys.path.insert(0, setup)
import demo_setup
import torch
from detectron2.config import get_cfg
from detectron2.data import build_detection_train_loader
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils.events import EventStorage
cfg = get_cfg()
cfg.merge_from_file(config)
cfg.MODEL.DEVICE = "cpu"
model = build_model(cfg)
optimizer = build_optimizer(cfg, model)
scheduler = build_lr_scheduler(cfg, optimizer)
batches = iter(build_detection_train_loader(cfg))

def learn(storage, batch):
    losses = model(batch)
    total = sum(losses.values())
    storage.put_scalar("total_loss", total)
    storage.put_scalar("lr", optimizer.param_groups[0]["lr"])
    optimizer.zero_grad()
    total.backward()
    optimizer.step()
    scheduler.step()
"""

SETS_ITER = (
    PREPARE
    + """
with EventStorage() as probing:  # a single pass, as for a check of the model: no training
    model(next(batches))
with EventStorage(0) as storage:
    for i in range(300):
        batch = next(batches)
        storage.iter = i
        learn(storage, batch)
print("EXPORTED")
"""
)

STEPS = (
    PREPARE
    + """
with EventStorage(0) as storage:
    for i in range(4):
        storage.step()
        learn(storage, next(batches))
        if i == 3 and LAST == "crash":
            raise ValueError("boxes are upside down")
print("EXPORTED")
"""
)


def arguments(train):
    return [str(train.demo / "config.yaml"), str(train.demo)]


def test_iterations_times_and_the_end_are_seen_by_the_event_storage(train):
    ran = train.script(SETS_ITER, *arguments(train), iterations=4)
    assert ran.status == 0, ran.stderr
    assert ran.end["reason"] == "iterations"
    records = ran.of("iter")
    assert [record["i"] for record in records] == [0, 1, 2, 3]
    for record in records:
        assert record["scalars"]["total_loss"] > 0
        assert record["batch"]["images"] == 4
        assert record["forward_s"] > 0
        assert record["backward_s"] > 0
        assert record["data_s"] > 0
    assert len({record["scalars"]["lr"] for record in records}) == 4
    assert ran.facts["images"] == 50
    assert ran.facts["images_per_batch"] == 4
    # Of four batches of four images, as many as there was time for.
    assert ran.facts["drawn_followed"] >= 0.75 * ran.facts["drawn_compared"] > 0
    assert len(ran.notes("own-loop")) == 1
    assert "after the training" in " ".join(n["message"] for n in ran.notes("neutralised"))
    assert "EXPORTED" not in ran.stdout
    assert (ran.folder / "config.yaml").is_file()


@pytest.mark.parametrize(("last", "kind"), [("end", "finished"), ("crash", "crashed")])
def test_the_last_iteration_and_a_crash_are_recorded(train, last, kind):
    source = STEPS.replace("LAST", repr(last))
    ran = train.script(source, *arguments(train))
    assert ran.end["kind"] == kind
    assert ran.end["i"] == 4
    whole = [1, 2, 3, 4] if last == "end" else [1, 2, 3]
    assert [record["i"] for record in ran.of("iter")] == whole
    assert ran.status == (0 if last == "end" else 1)
    assert "EXPORTED" not in ran.stdout
    if last == "crash":
        assert ran.end["error"] == "ValueError"
        assert ran.end["traceback"][-1][2] == "<module>"


NO_STORAGE_AROUND = (
    PREPARE
    + """
for batch in batches:
    with EventStorage(0) as storage:  # of each iteration anew, so that none is the first
        learn(storage, batch)
print("EXPORTED")
"""
)


def test_a_loop_that_cannot_be_seen_is_ended_and_told_what_to_do(train):
    source = NO_STORAGE_AROUND.replace(
        "for batch in",
        "model.forward = lambda batch: {'loss': next(model.parameters()).sum()}\nfor batch in",
    )
    ran = train.script(source, *arguments(train), iterations=5)
    assert ran.status == 0, ran.stderr
    assert ran.end["kind"] == "unseen"
    assert "made 100 steps of its optimizer" in ran.end["message"]
    assert "EventStorage" in ran.end["message"]
    assert "EXPORTED" not in ran.stdout


def test_what_a_script_fits_before_it_trains_is_no_loop_of_its_own(train):
    other = """
other = torch.nn.Linear(2, 1)
fits = torch.optim.SGD(other.parameters(), 0.1)
for _ in range(500):
    other(torch.ones(2)).backward()
    fits.step()
"""
    ran = train.script(
        SETS_ITER.replace("with EventStorage(0)", other + "with EventStorage(0)"),
        *arguments(train),
        iterations=2,
    )
    assert ran.end["reason"] == "iterations"
    assert len(ran.of("iter")) == 2


def test_a_phase_that_a_loop_of_its_own_leaves_out_is_told_once(train):
    phases = [{"name": "as-configured", "iterations": 2}, {"name": "worst-batch", "iterations": 0}]
    ran = train.script(SETS_ITER, *arguments(train), iterations=2, phases=phases)
    assert [note["phase"] for note in ran.notes("phase-skipped")] == ["worst-batch"]


def optimizers_before_torch_2():
    """An optimizer of a torch that has no hooks of all optimizers, and two made of it."""

    class Sgd:
        def __init__(self, *parameters):
            self.param_groups = [{"params": list(parameters)}]

        def step(self, closure=None):
            return "stepped"

    class Clipping(Sgd):  # as Detectron2 makes one for gradient clipping
        def step(self, closure=None):
            return super().step(closure)

    class Inherits(Sgd):
        pass

    return Sgd, Clipping, Inherits


@pytest.fixture
def counting(tmp_path):
    """What counts the steps of three such optimizers, their classes, and the records."""
    classes = optimizers_before_torch_2()
    recorder = Recorder(str(tmp_path))
    seen = Seen()
    seen.model = SimpleNamespace(parameters=lambda: iter(["weight"]))
    session = Session(Plan({"folder": str(tmp_path), "iterations": 5}), recorder)
    plain_loop._watch_optimizers(SimpleNamespace(Optimizer=classes[0]), session, seen)
    return seen, classes, tmp_path / wire.RECORDS


def test_steps_are_counted_where_torch_has_no_hooks_of_all_optimizers(counting):
    _, classes, records = counting
    made = [cls("weight") for cls in (*classes, *classes)]
    for step in range(99):
        assert made[step % len(made)].step() == "stepped"
    with pytest.raises(LeaveScript):
        made[1].step()
    assert "made 100 steps of its optimizer" in records.read_text()


def test_steps_are_not_counted_any_more_once_a_loop_is_seen(counting):
    seen, classes, records = counting
    optimizer = classes[1]("weight")
    optimizer.step()
    seen.stop_counting()
    assert {optimizer.step() for _ in range(300)} == {"stepped"}
    assert not records.exists()
