"""Users' own projects, checked as their users would: by the command line, in a folder of theirs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from d2check.probe import wire

PROJECTS = Path(__file__).parent / "projects"
ROOT = Path(__file__).parents[2]
# By its place, and not by PYTHONPATH: the training's environment is the user's.
START = f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
START += "from d2check.cli import main; main(prog_name='d2check')"
TIME_LIMIT_S = 400


@dataclass(frozen=True)
class Checked:
    """What `d2check run` said and left behind."""

    code: int
    out: str
    err: str
    folder: Path

    def records(self, kind: str, rank: int = 0) -> list[dict[str, Any]]:
        """The records of one type and rank."""
        lines = (self.folder / wire.records_name(rank)).read_text().splitlines()
        records = [wire.decode(line) for line in lines if line.strip()]
        return [record for record in records if record["t"] == kind]

    @property
    def ending(self) -> dict[str, Any]:
        return json.loads((self.folder / wire.ENDING).read_text())

    @property
    def child_output(self) -> str:
        return (self.folder / wire.STDOUT).read_text()

    def finding(self, rule: str) -> dict[str, Any]:
        """One rule's finding in report.json."""
        report = json.loads((self.folder / wire.REPORT).read_text())
        (found,) = [f for f in report["runs"][0]["findings"] if f["rule"] == rule]
        return found


@dataclass(frozen=True)
class Project:
    """A user's folder: the demo's data set in `demo`, and the scripts of `projects`."""

    folder: Path

    def command(self, *arguments: object, output: str = "run") -> list[str]:
        """A call of `d2check run`."""
        words = ["run", "--output", output, *arguments]
        return [sys.executable, "-c", START, *map(str, words)]

    @property
    def with_d2check(self) -> dict[str, str]:
        """An environment in which d2check is installed too."""
        own = self.environment
        return {**own, "PYTHONPATH": os.pathsep.join([str(ROOT), own["PYTHONPATH"]])}

    @property
    def environment(self) -> dict[str, str]:
        more = {
            "PYTHONPATH": str(self.folder / "demo"),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
        return {**os.environ, **more}

    def check(self, *arguments: object, output: str = "run", **variables: str) -> Checked:
        """Run `d2check run` to its end."""
        done = subprocess.run(
            self.command(*arguments, output=output),
            cwd=self.folder,
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT_S,
            check=False,
        )
        return Checked(done.returncode, done.stdout, done.stderr, self.folder / output)

    def leftovers(self, *known: str) -> set[str]:
        """What lies in the user's folder that was not there before.

        Python's own cache of the user's modules is no trace of d2check.
        """
        before = {"demo", "__pycache__", *(path.name for path in PROJECTS.iterdir())}
        return {path.name for path in self.folder.iterdir()} - before - set(known)


@pytest.fixture
def project(demo: Path, tmp_path: Path) -> Project:
    """A fresh copy of the projects; the data set is shared."""
    folder = tmp_path / "project"
    shutil.copytree(PROJECTS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "demo").symlink_to(demo)
    return Project(folder)
