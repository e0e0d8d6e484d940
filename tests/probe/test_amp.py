"""What is recorded of a training in mixed precision: steps, the scaler's scale, gradients.

Detectron2's AMPTrainer insists on CUDA. Here it is told that there is one; its loop and torch's
scaler are the real ones, on the processor.
"""

from __future__ import annotations

import contextlib

import pytest

torch = pytest.importorskip("torch")
train_loop = pytest.importorskip("detectron2.engine.train_loop")

from detectron2.utils.events import EventStorage  # noqa: E402

from d2check.probe import wire  # noqa: E402
from d2check.probe.iteration import IterationProbe, make_hooks  # noqa: E402
from d2check.probe.plan import Plan  # noqa: E402
from d2check.probe.recorder import Recorder  # noqa: E402
from d2check.probe.session import Session  # noqa: E402
from d2check.probe.stopping import StopRule  # noqa: E402

OVERFLOWS_AT = (2, 3)  # iterations


class Model(torch.nn.Module):
    """Its loss is finite in every iteration; in some its gradients overflow."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((4,), 2.0))
        self.iteration = -1

    def forward(self, batch):
        self.iteration += 1
        loss = self.weight.sum()
        if self.iteration in OVERFLOWS_AT:
            loss = loss + (self.weight * 0).sqrt().sum()  # finite, with an infinite slope
        return {"loss": loss}


@pytest.fixture(params=[False, True], ids=["usual", "fused"])
def records(tmp_path, monkeypatch, request):
    """Eight iterations with a scaler that begins at 1024; a fused optimizer unscales by itself."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.amp.autocast", contextlib.nullcontext)
    if not hasattr(torch.amp, "GradScaler"):
        pytest.skip("torch before 2.3 has no scaler for the processor")
    model = Model()
    try:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, fused=request.param)
    except (RuntimeError, TypeError) as error:
        pytest.skip(f"this torch has no fused optimizer for the processor: {error}")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    loader = [[{"image": torch.zeros(3, 8, 8)}]] * 20
    trainer = train_loop.AMPTrainer(model, loader, optimizer, scaler)
    session = Session(
        Plan({"folder": str(tmp_path), "grad_norm_every": 1}), Recorder(str(tmp_path))
    )
    session.recorder.open(0)
    with EventStorage(0) as trainer.storage:
        probe = IterationProbe(session, trainer, StopRule(str(tmp_path / "stop"), None, None))
        trainer.register_hooks(make_hooks(train_loop.HookBase, probe, lambda reason: None))
        probe.attach()
        for trainer.iter in range(8):
            trainer.before_step()
            trainer.run_step()
            trainer.after_step()
        probe.flush()
        probe.detach()
    lines = (tmp_path / wire.RECORDS).read_text().splitlines()
    return [record for record in map(wire.decode, lines) if record["t"] == "iter"]


def test_steps_that_the_scaler_leaves_out_are_told(records):
    skipped = [record["i"] for record in records if record["skipped_step"]]
    assert skipped == list(OVERFLOWS_AT)
    assert all("skipped_step" in record for record in records)
    assert all(record["scalars"]["total_loss"] < 9 for record in records)  # the log shows nothing


def test_the_scale_is_told_beside_each_step_that_was_made(records):
    """Read without waiting for the GPU: the tensor is kept, and read when the record is written."""
    told = {record["i"]: record.get("grad_scale") for record in records}
    assert told[0] == told[1] == 1024
    assert told[4] == told[7] == 256  # halved by each overflow


def test_gradients_are_measured_without_the_scale(records):
    """The sum of four weights has a slope of 1 in each: a norm of 2."""
    assert records[0]["grad_norm"] == pytest.approx(2.0)
    assert records[7]["grad_norm"] == pytest.approx(2.0)


def test_a_worst_batch_is_tried_in_the_precision_of_the_scripts_own_steps(tmp_path):
    class Halved(train_loop.SimpleTrainer):
        def run_step(self):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                super().run_step()

    model = Model()
    loader = [[{"image": torch.zeros(3, 8, 8)}]] * 3
    trainer = Halved(model, loader, torch.optim.SGD(model.parameters(), lr=0.01))
    plan = {"folder": str(tmp_path), "phases": [{"name": "worst-batch", "meter": "host"}]}
    session = Session(Plan(plan), Recorder(str(tmp_path)))
    session.recorder.open(0)
    probe = IterationProbe(session, trainer, StopRule(str(tmp_path / "stop"), None, None))
    probe.attach()
    with EventStorage(0) as trainer.storage:
        trainer.iter = 0
        probe.before_hooks()
        probe.before_run()
        trainer.run_step()
    with probe._autocast():
        assert torch.get_autocast_dtype("cpu") is torch.bfloat16
        assert torch.is_autocast_enabled("cpu")
    probe.detach()
