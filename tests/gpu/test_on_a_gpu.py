"""The probe on a real GPU: what stand-ins cannot show. Skipped, and said so, where there is none.

Nobody has run these yet: whoever has a GPU runs them first (CONTRIBUTING.md).
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
import warnings

import pytest

torch = pytest.importorskip("torch")
train_loop = pytest.importorskip("detectron2.engine.train_loop")

from detectron2.config import get_cfg  # noqa: E402
from detectron2.data import build_detection_train_loader  # noqa: E402
from detectron2.modeling import build_model  # noqa: E402
from detectron2.solver import build_optimizer  # noqa: E402
from detectron2.utils.events import EventStorage  # noqa: E402

from d2check.probe import attach, nvml, run_config, wire  # noqa: E402
from d2check.probe.plan import KIND_HOOK, Plan  # noqa: E402
from d2check.probe.recorder import Recorder  # noqa: E402
from d2check.probe.session import Session  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.training,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
PROBE = "/d2check/probe/"
ITERATIONS = 40


def make_trainer(demo, *overrides, device="cuda", amp=False):
    """A trainer of the demo's model on a GPU, with four batches of four images."""
    run_config.load_setup(str(demo / "demo_setup.py"))
    cfg = get_cfg()
    cfg.merge_from_file(str(demo / "config.yaml"))
    cfg.merge_from_list(["MODEL.DEVICE", device, "DATALOADER.NUM_WORKERS", 0, *overrides])
    batches = list(itertools.islice(build_detection_train_loader(cfg), 4))
    loader = ([dict(sample) for sample in batch] for batch in itertools.cycle(batches))
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    kind = train_loop.AMPTrainer if amp else train_loop.SimpleTrainer
    return kind(model, loader, optimizer)


def train(trainer, folder, iterations=ITERATIONS):
    """Records of a training with every default on."""
    plan = {
        "folder": str(folder),
        "entry": {"kind": KIND_HOOK},
        "phases": [{"name": "as-configured", "iterations": 10**6}],
    }
    session = Session(Plan(plan), Recorder(str(folder)))
    session.recorder.open(0)
    training = attach.Training(session, trainer, train_loop.HookBase, 0, 1)
    trainer.max_iter = 10**6
    with EventStorage(0) as trainer.storage:
        training.begin(0, trainer.max_iter)
        for trainer.iter in range(iterations):
            trainer.before_step()
            trainer.run_step()
            trainer.after_step()
        training.end(None)
    records = [wire.decode(line) for line in (folder / wire.RECORDS).read_text().splitlines()]
    return [record for record in records if record["t"] == "iter"]


def place_in_probe():
    """The line of the probe that is being run; None inside of Detectron2."""
    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if PROBE in path:
            return f"{path.rpartition('/')[2]}:{frame.f_lineno}"
        if "/detectron2/" in path:
            return None
        frame = frame.f_back
    return None


def test_no_line_of_the_probe_waits_for_the_training(demo, tmp_path, monkeypatch):
    """By torch's own detector of synchronising calls; a stream beside the training's may wait."""
    waits = []

    def see(message, *_args, **_kwargs):
        if "synchronizing" in str(message) and torch.cuda.current_stream().cuda_stream == main:
            waits.append(place_in_probe())

    main = torch.cuda.current_stream().cuda_stream
    trainer = make_trainer(demo)
    trainer.iter = 0
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", see)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            train(trainer, tmp_path)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    told = sorted({place for place in waits if place})
    assert len(waits) > ITERATIONS, "Detectron2's own are seen"
    # Once each: at the first pass of the model, and when the loop begins and ends.
    once = ("norms.py", "weights.py")
    assert [place for place in told if not place.startswith(once)] == []


def test_phases_add_up_to_the_time_on_the_wall(demo, tmp_path):
    trainer = make_trainer(demo)
    began_s = time.perf_counter()
    records = train(trainer, tmp_path)[5:]
    took_s = records[-1]["clock"] - records[0]["clock"]
    told_s = sum(record["total_s"] for record in records[1:])
    assert told_s == pytest.approx(took_s, rel=0.05)
    assert told_s < time.perf_counter() - began_s
    for phase in ("data_s", "forward_s", "backward_s", "optimizer_s"):
        assert all(record[phase] >= 0 for record in records)
    assert sum(r["backward_s"] for r in records) > 0.2 * told_s


def test_a_slow_kernel_is_charged_to_the_phase_that_starts_it(demo, tmp_path):
    """The processor is long past the optimizer's step when the GPU has done it."""
    trainer = make_trainer(demo)
    step = trainer.optimizer.step

    def slow_step(*args, **kwargs):
        torch.cuda._sleep(int(5e7))  # some 30 ms
        return step(*args, **kwargs)

    trainer.optimizer.step = slow_step
    records = train(trainer, tmp_path)[10:]
    assert min(record["optimizer_s"] for record in records) > 0.015


def test_peaks_are_those_that_torch_tells_without_the_probe(demo, tmp_path):
    trainer = make_trainer(demo)
    records = train(trainer, tmp_path)
    highest = max(record["memory"]["peak_allocated_mib"] for record in records)
    assert highest <= torch.cuda.max_memory_allocated() / 2**20 + 0.01
    assert highest > records[-1]["memory"]["allocated_mib"]


def test_mixed_precision_tells_scale_steps_and_norms(demo, tmp_path):
    records = train(make_trainer(demo, amp=True), tmp_path)
    assert all("skipped_step" in record for record in records)
    made = [r for r in records[10:] if not r["skipped_step"] and "grad_norm" in r]
    assert made
    assert all(r["grad_scale"] >= 1 and 0 < r["grad_norm"] < 1e4 for r in made)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs")
def test_a_model_on_the_second_gpu_leaves_the_first_one_alone(demo, tmp_path):
    held = torch.cuda.memory_reserved(0)
    records = train(make_trainer(demo, device="cuda:1"), tmp_path)
    assert torch.cuda.memory_reserved(0) == held
    assert sum(r["backward_s"] for r in records) > 0.2 * sum(r["total_s"] for r in records)


def test_the_driver_tells_how_busy_the_gpu_is():
    gpu = nvml.Gpu(nvml.pci_address(torch.cuda.current_device()))
    told = gpu.sample(torch.cuda.memory_reserved() / 2**20)
    assert 0 <= told["gpu_busy"] <= 1
    assert told["gpu_others_mib"] >= 0


def test_memory_is_free_and_the_end_is_told_when_the_gpu_had_too_little(demo, tmp_path):
    setup = tmp_path / "little.py"
    setup.write_text("import torch\ntorch.cuda.set_per_process_memory_fraction(0.004)\n")
    free_before, _ = torch.cuda.mem_get_info()
    command = [
        sys.executable, "-m", "d2check", "run", str(demo / "config.yaml"),
        "--setup", str(demo / "demo_setup.py"), "--setup", str(setup), "--device", "cuda",
        "--output", str(tmp_path / "run"), "SOLVER.IMS_PER_BATCH", "16",
        "INPUT.MIN_SIZE_TRAIN", "[1600]", "INPUT.MAX_SIZE_TRAIN", "2400",
    ]  # fmt: skip
    subprocess.run(command, check=False, timeout=300)
    ending = json.loads((tmp_path / "run" / "ending.json").read_text())
    assert ending["kind"] == "out-of-memory"
    free_after, _ = torch.cuda.mem_get_info()
    assert free_after >= free_before - 64 * 2**20
