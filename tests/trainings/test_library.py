"""d2check as a library: a hook for trainers of one's own, and run and audit from Python."""

from __future__ import annotations

import subprocess
import sys

import pytest

import d2check
from d2check import sources
from d2check.model import EndingKind, Verdict


def hooked(project, trainer, **variables):
    done = subprocess.run(
        [sys.executable, "hooked.py", trainer],
        cwd=project.folder,
        env={**project.with_d2check, **variables},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    report = d2check.audit(project.folder / "health")
    return done, report.runs[0]


def verdicts(judged):
    return {finding.rule: finding.verdict for finding in judged.findings}


@pytest.mark.training
@pytest.mark.parametrize("trainer", ["default", "simple"])
def test_the_hook_records_a_training_that_goes_on_as_it_would(project, trainer):
    done, judged = hooked(project, trainer)
    assert done.returncode == 0, done.stderr
    assert "WENT ON 6" in done.stdout
    assert judged.run.rows == 6
    assert judged.run.ending.kind is EndingKind.FINISHED
    (run,) = sources.read(project.folder / "health")
    assert {"forward_s", "backward_s", "data_s", "total_loss"} <= run.series.keys()
    if trainer == "default":
        assert (project.folder / "own-output" / "model_final.pth").exists()
        assert judged.run.config is not None
        assert judged.run.config.get("SOLVER.MAX_ITER") == 6


@pytest.mark.training
def test_the_hook_stops_recording_and_not_training(project):
    done, judged = hooked(project, "default", MOST="3")
    assert "WENT ON 6" in done.stdout
    assert judged.run.rows == 3
    assert judged.run.ending.kind is EndingKind.STOPPED


@pytest.mark.training
def test_the_hook_records_the_error_that_ends_a_training(project):
    done, judged = hooked(project, "default", FAULT="raise")
    assert done.returncode == 1
    assert judged.run.ending.error == "ValueError"
    assert judged.run.rows == 4
    assert verdicts(judged)["ending/crashed"] is Verdict.FAIL
    again = subprocess.run(
        [sys.executable, "hooked.py", "default"],
        cwd=project.folder,
        env=project.with_d2check,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert "an earlier recording" in again.stderr


@pytest.mark.training
def test_run_gives_the_report_of_the_command(project, monkeypatch):
    for name, value in project.environment.items():
        monkeypatch.setenv(name, value)
    seen = []
    report = d2check.run(
        project.folder / "demo" / "config.yaml",
        ["SOLVER.BASE_LR", "0.004"],
        setup=[project.folder / "demo" / "demo_setup.py"],
        iterations=4,
        phases=["as-configured"],
        output=project.folder / "run",
        select="schedule",
        on_record=lambda record: seen.append(record["t"]),
    )
    assert seen.count("iter") == 4
    assert {finding.rule.partition("/")[0] for finding in report.runs[0].findings} == {"schedule"}
    assert report.runs[0].run.config.get("SOLVER.BASE_LR") == 0.004
    assert report.exit_code == 0


def test_importing_d2check_loads_nothing_heavy():
    code = (
        "import sys, d2check; print(sorted({'numpy', 'torch', 'click', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_name_that_d2check_has_not_is_said_to_be_missing():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        d2check.trian  # noqa: B018
