"""The probe's source is fit for other people's environments."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from d2check.probe import wire

FOLDER = Path(wire.__file__).parent
SOURCES = sorted(FOLDER.rglob("*.py"))
# The last three come with Detectron2.
THE_USERS = {"torch", "detectron2", "omegaconf", "numpy", "PIL"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_the_source_is_python_3_8(path):
    ast.parse(path.read_text(), feature_version=(3, 8))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_only_the_standard_library_and_the_users_packages_are_imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            continue
        modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        for module in modules:
            top = module.partition(".")[0]
            assert top in sys.stdlib_module_names | THE_USERS | {"d2check_probe"}, module


def test_the_probe_hides_no_module_of_the_users(tmp_path):
    """Its folder leaves sys.path, the working directory takes its place."""
    (tmp_path / "wire.py").write_text("print('MINE')\n")
    code = (
        "import runpy, sys; sys.argv = [{0!r}]; sys.path[0] = {1!r}\n"
        "try:\n    runpy.run_path({0!r}, run_name='__main__')\n"
        "except KeyError as error:\n    print(error)\n"
        "import wire\nprint('d2check' in sys.modules, sys.path[0])\n"
    ).format(str(FOLDER / "main.py"), str(FOLDER))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={},
    )
    assert done.stdout.split() == ["'D2CHECK_PLAN'", "MINE", "False", str(tmp_path)], done.stderr
