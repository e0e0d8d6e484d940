"""The GitHub workflow for GPU runners, run here with a d2check that only ends with a status."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

WORKFLOW = Path(__file__).resolve().parents[2] / "ci" / "github" / "gpu-gate.yml"


@pytest.fixture(scope="module")
def workflow():
    return yaml.safe_load(WORKFLOW.read_text())


@pytest.fixture
def gate(workflow, tmp_path):
    """Runs the judging step as GitHub does (bash -e) with a stand-in that ends with `status`."""
    steps = workflow["jobs"]["training-health"]["steps"]
    script = next(step["run"] for step in steps if "Judge" in step.get("name", ""))
    program = tmp_path / "d2check" / "bin" / "d2check"
    program.parent.mkdir(parents=True)

    def run(status: int) -> subprocess.CompletedProcess[str]:
        program.write_text(f'#!/bin/sh\necho "d2check $*"\nexit {status}\n')
        program.chmod(0o755)
        environment = {**os.environ, **workflow["env"], "RUNNER_TEMP": str(tmp_path)}
        return subprocess.run(
            ["bash", "-e", "-c", script],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_passing_config_makes_a_green_job_without_annotations(gate):
    answer = gate(0)

    assert answer.returncode == 0
    assert "::error" not in answer.stdout


@pytest.mark.parametrize("status", [1, 2, 3, 4, 5, 137])
def test_any_other_exit_code_fails_the_job_with_its_meaning(gate, status):
    answer = gate(status)

    assert answer.returncode == status
    assert answer.stdout.count("::error title=d2check::") == 1


def test_nothing_judged_is_said_so(gate):
    assert "Nothing could be judged" in gate(5).stdout


def test_training_environment_is_driven_and_never_installed_into(gate, workflow):
    command = gate(0).stdout.splitlines()[0]

    assert command == (
        "d2check run configs/train.yaml --python /opt/training/bin/python "
        "--budget 5m --junitxml d2check.xml --json d2check.json"
    )
    steps = workflow["jobs"]["training-health"]["steps"]
    installs = [step["run"] for step in steps if "install" in step.get("run", "")]
    assert installs
    assert all("TRAINING_PYTHON" not in script for script in installs)


def test_every_option_it_uses_is_an_option_of_d2check_run(gate):
    used = [word for word in gate(0).stdout.split() if word.startswith("--")]

    known = subprocess.run(
        [sys.executable, "-m", "d2check", "run", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()

    assert [option for option in used if option not in known] == []


def test_report_is_published_also_when_a_rule_failed(workflow):
    steps = workflow["jobs"]["training-health"]["steps"]
    publishing = [step for step in steps if "uses" in step and "checkout" not in step["uses"]]

    assert [step["if"] for step in publishing] == ["${{ !cancelled() }}"] * 2
