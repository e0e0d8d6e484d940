"""Which rank's end explains the others'."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from d2check.harness.launch import launch
from d2check.harness.limits import Limits
from d2check.harness.ranks import RankWatch
from d2check.model import EndingKind

BEGIN = {"t": "begin", "pid": 1, "world_size": 2}


def crash(error, message, clock):
    return {"t": "end", "kind": "crashed", "error": error, "message": message, "clock": clock}


STOPPED = {"t": "end", "kind": "stopped", "i": 9, "clock": 9.0}
INTERRUPTED = {"t": "end", "kind": "interrupted", "signal": "SIGTERM", "clock": 3.0}
GONE = crash("RuntimeError", "[gloo] Connection closed by peer [127.0.0.1]:1", 2.0)
OWN = crash("ValueError", "no such file", 2.5)


def watch_of(tmp_path, ends, begun=(0, 1)):
    watch = RankWatch(tmp_path)
    for rank in begun:
        watch.take(rank, BEGIN)
    for rank, end in ends.items():
        watch.take(rank, end)
    return watch


@pytest.mark.parametrize(
    ("ends", "rank"),
    [
        ({0: STOPPED, 1: STOPPED}, None),
        ({0: GONE, 1: OWN}, 1),
        ({0: OWN, 1: GONE}, 0),
        ({0: INTERRUPTED, 1: OWN}, 1),
        ({0: GONE}, 1),
        ({0: STOPPED, 1: OWN}, 1),
        ({1: STOPPED}, 0),
    ],
)
def test_the_rank_that_ended_first_is_the_cause(tmp_path, ends, rank):
    cause = watch_of(tmp_path, ends).cause([])
    assert (cause and cause[0]) == rank


@pytest.mark.parametrize(("crashed_with", "rank"), [(OWN, 1), (GONE, 0)])
def test_a_rank_that_is_ended_after_anothers_own_crash_is_not_its_cause(
    tmp_path, crashed_with, rank
):
    """On GPUs it hangs in NCCL until it is killed, and writes no end."""
    watch = watch_of(tmp_path, {1: crashed_with})
    assert watch.lost(5.0, 10.0) is None
    cause = watch.cause([])
    assert cause is not None
    assert cause[0] == rank


def test_one_process_is_never_judged_by_its_neighbours(tmp_path):
    assert watch_of(tmp_path, {}, begun=(0,)).ranks.keys() == {0, 1}
    watch = RankWatch(tmp_path)
    watch.take(0, {"t": "begin", "pid": 1, "world_size": 1})
    assert watch.cause([]) is None


@pytest.mark.parametrize(
    "line",
    [
        "torch.multiprocessing.spawn.ProcessExitedException: process 1 terminated with signal "
        "SIGKILL",
        "  traceback : Signal 9 (SIGKILL) received by PID 4711",
    ],
)
def test_the_launchers_words_name_the_signal(tmp_path, line):
    cause = watch_of(tmp_path, {0: INTERRUPTED}).cause(["...", line])
    assert cause is not None
    assert cause[1]["signal"] == "SIGKILL"


def test_ranks_that_nobody_announced_are_read_at_the_end(tmp_path):
    lines = [json.dumps(BEGIN), json.dumps(OWN)]
    (tmp_path / "records.rank3.jsonl").write_text("\n".join(lines) + "\n")
    watch = watch_of(tmp_path, {0: STOPPED}, begun=(0,))
    watch.take(1, STOPPED)
    watch.close()
    cause = watch.cause([])
    assert cause is not None
    assert cause[0] == 3


def test_a_process_that_vanishes_is_lost_after_the_grace(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    watch = watch_of(tmp_path, {}, begun=())
    watch.take(0, {**BEGIN, "pid": os.getpid()})
    watch.take(1, {**BEGIN, "pid": child.pid})
    assert watch.lost(0.0, 10.0) is None
    child.kill()
    child.wait()
    assert watch.lost(1.0, 10.0) is None
    assert watch.lost(12.0, 10.0) == 1


def test_a_process_of_another_namespace_is_not_taken_for_dead(tmp_path):
    watch = watch_of(tmp_path, {}, begun=())
    watch.take(1, {**BEGIN, "pid": 2**30})
    assert watch.lost(0.0, 10.0) is None
    assert watch.lost(100.0, 10.0) is None


def test_ranks_left_waiting_for_a_dead_one_are_ended_and_the_dead_one_is_named(plan_for):
    body = """
    other = open(os.path.join(FOLDER, "records.rank1.jsonl"), "a", buffering=1)
    dead = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    record("begin", rank=0, world_size=2, pid=os.getpid(), facts={})
    other.write(json.dumps({"t": "begin", "rank": 1, "world_size": 2, "pid": dead.pid}) + "\\n")
    iterate(0, 5)
    time.sleep(1.5)
    dead.kill()
    time.sleep(60)  # in a collective operation
    """
    ending = launch(plan_for(body), limits=Limits(rank_grace_s=0.3, floor_s=30.0))
    assert ending.kind is EndingKind.KILLED
    assert ending.iteration == 4
    assert "rank 1 of 2: its process is gone" in str(ending.message)


def test_a_rank_that_hangs_since_anothers_crash_is_ended_and_the_crash_is_told(plan_for):
    body = """
    other = open(os.path.join(FOLDER, "records.rank1.jsonl"), "a", buffering=1)
    record("begin", rank=0, world_size=2, pid=os.getpid(), facts={})
    crashed = subprocess.Popen([sys.executable, "-c", ""])
    for line in (
        {"t": "begin", "rank": 1, "world_size": 2, "pid": crashed.pid},
        {"t": "end", "kind": "crashed", "error": "ValueError", "message": "no such file"},
    ):
        other.write(json.dumps(line) + "\\n")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as in native code
    iterate(0, 5)
    time.sleep(60)  # in a collective operation
    """
    ending = launch(plan_for(body), limits=Limits(rank_grace_s=0.3, floor_s=30.0))
    assert ending.kind is EndingKind.CRASHED
    assert ending.error == "ValueError"
    assert "rank 1 of 2: no such file" in str(ending.message)
