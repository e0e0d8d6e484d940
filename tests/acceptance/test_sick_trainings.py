"""Sick real trainings: each fault is named by its rule, with the change that repairs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from d2check.demo.shapes import Sick, write_demo
from d2check.probe import wire

from .conftest import TIME_LIMIT_S, Said, d2check_environment

pytestmark = pytest.mark.training


def run_arguments(folder: Path, sick: Sick | None = None, *overrides: str) -> list[str]:
    """`run` on a demo written into `folder`."""
    config = write_demo(folder / "demo", sick)
    setup = str(config.parent / "demo_setup.py")
    return ["run", str(config), *overrides, "--setup", setup, "--seed", "1", "--output", "out"]


NAN_IMAGE = """
import itertools
from detectron2.data import DatasetMapper
_calls, _load = itertools.count(), DatasetMapper.__call__
def _call(self, record):
    sample = _load(self, record)
    if next(_calls) >= 80 and "007" in sample["file_name"]:
        sample["image"] = sample["image"] * float("nan")
    return sample
DatasetMapper.__call__ = _call
"""


def test_an_image_that_is_no_number_is_named_and_no_rate_is_blamed(
    d2check: Callable[..., Said], tmp_path: Path
) -> None:
    """At the full rate, where a NaN by itself points to the rate."""
    (tmp_path / "mapper.py").write_text(NAN_IMAGE)
    arguments = run_arguments(tmp_path, None, "DATALOADER.NUM_WORKERS", "0")
    said = d2check(*arguments, "--setup", str(tmp_path / "mapper.py"))
    assert said.status == 1
    assert said.report["runs"][0]["root_causes"] == ["data/input-not-finite"]
    assert {"data/input-not-finite", "loss/non-finite"} <= set(said.verdicts("FAIL"))
    assert "train_007.png (image)" in said.text
    assert said.proposed("loss/non-finite") == {}


def test_a_rate_100_times_too_high_fails_and_a_lower_one_is_proposed_and_proven(
    d2check: Callable[..., Said], tmp_path: Path
) -> None:
    said = d2check(*run_arguments(tmp_path, "lr"), "--verify")
    assert said.status == 1
    assert {"loss/diverges", "loss/non-finite"} & set(said.verdicts("FAIL"))
    assert said.report["runs"][0]["root_causes"] == ["schedule/lr-unscaled"]
    assert said.proposed("schedule/lr-unscaled") == {"SOLVER.BASE_LR": pytest.approx(0.005)}
    assert "SOLVER.BASE_LR 0.005" in said.text
    (proof,) = [fix["proof"] for fix in said.finding("schedule/lr-unscaled")["fixes"]]
    assert proof["outcome"] == "proven"
    assert "loss/diverges" in proof["after"]
    again = d2check("audit", "out")
    assert again.finding("schedule/lr-unscaled")["fixes"][0]["proof"] == proof


def test_a_slow_loader_fails_and_the_proposed_workers_mend_it(
    d2check: Callable[..., Said], tmp_path: Path
) -> None:
    arguments = run_arguments(tmp_path, "loader")
    sick = d2check(*arguments, "--iterations", "60")
    assert sick.status == 1
    assert "time/data-bound" in sick.verdicts("FAIL")
    workers = sick.proposed("time/data-bound")["DATALOADER.NUM_WORKERS"]
    assert workers >= 1
    arguments[-1] = "mended"
    arguments[2:2] = ["DATALOADER.NUM_WORKERS", str(workers)]
    mended = d2check(*arguments, "--iterations", "60")
    # By how much depends on what else the machine does; that little is left to wait for does not.
    waits = [said.finding("time/data-bound")["value"] for said in (sick, mended)]
    assert waits[1] < 0.7 * waits[0]


def test_a_batch_cut_without_the_rate_is_named(
    d2check: Callable[..., Said], tmp_path: Path
) -> None:
    cut = ("SOLVER.IMS_PER_BATCH", "1")
    said = d2check(*run_arguments(tmp_path, None, *cut), "--iterations", "40")
    assert "schedule/lr-unscaled" in said.verdicts("WARN")
    assert said.proposed("schedule/lr-unscaled") == {"SOLVER.BASE_LR": pytest.approx(0.00125)}


def test_category_ids_that_make_every_object_background_are_named(
    d2check: Callable[..., Said], tmp_path: Path
) -> None:
    said = d2check(*run_arguments(tmp_path, "labels"), "--iterations", "60")
    assert said.status == 1
    assert {"labels/class-out-of-range", "labels/no-foreground"} <= set(said.verdicts("FAIL"))
    # The ids are the cause; that nothing is foreground is what comes of it.
    assert said.report["runs"][0]["root_causes"] == ["labels/class-out-of-range"]


def test_a_training_killed_in_mid_run_gets_a_verdict_and_leaves_no_process(tmp_path: Path) -> None:
    arguments = run_arguments(tmp_path, None, "DATALOADER.NUM_WORKERS", "1")
    command = [sys.executable, "-m", "d2check", *arguments]
    with subprocess.Popen(
        command, cwd=tmp_path, env=d2check_environment(), stdout=subprocess.PIPE, text=True
    ) as checker:
        records = tmp_path / "out" / wire.RECORDS
        pid = wait_for_iteration(records, 5)
        os.kill(pid, signal.SIGKILL)
        text, _ = checker.communicate(timeout=TIME_LIMIT_S)
    assert checker.returncode == 1
    assert "ending/crashed" in text
    assert "SIGKILL" in text
    assert processes_of(tmp_path) == []


def wait_for_iteration(records: Path, iteration: int) -> int:
    """The pid of the training once it has done this iteration."""
    until = time.monotonic() + TIME_LIMIT_S
    while time.monotonic() < until:
        lines = records.read_text().splitlines(keepends=True) if records.is_file() else []
        found = [wire.decode(line) for line in lines if line.endswith("\n")]
        if any(record.get("i") == iteration for record in found):
            return int(next(r["pid"] for r in found if r["t"] == "begin"))
        time.sleep(0.1)
    raise AssertionError(f"no iteration {iteration} within {TIME_LIMIT_S} s")


def processes_of(folder: Path) -> list[str]:
    """Command lines of running processes that were started for this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
            line = (process / "cmdline").read_bytes()
        except OSError:  # it ended while we looked
            continue
        if str(folder).encode() in environment + line and int(process.name) != os.getpid():
            found.append(line.replace(b"\0", b" ").decode())
    return found
