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
