"""The process that starts the ranks, and what it does with those that stay behind."""

from __future__ import annotations

import subprocess
import sys

import pytest

from d2check.probe import ranks, wire
from d2check.probe.plan import Plan

LEAVES = "pass"
HANGS = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as in native code
print("hangs", flush=True)
time.sleep(60)
"""
END = {"t": "end", "kind": "stopped", "reason": "ramp", "clock": 1.0}


@pytest.fixture
def spawn(tmp_path, monkeypatch):
    """Runs these programs as ranks; the status, and the last record of each."""

    def run(*programs):
        waiting = list(programs)
        start = subprocess.Popen

        def start_rank(_command, env):
            process = start([sys.executable, "-c", waiting.pop(0)], env=env, stdout=subprocess.PIPE)
            if "hangs" in programs[len(programs) - len(waiting) - 1]:
                process.stdout.readline()
            return process

        monkeypatch.setattr(ranks.subprocess, "Popen", start_rank)
        monkeypatch.setattr(ranks.signal, "signal", lambda *_: None)
        for name in ("FOLLOW_S", "LEAVE_S", "GRACE_S"):
            monkeypatch.setattr(ranks, name, 0.2)
        (tmp_path / wire.records_name(0)).write_text(wire.encode(END))
        (tmp_path / wire.records_name(1)).write_text('{"t":"iter","i":3}\n{"t":"it')
        status = ranks.spawn(
            Plan({"folder": str(tmp_path), "entry": {"kind": "config", "num_gpus": len(programs)}})
        )
        paths = [tmp_path / wire.records_name(rank) for rank in range(len(programs))]
        return status, [path.read_text().splitlines()[-1] for path in paths]

    return run


def test_ranks_that_all_leave_leave_nothing_to_do(spawn):
    status, last = spawn(LEAVES, LEAVES)
    assert status == 0
    assert wire.decode(last[0]) == END


def test_a_rank_that_hangs_when_another_has_ended_the_training_is_ended_with_it(spawn):
    """Rank 0 alone sees that a ramp has ruined the training; on GPUs the others hang in NCCL."""
    status, last = spawn(LEAVES, HANGS)
    assert status == 0
    assert wire.decode(last[0]) == END
    told = wire.decode(last[1])
    assert (told["t"], told["kind"], told["reason"]) == ("end", "stopped", "others")


def test_a_rank_that_hangs_when_another_has_failed_is_ended_and_said_to_be_no_success(spawn):
    status, last = spawn("raise SystemExit(1)", HANGS)
    assert status == 1
    assert "others" not in last[1]
