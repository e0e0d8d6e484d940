"""Real trainings of the demo's micro model on one CPU thread, for whoever tests against them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from d2check.demo.shapes import write_demo
from d2check.probe import wire

# A shell that runs the tests in its background has its children ignore these, and theirs in turn:
# what Ctrl-C does could not be tested.
for _number, _usual in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    if hasattr(signal, _number) and signal.getsignal(getattr(signal, _number)) is signal.SIG_IGN:
        signal.signal(getattr(signal, _number), _usual)

# The same examples every time: a commit that passed passes again. To look for new ones, run
# `pytest --hypothesis-profile explore`; what it finds becomes an @example.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.register_profile("explore", deadline=None)
hypothesis.settings.load_profile("same")

_PROBE_FOLDER = Path(wire.__file__).parent
PROBE = (sys.executable, "-u", str(_PROBE_FOLDER / "main.py"))
SITE = _PROBE_FOLDER / "site"
TIME_LIMIT_S = 240


@dataclass(frozen=True)
class Trained:
    """What a child of the probe left behind."""

    status: int
    folder: Path
    stdout: str
    stderr: str
    records: tuple[dict[str, Any], ...]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The records of one type."""
        return [record for record in self.records if record["t"] == kind]

    @property
    def end(self) -> dict[str, Any]:
        """The last record, which must be the only `end`."""
        assert [r["t"] for r in self.records].count("end") == 1
        assert self.records[-1]["t"] == "end"
        return self.records[-1]

    @property
    def facts(self) -> dict[str, Any]:
        """All facts, later ones winning."""
        merged: dict[str, Any] = {}
        for record in self.records:
            merged.update(record.get("facts", {}))
        return merged

    def notes(self, kind: str) -> list[dict[str, Any]]:
        """The notes of one kind."""
        return [record for record in self.of("note") if record["kind"] == kind]


def write_plan(folder: Path, config: Path, **changes: Any) -> dict[str, Any]:
    """Write plan.json for a config beside which its `demo_setup.py` lies."""
    entry = {
        "kind": "config",
        "config": str(config),
        "overrides": changes.pop("overrides", []),
        "setup": changes.pop("setup", [str(config.parent / "demo_setup.py")]),
        "trainer": changes.pop("trainer", None),
        "seed": changes.pop("seed", 1),
        "device": "cpu",
        "num_gpus": 1,
    }
    if changes.pop("kind", "config") == "command":
        entry = {"kind": "command"}
    plan = {
        "schema": wire.SCHEMA,
        "folder": str(folder),
        "iterations": None,
        "budget_s": None,
        "phases": [{"name": "as-configured"}],
        "grad_norm_every": 10,
        "neutralise": True,
        "entry": entry,
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / wire.PLAN).write_text(json.dumps(plan))
    return plan


def child_environment(folder: Path, **more: str) -> dict[str, str]:
    """The environment of a child that the plan in `folder` is for."""
    base = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return {
        **base,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        wire.PLAN_VARIABLE: str(folder / wire.PLAN),
        **more,
    }


def read_records(folder: Path) -> tuple[dict[str, Any], ...]:
    """The records of rank 0 so far, complete lines only."""
    path = folder / wire.RECORDS
    text = path.read_text() if path.is_file() else ""
    return tuple(wire.decode(line) for line in text.splitlines(keepends=True) if line[-1:] == "\n")


def run_child(
    folder: Path, command: Sequence[str], cwd: Path, environment: dict[str, str]
) -> Trained:
    """Run a child to its end."""
    done = subprocess.run(
        list(command),
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT_S,
        check=False,
    )
    return Trained(done.returncode, folder, done.stdout, done.stderr, read_records(folder))


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The healthy demo; its config is `config.yaml` in there."""
    return write_demo(tmp_path_factory.mktemp("demo")).parent


@dataclass(frozen=True)
class Trainer:
    """Runs children of the probe; each test has its own run folder, `folder`."""

    demo: Path
    cwd: Path

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.cwd / "run"

    def __call__(self, config: Path | None = None, **changes: Any) -> Trained:
        """Run the probe on a config (the healthy demo's by default) to its end."""
        write_plan(self.folder, config or self.demo / "config.yaml", **changes)
        return run_child(self.folder, PROBE, self.cwd, child_environment(self.folder))

    def start(self, config: Path | None = None, **changes: Any) -> subprocess.Popen[bytes]:
        """The same, going on while the test does."""
        write_plan(self.folder, config or self.demo / "config.yaml", **changes)
        environment = child_environment(self.folder)
        return subprocess.Popen(PROBE, cwd=self.cwd, env=environment, stdout=subprocess.DEVNULL)

    def script(
        self, source: str, *arguments: str, site: Path | None = None, **plan: Any
    ) -> Trained:
        """Run a training script of a user's own, with the probe brought in by sitecustomize.

        `site` is a folder that the user has on PYTHONPATH.
        """
        write_plan(self.folder, self.demo / "config.yaml", kind="command", **plan)
        (self.cwd / "train_net.py").write_text(source)
        path = os.pathsep.join(map(str, [SITE, *([site] if site else [])]))
        environment = child_environment(self.folder, PYTHONPATH=path)
        command = [sys.executable, "-u", "train_net.py", *arguments]
        return run_child(self.folder, command, self.cwd, environment)

    def records(self) -> tuple[dict[str, Any], ...]:
        """The records so far."""
        return read_records(self.folder)


@pytest.fixture
def train(demo: Path, tmp_path: Path) -> Trainer:
    """Run the probe on a config: `train(config, iterations=5, overrides=[...])`."""
    return Trainer(demo, tmp_path)


@pytest.fixture(scope="session")
def healthy(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """25 iterations of the healthy demo, trained once for all tests that only look."""
    cwd = tmp_path_factory.mktemp("healthy")
    folder = cwd / "run"
    write_plan(folder, demo / "config.yaml", iterations=25)
    return run_child(folder, PROBE, cwd, child_environment(folder))
