"""Stands in for the training: small scripts that record as the probe does, and end in many ways."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from pathlib import Path

import pytest

from d2check.harness.limits import Limits
from d2check.harness.plan import Plan, PlannedPhase

PRELUDE = """
import json, os, signal, subprocess, sys, time
PLAN = json.load(open(os.environ["D2CHECK_PLAN"]))
FOLDER = PLAN["folder"]
RECORDS = open(os.path.join(FOLDER, "records.jsonl"), "a", buffering=1)

def record(t, **rest):
    RECORDS.write(json.dumps({"t": t, **rest}) + "\\n")

def begin(**facts):
    record("begin", schema=1, rank=0, world_size=1, pid=os.getpid(), clock=time.time(), facts=facts)

def iterate(first, last, total_s=0.01):
    for i in range(first, last):
        record("iter", i=i, clock=time.time(), scalars={"total_loss": 1.0}, total_s=total_s)

def note_pid(name, pid):
    part = os.path.join(FOLDER, name + ".part")
    with open(part, "w") as file:
        file.write(str(pid))
    os.replace(part, os.path.join(FOLDER, name))
"""

QUICK = Limits(
    start_up_s=20.0, floor_s=0.6, medians=5.0, longest=2.0, leave_s=0.6, budget_grace_s=0.4
)


@pytest.fixture
def plan_for(tmp_path):
    """Makes a plan whose child is a script with PRELUDE before the given body."""

    def make(body: str, **changes) -> Plan:
        folder = tmp_path / "run"
        folder.mkdir()
        script = tmp_path / "child.py"
        script.write_text(PRELUDE + textwrap.dedent(body))
        plain = {
            "folder": folder,
            "command": (sys.executable, "-u", str(script)),
            "entry": {"kind": "config", "config": "/c.yaml", "overrides": []},
            "cwd": tmp_path,
            "iterations": 10,
            "phases": (PlannedPhase("as-configured", 10),),
        }
        return Plan(**{**plain, **changes})

    return make


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"


def wait_until(condition, seconds=20.0):
    """Poll a condition; the limit only bounds a failing test."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError("waited in vain")
