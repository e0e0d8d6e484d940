"""Trainings that the probe cannot join, told by what /proc says of their processes."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from threading import Timer

import pytest

from d2check.harness import unseen
from d2check.harness.child import GuardedChild
from d2check.harness.launch import launch
from d2check.harness.manifest import SITE
from d2check.model import EndingKind

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

JOINED = {"D2CHECK_PLAN": "/run/plan.json", "PYTHONPATH": f"{SITE}{os.pathsep}/mine"}


@pytest.fixture
def processes(tmp_path, monkeypatch):
    """Puts processes into a /proc of our own; the first is the parent of the others."""

    def add(*each):
        for number, (words, variables, maps) in enumerate(each, start=1):
            folder = tmp_path / str(number)
            folder.mkdir()
            (folder / "cmdline").write_bytes(b"\0".join(w.encode() for w in words))
            pairs = (f"{name}={value}".encode() for name, value in variables.items())
            (folder / "environ").write_bytes(b"\0".join(pairs))
            (folder / "maps").write_text(maps)
        monkeypatch.setattr(unseen, "PROC", tmp_path)
        below = list(range(2, len(each) + 1))
        monkeypatch.setattr(unseen, "descendants", lambda root: below)
        return unseen.UnseenTraining(1)

    return add


TORCH = "7f00 r-xp /e/torch/lib/libtorch_cpu.so"
SHELL = (["bash", "train.sh"], JOINED, "")


@pytest.mark.parametrize(
    ("words", "variables", "told"),
    [
        (["python", "train.py"], {**JOINED, "PYTHONPATH": "/mine"}, "PYTHONPATH is set anew"),
        (["python", "train.py"], {"PATH": "/bin"}, "env -i"),
        (["python", "-uE", "train.py"], JOINED, "-I, -E and -S"),
    ],
)
def test_a_training_without_the_probe_is_told_at_the_second_look(processes, words, variables, told):
    found = processes(SHELL, (words, variables, TORCH))
    assert found.look() is None
    assert told in (found.look() or "")


@pytest.mark.parametrize(
    "others",
    [
        [(["python", "train.py", "-I"], JOINED, TORCH)],
        [(["python", "-u", "train.py"], JOINED, TORCH)],
        [(["python", "-c", "print()"], {}, "7f00 r-xp /lib/libc.so")],
        [(["python", "train.py"], JOINED, TORCH), (["python", "serve.py"], {}, TORCH)],
    ],
    ids=["flag of the script", "joined", "no torch", "helper of a joined one"],
)
def test_others_are_left_alone(processes, others):
    found = processes(SHELL, *others)
    assert [found.look() for _ in range(3)] == [None] * 3


def test_a_command_whose_training_cannot_be_seen_is_ended_at_once(plan_for, monkeypatch):
    monkeypatch.setattr(unseen, "_TORCH", b"/python")
    plan = plan_for(
        """
        os.environ["PYTHONPATH"] = "/mine"
        os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)"])
        """,
        entry={"kind": "command", "command": ["train.sh"]},
    )
    ending = launch(plan)
    assert ending.kind is EndingKind.UNKNOWN
    assert "PYTHONPATH is set anew" in (ending.message or "")
    assert json.loads((plan.folder / "ending.json").read_text())["signal"] is None


def test_why_a_training_could_not_be_seen_is_kept_while_it_is_being_ended(plan_for, monkeypatch):
    looks = iter(["PYTHONPATH is set anew"])
    monkeypatch.setattr(unseen.UnseenTraining, "look", lambda self: next(looks, None))
    monkeypatch.setattr("d2check.harness.launch.LOOK_EVERY_S", 0.0)
    kill = GuardedChild.kill  # of a machine on which that takes a while
    monkeypatch.setattr(GuardedChild, "kill", lambda child: Timer(0.5, kill, [child]).start())
    ending = launch(plan_for("time.sleep(60)", entry={"kind": "command", "command": ["train.sh"]}))
    assert (ending.kind, ending.message) == (EndingKind.UNKNOWN, "PYTHONPATH is set anew")


SCRIPT = """
begin(); iterate(0, 2)
record("end", kind="stopped", i=1, reason="iterations")
time.sleep(0.5)
"""


def test_what_a_shell_script_runs_after_its_training_is_not_run(plan_for, tmp_path):
    plan = plan_for(SCRIPT)
    uploaded = tmp_path / "uploaded"
    script = tmp_path / "train.sh"
    script.write_text(f"{sys.executable} {tmp_path / 'child.py'}\nsleep 2\ntouch {uploaded}\n")
    words = ("sh", str(script))
    ending = launch(replace(plan, command=words, entry={"kind": "command", "command": [*words]}))
    assert (ending.kind, ending.message) == (EndingKind.STOPPED, None)
    assert not uploaded.exists()


def test_what_a_python_script_runs_after_the_training_of_its_own_child_is_not_run(
    plan_for, tmp_path
):
    plan = plan_for(SCRIPT)
    uploaded = tmp_path / "uploaded"
    script = tmp_path / "parent.py"
    script.write_text(
        "import pathlib, subprocess, sys, time\n"
        f"subprocess.run([sys.executable, {str(tmp_path / 'child.py')!r}])\n"
        f"time.sleep(10)\npathlib.Path({str(uploaded)!r}).touch()\n"
    )
    words = (sys.executable, str(script))
    ending = launch(replace(plan, command=words, entry={"kind": "command", "command": [*words]}))
    assert (ending.kind, ending.message) == (EndingKind.STOPPED, None)
    assert not uploaded.exists()


@pytest.mark.parametrize(("program", "is_run"), [("/bin/sh", True), ("/e/bin/python3.11", False)])
def test_a_command_goes_on_once_all_of_its_training_has_left(
    processes, tmp_path, monkeypatch, program, is_run
):
    processes(SHELL, (["python", "train.py"], JOINED, TORCH))
    (tmp_path / "1/exe").symlink_to(program)
    after = unseen.AfterTraining(1)
    assert not after.is_run([], 0.0)
    assert not after.is_run([2], 5.0)
    monkeypatch.setattr(unseen, "descendants", lambda root: [])
    assert after.is_run([2], 9.0) is is_run
    assert after.is_run([2], 9.9) is is_run, "a launcher is about to leave"
    assert after.is_run([2], 10.1)
    assert after.is_run([2], 10.1, broke=True) is is_run, "it has to tell of that"
    assert not after.is_run([2, 3], 20.0)  # one that was never seen may be elsewhere
