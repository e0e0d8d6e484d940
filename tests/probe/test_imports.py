"""Modules are patched right after their import, by whatever way they are imported."""

from __future__ import annotations

import importlib
import sys

import pytest

from d2check.probe.imports import AfterImport


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package whose `__init__` copies a name out of its submodule."""
    folder = tmp_path / "patched_package"
    folder.mkdir()
    (folder / "part.py").write_text("def answer():\n    return 1\n")
    (folder / "__init__.py").write_text("from .part import answer\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield "patched_package"
    for name in [name for name in sys.modules if name.startswith("patched_package")]:
        del sys.modules[name]


def patch(module):
    module.answer = lambda: 2


def test_a_name_copied_on_import_is_the_patched_one(package):
    after_import = AfterImport()
    after_import.add("patched_package.part", patch)
    after_import.install()
    assert importlib.import_module(package).answer() == 2


def test_several_actions_run_in_order(package):
    seen = []
    after_import = AfterImport()
    for number in (1, 2):
        after_import.add(package, lambda module, number=number: seen.append(number))
    after_import.install()
    importlib.import_module(package)
    assert seen == [1, 2]


def test_a_module_that_is_there_already_is_patched_at_once(package):
    module = importlib.import_module("patched_package.part")
    AfterImport().add("patched_package.part", patch)
    assert module.answer() == 2


def test_a_module_that_does_not_exist_fails_as_ever(package):
    after_import = AfterImport()
    after_import.add("patched_package.missing", patch)
    after_import.install()
    with pytest.raises(ModuleNotFoundError, match=r"patched_package\.missing"):
        importlib.import_module("patched_package.missing")


def test_a_module_that_raises_is_not_patched(package, tmp_path):
    (tmp_path / package / "broken.py").write_text("raise RuntimeError('mine')\n")
    after_import = AfterImport()
    after_import.add("patched_package.broken", patch)
    after_import.install()
    with pytest.raises(RuntimeError, match="mine"):
        importlib.import_module("patched_package.broken")
