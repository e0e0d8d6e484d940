"""The import contracts of pyproject.toml catch what they are there for."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINT = "from importlinter.cli import lint_imports_command as run; run()"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the package, so that a violation can be planted in it."""
    copy = tmp_path_factory.mktemp("checkout")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "d2check", copy / "d2check", ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


def lint(checkout: Path, module: str, code: str) -> str:
    """What import-linter says of the package with `code` in the new or extended `module`."""
    path = checkout / Path(*module.split(".")).with_suffix(".py")
    before = path.read_text() if path.exists() else None
    path.write_text((before or "") + f"\n{code}\n")
    try:
        answer = subprocess.run(
            [sys.executable, "-c", LINT, "--no-logo", "--no-cache"],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout), "COLUMNS": "200"},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        path.unlink() if before is None else path.write_text(before)
    return answer.stdout + answer.stderr


@pytest.mark.parametrize(
    ("module", "code", "contract"),
    [
        ("d2check.model", "import d2check.rules", "Imports go down only"),
        ("d2check.checks.planted", "import d2check.report", "Imports go down only"),
        ("d2check.sources.planted", "import d2check.report", "Imports go down only"),
        ("d2check.rules.planted", "import d2check.sources", "Imports go down only"),
        ("d2check.checks.planted", "import d2check.config", "Imports go down only"),
        ("d2check.checks.planted", "from d2check.checks import loss", "Checks never import"),
        ("d2check.report.planted", "from d2check.report import junit", "Report formats never"),
        ("d2check.sources.planted", "", "Sources: discover"),
        (
            "d2check.sources.metrics_json.planted",
            "import d2check.sources.folder",
            "Sources: discover",
        ),
        ("d2check.planted", "", "Imports go down only"),
        ("d2check.rules.planted", "import torch", "Only the probe imports torch"),
        ("d2check.cli.planted", "import detectron2.config", "Only the probe imports torch"),
        ("d2check.report.planted", "import d2check.probe.wire", "Of the probe"),
        ("d2check.harness.planted", "import d2check.probe.attach", "Of the probe"),
        ("d2check.probe.planted", "import d2check.errors", "The probe imports nothing else"),
        ("d2check.probe.planted", "import msgspec", "The probe imports nothing else"),
        ("d2check.probe.wire", "import torch", "The wire format needs"),
    ],
)
def test_planted_violation_is_caught(checkout, module, code, contract):
    said = lint(checkout, module, code)

    broken = [line for line in said.splitlines() if " BROKEN" in line]
    assert any(line.startswith(contract) for line in broken), said
    assert module in said or module.rpartition(".")[2] in said


@pytest.mark.parametrize("module", ["d2check.sources.folder", "d2check.harness.planted"])
def test_wire_format_may_be_read_by_those_who_touch_run_folders(checkout, module):
    said = lint(checkout, module, "import d2check.probe.wire")

    assert [line for line in said.splitlines() if "Of the probe" in line and "BROKEN" in line] == []


def test_wire_format_loads_without_torch():
    """import-linter does not see that a submodule runs its package's __init__."""
    code = "import sys, d2check.probe.wire; print('torch' in sys.modules)"

    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )

    assert answer.stdout == "False\n"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "d2check" / "probe").rglob("*.py")), ids=lambda path: path.name
)
def test_probe_parses_as_python_3_8(path):
    ast.parse(path.read_text(), filename=str(path), feature_version=(3, 8))
