"""The probe in real trainings of the micro Mask R-CNN."""

from __future__ import annotations

import signal
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest
import yaml

from d2check.demo.shapes import SLOW_LOAD_S, write_demo
from d2check.probe import wire

pytestmark = pytest.mark.training

PARTS = ("data_s", "forward_s", "backward_s", "optimizer_s", "hooks_s", "other_s")


def test_every_iteration_has_one_record(healthy):
    assert healthy.status == 0, healthy.stderr
    assert [record["i"] for record in healthy.of("iter")] == list(range(25))


def test_phases_are_all_seen_and_add_up_to_the_whole_iteration(healthy):
    for record in healthy.of("iter"):
        assert set(PARTS) <= set(record)
        assert sum(record[part] for part in PARTS) == pytest.approx(record["total_s"], abs=1e-6)
        assert record["forward_s"] > 0
        assert record["backward_s"] > 0


def test_iterations_fill_the_wall_clock(healthy):
    records = healthy.of("iter")[1:]  # an iteration's time begins at the record before
    # A look at the machine now and then is no iteration's time; it stands between two of them.
    charged = [
        record["total_s"] / (record["clock"] - before["clock"])
        for before, record in pairwise(records)
    ]
    assert median(charged) == pytest.approx(1, abs=0.02)


def test_waiting_for_data_agrees_with_detectron2s_own_clock(healthy):
    ours = sum(record["data_s"] for record in healthy.of("iter"))
    theirs = sum(record["scalars"]["data_time"] for record in healthy.of("iter"))
    assert ours == pytest.approx(theirs, rel=0.2)


def test_scalars_are_raw_and_of_this_very_iteration(healthy):
    for record in healthy.of("iter"):
        scalars = record["scalars"]
        losses = [v for k, v in scalars.items() if k.startswith("loss_")]
        assert len(losses) == 5
        assert scalars["total_loss"] == pytest.approx(sum(losses))
    rates = [record["scalars"]["lr"] for record in healthy.of("iter")]
    assert rates[0] == pytest.approx(0.005 * 0.001)
    assert rates == sorted(rates)
    assert len(set(rates)) == 25  # a smoothed or a stale rate would repeat


def test_batches_are_described(healthy):
    for record in healthy.of("iter"):
        batch = record["batch"]
        assert batch["images"] == 4
        assert 128 <= batch["max_height"] <= 192
        assert batch["padded_pixels"] % 32**2 == 0
        assert batch["instances"] >= 4


def test_gradient_norm_is_sampled(healthy):
    sampled = [record["i"] for record in healthy.of("iter") if "grad_norm" in record]
    assert sampled == [0, 10, 20]
    assert all(record["grad_norm"] > 0 for record in healthy.of("iter") if "grad_norm" in record)


def test_facts_tell_model_data_and_machine(healthy):
    facts = healthy.facts
    assert facts["images"] == facts["images_before_filter"] == 50
    assert facts["classes"] == 3
    assert facts["images_per_batch"] == 4
    assert facts["workers"] == 0
    assert facts["device"] == "cpu"
    assert facts["seed"] == 1
    assert facts["max_iter"] == 300
    assert facts["parameters"] > 500_000
    assert facts["world_size"] == 1
    assert facts["meta_architecture"] == "GeneralizedRCNN"
    assert 0 < facts["load_s_per_image"] < 5
    assert facts["instances"] == sum(healthy.notes("dataset")[0]["instances"].values())


def test_the_loop_is_ended_without_checkpoint_evaluation_or_traceback(healthy):
    assert healthy.end["kind"] == "stopped"
    assert healthy.end["reason"] == "iterations"
    assert healthy.end["i"] == 24
    assert "Traceback" not in healthy.stderr
    assert "Start inference" not in healthy.stdout
    assert not list(healthy.folder.rglob("*.pth"))
    assert not (healthy.folder.parent / "output").exists()


def test_the_recorded_config_is_the_users_own(healthy):
    config = yaml.safe_load((healthy.folder / wire.CONFIG).read_text())
    assert config["SOLVER"]["MAX_ITER"] == 300
    assert config["OUTPUT_DIR"] == "./output"
    assert config["TEST"]["EVAL_PERIOD"] == 100


def test_what_was_switched_off_is_told(healthy):
    told = " ".join(note["message"] for note in healthy.notes("neutralised"))
    for word in ("output folder", "checkpoints", "evaluation"):
        assert word in told


def test_all_trained_parameters_change_in_a_healthy_run(healthy):
    assert healthy.notes("untouched") == []


def test_a_rate_100_times_too_high_ends_as_the_exception_that_it_is(train, tmp_path):
    config = write_demo(tmp_path / "sick", "lr")
    ran = train(config, iterations=100)
    assert ran.status == 1
    assert ran.end["kind"] == "crashed"
    assert ran.end["error"] == "FloatingPointError"
    assert ran.end["stage"] == "train"
    assert ran.end["i"] == ran.of("iter")[-1]["i"] + 1
    assert len(ran.end["batch_files"]) == 4
    assert "FloatingPointError" in ran.stderr


def test_labels_of_a_class_too_many_leave_no_foreground(train, tmp_path):
    ran = train(write_demo(tmp_path / "sick", "labels"), iterations=4)
    assert {r["scalars"]["roi_head/num_fg_samples"] for r in ran.of("iter")} == {0.0}
    assert ran.notes("dataset")[0]["category_ids"] == [1, 1]
    assert ran.facts["classes"] == 1


