"""Projects of many kinds, checked as they are: nothing of them is edited."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

pytestmark = pytest.mark.training

DEMO = ["demo/config.yaml", "--setup", "demo/demo_setup.py"]


@pytest.fixture
def precious(project):
    """An output folder of an earlier training, which a resumed one would go on with."""
    folder = project.folder / "precious"
    folder.mkdir()
    (folder / "last_checkpoint").write_text("model_0000041.pth")
    (folder / "model_0000041.pth").write_bytes(b"forty-two iterations of work")
    (folder / "metrics.json").write_text('{"iteration": 41, "total_loss": 1.0}\n')
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("script", ["train_net.py", "lazy_train.py"])
def test_nothing_of_the_users_is_touched_and_all_that_was_switched_off_is_told(
    project, precious, script
):
    before = contents(precious)
    ran = project.check("--iterations", 4, "--", sys.executable, script, "--resume")
    assert ran.ending["kind"] == "stopped", ran.err
    assert contents(precious) == before
    assert project.leftovers("run", "precious") == set()
    for word in ("EVALUATED", "EXPORTED"):
        assert word not in ran.child_output
    report = json.loads((ran.folder / "report.json").read_text())
    told = " ".join(report["neutralised"])
    off = ["precious is not touched", "checkpoints", "evaluation", "resuming", "after the training"]
    for what in off:
        assert what in told


def test_a_script_with_steps_of_its_own_is_judged_by_its_lazy_config(project):
    ran = project.check("--iterations", 4, "--", sys.executable, "lazy_train.py")
    assert ran.code == 0, ran.out + ran.err
    # Two batches of four in each iteration.
    assert {record["batch"]["images"] for record in ran.records("iter")} == {8}
    assert ran.finding("config/norm-small-batch")["value"] == 4  # not 8
    assert ran.finding("schedule/lr-not-as-configured")["verdict"] == "PASS"
    assert ran.finding("schedule/lr-unscaled")["value"] == pytest.approx(1.0)


def test_a_lazy_config_is_trained_by_d2check_itself(project):
    ran = project.check(
        "micro_lazy.py", "--setup", "demo/demo_setup.py", "--iterations", 6, "optimizer.lr=0.004"
    )
    assert ran.code == 0, ran.out + ran.err
    assert len(ran.records("iter")) == 6
    assert ran.finding("schedule/lr-not-as-configured")["verdict"] == "PASS"
    facts = ran.records("begin")[0]["facts"]
    assert (facts["images_per_batch"], facts["images"], facts["seed"]) == (4, 50, 1)
    assert project.leftovers("run") == set()


def test_a_script_that_trains_nothing_is_never_green(project):
    (project.folder / "other.py").write_text("import detectron2\nprint('prepared')\n")
    ran = project.check("--", sys.executable, "other.py")
    assert ran.code == 5, ran.out
    assert "no training was seen" in ran.out
    assert "EventStorage" in ran.out


def test_a_script_that_breaks_before_it_trains_is_a_finding_with_its_lines(project):
    (project.folder / "other.py").write_text("import detectron2\n\nimport my_missing_module\n")
    ran = project.check("--", sys.executable, "other.py")
    assert ran.code == 1
    assert ran.ending["error"] == "ModuleNotFoundError"
    assert "other.py:3 in <module>: import my_missing_module" in ran.out


def test_a_shell_script_that_starts_the_training_will_do(project):
    script = project.folder / "start.sh"
    script.write_text(f"#!/bin/sh\nexec {sys.executable} train_net.py\n")
    script.chmod(0o755)
    ran = project.check("--iterations", 2, "--", "./start.sh")
    assert ran.ending["kind"] == "stopped", ran.err
    assert len(ran.records("iter")) == 2


@pytest.fixture
def other_python(tmp_path):
    """An interpreter with this one's packages, but without d2check."""
    folder = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = Path(sysconfig.get_path("purelib"))
    if (packages / "d2check").is_dir():
        pytest.skip("d2check is installed among torch and Detectron2, and not as editable")
    own = next(folder.glob("lib/python*/site-packages"))
    (own / "others.pth").write_text(f"{packages}\n")  # .pth files in there are not followed
    return folder / "bin" / "python"


@pytest.mark.parametrize("kind", ["config", "command"])
def test_the_training_needs_nothing_of_d2check_in_its_environment(project, other_python, kind):
    alone = "import importlib.util\nassert importlib.util.find_spec('d2check') is None\n"
    (project.folder / "alone.py").write_text(alone)
    if kind == "config":
        given = [*DEMO, "--setup", "alone.py", "--python", other_python, "--iterations", 2]
    else:
        script = project.folder / "train_net.py"
        script.write_text(alone + script.read_text())
        given = ["--iterations", 2, "--", other_python, "train_net.py"]
    ran = project.check(*given)
    assert ran.ending["kind"] == "stopped", ran.err + ran.child_output
    assert len(ran.records("iter")) == 2
