"""Trainings of two processes over gloo."""

from __future__ import annotations

import sys

import pytest

pytestmark = pytest.mark.training


def test_two_ranks_of_a_config_both_record_and_stop_at_the_same_iteration(project):
    ran = project.check(
        "demo/config.yaml", "--setup", "demo/demo_setup.py", "--num-gpus", 2, "--iterations", 22
    )
    assert ran.ending["kind"] == "stopped", ran.err
    for rank in (0, 1):
        (begin,) = ran.records("begin", rank)
        assert (begin["rank"], begin["world_size"]) == (rank, 2)
        assert [record["i"] for record in ran.records("iter", rank)] == list(range(22))
        assert all(record["batch"]["images"] == 2 for record in ran.records("iter", rank))
        assert ran.records("end", rank)[0]["reason"] == "iterations"
    # Detectron2 keeps losses on rank 0 only; the others are timed all the same.
    assert "total_loss" not in ran.records("iter", 1)[5]["scalars"]
    assert ran.records("iter", 1)[5]["forward_s"] > 0
    assert ran.finding("time/straggler")["value"] >= 1
    # Detectron2's loader gives each rank its part.
    assert ran.finding("data/ranks-see-same-images")["verdict"] == "PASS"
    assert "2 processes" in ran.out


@pytest.mark.parametrize("launcher", ["spawn", "torchrun"])
def test_ranks_that_a_script_starts_are_recorded_and_stopped_together(project, launcher):
    start = [sys.executable]
    if launcher == "torchrun":
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    ran = project.check("--iterations", 3, "--", *start, "ddp_train.py", "store")
    assert ran.ending["kind"] == "stopped", ran.err
    for rank in (0, 1):
        assert [record["i"] for record in ran.records("iter", rank)] == [0, 1, 2]
    assert "EXPORTED" not in ran.child_output
    assert "UPLOADED" not in ran.child_output
    assert project.leftovers("run", "store") == set()


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [("kill", "killed", "ended by SIGKILL"), ("raise", "crashed", "no annotation file")],
)
def test_a_rank_that_dies_is_named_and_the_others_do_not_wait(project, fault, kind, words):
    ran = project.check("--", sys.executable, "ddp_train.py", "store", FAULT=fault)
    assert ran.code == 1
    assert ran.ending["kind"] == kind
    assert ran.ending["message"].startswith("rank 1 of 2: ")
    assert words in ran.ending["message"]
    assert ran.finding("ending/crashed")["verdict"] == "FAIL"


UNDIVIDED = """
import torch
from detectron2.data import DatasetFromList, DatasetMapper, MapDataset, get_detection_dataset_dicts
from detectron2.engine import DefaultTrainer

class Undivided(DefaultTrainer):
    @classmethod
    def build_train_loader(cls, cfg):
        records = get_detection_dataset_dicts(cfg.DATASETS.TRAIN)
        data = MapDataset(DatasetFromList(records), DatasetMapper(cfg, is_train=True))
        def batches():
            while True:
                order = torch.Generator().manual_seed(0)
                yield from torch.utils.data.DataLoader(
                    data, batch_size=2, shuffle=True, generator=order, collate_fn=list
                )
        return batches()
"""


def test_a_loader_by_hand_that_gives_all_ranks_the_same_images_fails(project):
    (project.folder / "undivided.py").write_text(UNDIVIDED)
    setup = ["--setup", "demo/demo_setup.py", "--setup", "undivided.py"]
    setup += ["--trainer", "undivided:Undivided", "--no-early-end"]
    ran = project.check("demo/config.yaml", *setup, "--num-gpus", 2, "--iterations", 22)
    found = ran.finding("data/ranks-see-same-images")
    assert found["verdict"] == "FAIL", found
    assert found["value"] == 1
    assert "rank 1 was given 100% of its images in the same iteration as rank 0" in found["message"]
    assert "build_detection_train_loader" in found["fixes"][0]["action"]
    assert ran.code == 1


DYING = """
import os, signal, sys
from detectron2.engine import DefaultTrainer

class Dying(DefaultTrainer):
    def run_step(self):
        if self.iter == 2 and os.environ["D2CHECK_RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        super().run_step()
"""


def test_a_rank_that_d2check_itself_started_is_named_too(project):
    (project.folder / "dying.py").write_text(DYING)
    setup = ["--setup", "demo/demo_setup.py", "--setup", "dying.py", "--trainer", "dying:Dying"]
    ran = project.check("demo/config.yaml", *setup, "--num-gpus", 2)
    assert ran.code == 1
    assert (ran.ending["kind"], ran.ending["error"]) == ("killed", "SIGKILL")
    assert ran.ending["message"].startswith("rank 1 of 2: ")
    assert ran.ending["iteration"] in (1, 2)  # the last whole one, or the one that broke in rank 0