def test_the_cost_of_a_slow_image_is_measured_in_the_worker(train, tmp_path):
    ran = train(
        write_demo(tmp_path / "sick", "loader"),
        iterations=4,
        overrides=["DATALOADER.NUM_WORKERS", "2"],
    )
    assert ran.facts["load_s_per_image"] >= SLOW_LOAD_S
    assert all(record["batch"]["load_s"] >= 4 * SLOW_LOAD_S for record in ran.of("iter"))


def test_a_training_that_reaches_its_end_is_finished_without_evaluation(train, tmp_path):
    overrides = ["SOLVER.MAX_ITER", "3", "SOLVER.STEPS", "()"]
    ran = train(overrides=[*overrides, "SOLVER.CHECKPOINT_PERIOD", "1"])
    assert ran.status == 0, ran.stderr
    assert ran.end["kind"] == "finished"
    assert ran.end["i"] == 2
    assert "Start inference" not in ran.stdout
    assert not list(tmp_path.rglob("*.pth"))


def test_a_stop_file_ends_the_loop(train, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / wire.STOP).touch()
    ran = train()
    assert ran.end["reason"] == "stop-file"
    assert len(ran.of("iter")) == 1


def test_a_data_set_that_nobody_registered_is_named_with_those_that_are(train):
    ran = train(overrides=["DATASETS.TRAIN", "('shape_train',)"])
    assert ran.status == 1
    assert ran.end["stage"] == "dataset"
    assert "shape_train" in ran.end["message"]
    assert ran.end["registered"][:2] == ["shapes_train", "shapes_val"]


def test_an_unknown_config_key_is_named(train):
    ran = train(overrides=["SOLVER.BASE_LRR", "0.1"])
    assert ran.end["stage"] == "config"
    assert ran.end["key"] == "SOLVER.BASE_LRR"
    assert ran.of("begin") == []


def test_a_full_disk_stops_the_recording_and_not_the_training(train, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / wire.RECORDS).symlink_to("/dev/full")
    ran = train(iterations=3)
    assert ran.status == 0
    assert "d2check: recording stopped: " in ran.stderr
    assert (ran.folder / "recording-failed").exists()
    assert "Starting training from iteration 0" in ran.stdout


OWN_CODE = '''
import wire  # the user's own module, not the probe's
assert wire.MINE
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase

def d2check_setup(cfg):
    cfg.TRACKER = CfgNode({"API_KEY": "hunter2", "URL": "https://me:hunter2@host/x"})

class ValidationLoss(HookBase):
    """Runs the model in training mode between iterations, as many projects do."""
    def after_step(self):
        self.trainer.model([d for d in self.trainer.batch])

class OwnTrainer(DefaultTrainer):
    def run_step(self):
        self.batch = next(self._trainer._data_loader_iter)
        for sample in self.batch:
            assert not [key for key in sample if "d2check" in key], sample.keys()
        losses = self.model(self.batch)
        self.optimizer.zero_grad()
        sum(losses.values()).backward()
        self.optimizer.step()

    def build_hooks(self):
        return [*super().build_hooks(), ValidationLoss()]
'''


def test_a_users_own_trainer_is_recorded_and_its_secrets_are_not(train, demo, tmp_path):
    (tmp_path / "own.py").write_text(OWN_CODE)
    (tmp_path / "wire.py").write_text("MINE = True\n")
    ran = train(
        iterations=3,
        setup=[str(demo / "demo_setup.py"), "own"],
        trainer="own:OwnTrainer",
        overrides=["TRACKER.API_KEY", "hunter2"],
    )
    assert ran.status == 0, ran.stderr
    records = ran.of("iter")
    assert len(records) == 3
    for record in records:
        assert record["batch"]["images"] == 4
        assert record["hooks_s"] > record["forward_s"] / 4  # the second forward pass is a hook's
        assert sum(record[part] for part in PARTS) == pytest.approx(record["total_s"], abs=1e-6)
    assert "hunter2" not in (ran.folder / wire.CONFIG).read_text()
    assert "***" in (ran.folder / wire.CONFIG).read_text()


def test_a_mistake_in_the_setup_file_is_told_with_its_line(train, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("import os\n\nregister_my_data()\n")
    ran = train(setup=[str(broken)])
    assert ran.status == 1
    assert (ran.end["error"], ran.end["stage"]) == ("NameError", "setup")
    assert ran.end["traceback"] == [[str(broken), 3, "<module>", "register_my_data()"]]
    assert "register_my_data" in ran.stderr


def test_sigterm_ends_training_and_workers_and_is_recorded(train):
    child = train.start(overrides=["DATALOADER.NUM_WORKERS", "2"])
    deadline = time.monotonic() + 120
    while not any(record["t"] == "iter" for record in train.records()):
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    workers = children_of(child.pid)
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=30) == 128 + signal.SIGTERM
    assert train.records()[-1]["kind"] == "interrupted"
    assert train.records()[-1]["signal"] == "SIGTERM"
    assert len(workers) == 2
    deadline = time.monotonic() + 30
    while any(is_alive(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def children_of(parent: int) -> list[int]:
    """Pids of the processes that a process has started."""
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return [int(pid) for pid in text.split()]


def is_alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
