"""The product as a user runs it: `d2check` in a process of its own, on real trainings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

TIME_LIMIT_S = 600


@dataclass(frozen=True)
class Said:
    """What `d2check` said of one training: its exit status, its text and its report."""

    status: int
    text: str
    report: dict[str, Any]

    def verdicts(self, verdict: str) -> dict[str, str]:
        """Rule id -> message of all findings with this verdict."""
        findings = self.report["runs"][0]["findings"]
        return {f["rule"]: f["reason"] or f["message"] for f in findings if f["verdict"] == verdict}

    def finding(self, rule: str) -> dict[str, Any]:
        """The finding of one rule."""
        (found,) = [f for f in self.report["runs"][0]["findings"] if f["rule"] == rule]
        return dict(found)

    def proposed(self, rule: str) -> dict[str, Any]:
        """Key -> proposed value over all fixes of one rule's finding."""
        fixes = self.finding(rule)["fixes"]
        return {o["key"]: o["proposed"] for fix in fixes for o in fix["overrides"]}


def d2check_environment() -> dict[str, str]:
    """This environment without what would change a training or a report."""
    dropped = ("PYTHONPATH", "D2CHECK_DEBUG", "D2CHECK_PLAN")
    kept = {key: value for key, value in os.environ.items() if key not in dropped}
    return {**kept, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture
def d2check(tmp_path: Path) -> Callable[..., Said]:
    """Run `d2check` with these arguments in an empty folder and read its JSON report."""

    def run(*arguments: str) -> Said:
        report = tmp_path / "report.json"
        done = subprocess.run(
            [sys.executable, "-m", "d2check", *arguments, "--json", str(report)],
            cwd=tmp_path,
            env=d2check_environment(),
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT_S,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert report.is_file(), done.stdout + done.stderr
        return Said(done.returncode, done.stdout, json.loads(report.read_text()))

    return run
