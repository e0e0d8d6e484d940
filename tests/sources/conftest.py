"""Detectron2's own trainer on a toy, for whoever tests against real files."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    """`toy.train(folder, length)` and `toy.Toy(breaks_at)`; skipped without Detectron2."""
    pytest.importorskip("detectron2", reason="needs Detectron2")
    path = Path(__file__).with_name("detectron2_toy.py")
    spec = importlib.util.spec_from_file_location("detectron2_toy", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
