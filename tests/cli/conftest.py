import os
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass
class Ran:
    code: int
    out: str
    err: str


@pytest.fixture
def fake_python(tmp_path):
    """An interpreter that trains nothing and writes the records of a training."""
    path = tmp_path / "fake-python"
    body = Path(__file__).with_name("fake_training.py").read_text(encoding="utf-8")
    path.write_text(f"#!{sys.executable}\n{body}", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("SOLVER:\n  BASE_LR: 0.005\n", encoding="utf-8")
    return path


@pytest.fixture
def environment(tmp_path):
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def d2check(tmp_path, environment):
    """Runs the command line in a process of its own, in an empty folder."""

    def call(*arguments, training="healthy", stdin=None, **variables):
        done = subprocess.run(
            [sys.executable, "-m", "d2check", *map(str, arguments)],
            cwd=tmp_path,
            env=environment | {"FAKE_TRAINING": training} | variables,
            capture_output=True,
            input=stdin,
            text=True,
            encoding="utf-8",
            timeout=300,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture
def run(d2check, config, fake_python):
    """`d2check run` of the fake training."""

    def call(*arguments, **options):
        return d2check("run", config, "--python", fake_python, *arguments, **options)

    return call
