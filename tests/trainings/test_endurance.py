"""Whatever ends d2check or the training, no process stays and the folder can be judged."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from d2check.probe import wire

pytestmark = [
    pytest.mark.training,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]

DEMO = ["demo/config.yaml", "--setup", "demo/demo_setup.py", "--phases", "as-configured"]
LIMIT_S = 180  # only bounds a failing test


def processes_of(folder: Path) -> list[int]:
    """The living processes of the training that records into a folder, found by its variable."""
    told = f"{wire.PLAN_VARIABLE}={folder / wire.PLAN}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            living = (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
            if living and told in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:  # gone, or another user's
            continue
    return found


def training_of(folder: Path) -> int | None:
    """The training itself: neither the guard before it nor a loader worker below it."""
    for pid in sorted(processes_of(folder)):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if words[1:2] == [b"-u"]:
            return pid
    return None


def wait_until(condition, process=None):
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert process is None or process.poll() is None, "it ended too early"
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def reached(folder: Path, moment: str) -> bool:
    if moment == "planned":
        return training_of(folder) is not None
    records = folder / wire.RECORDS
    text = records.read_text() if records.exists() else ""
    if moment == "begun":
        return '"t":"begin"' in text
    return text.count('"t":"iter"') >= 3


def start(project, *arguments, output="run"):
    return subprocess.Popen(
        project.command(*DEMO, *arguments, output=output),
        cwd=project.folder,
        env=project.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def audit(project, folder):
    return subprocess.run(
        [*project.command()[:3], "audit", str(folder)],
        cwd=project.folder,
        env=project.environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


@pytest.mark.parametrize("moment", ["planned", "begun", "iterating"])
@pytest.mark.parametrize("victim", ["d2check", "training"])
def test_a_killed_process_leaves_no_other_and_a_folder_that_audits(project, victim, moment):
    folder = project.folder / "run"
    check = start(project, "DATALOADER.NUM_WORKERS", "2")
    wait_until(lambda: reached(folder, moment), check)
    if victim == "d2check":
        check.kill()
    else:
        training = training_of(folder)
        assert training is not None
        os.kill(training, signal.SIGKILL)
    out, err = check.communicate(timeout=LIMIT_S)
    wait_until(lambda: not processes_of(folder))
    if victim == "training":
        assert check.returncode == 1, out + err
        assert "SIGKILL" in out
    done = audit(project, folder)
    assert done.returncode in (0, 1, 5), done.stderr
    assert "Traceback" not in err + done.stderr
    assert "d2check" in done.stdout
    if moment == "iterating":
        assert "total_loss" in done.stdout


@pytest.mark.parametrize("more", [[], ["--num-gpus", "2"]], ids=["one rank", "two ranks"])
def test_two_checks_at_once_do_not_meet(project, more):
    both = [start(project, "--iterations", "8", *more, output=name) for name in ("one", "two")]
    for name, check in zip(("one", "two"), both, strict=True):
        out, err = check.communicate(timeout=LIMIT_S)
        assert check.returncode == 0, out + err
        records = [wire.decode(x) for x in (project.folder / name / wire.RECORDS).open()]
        assert [r["i"] for r in records if r["t"] == "iter"] == list(range(8))
        assert len({r["pid"] for r in records if r["t"] == "begin"}) == 1


def test_a_folder_that_another_check_uses_is_refused(project):
    first = start(project)
    wait_until(lambda: reached(project.folder / "run", "begun"), first)
    second = start(project)
    out, err = second.communicate(timeout=LIMIT_S)
    assert second.returncode == 4, out
    assert "earlier run" in err
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=LIMIT_S)
    assert first.returncode == 2
    assert (project.folder / "run" / wire.ENDING).exists()
