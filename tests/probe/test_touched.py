"""Which files of a user's output folder changed although nothing of it should."""

from __future__ import annotations

import os
import types

import pytest

from d2check.probe import touched


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    (folder / "inference").mkdir(parents=True)
    for name in ("a.png", "b.csv", "inference/c.json"):
        (folder / name).write_text("earlier")
    return folder


@pytest.fixture
def told(tmp_path):
    return []


@pytest.fixture
def watcher(tmp_path, told):
    recorder = types.SimpleNamespace(note=lambda kind, message: told.append((kind, message)))
    plan = types.SimpleNamespace(folder=str(tmp_path / "run"))
    return touched.Touched(types.SimpleNamespace(plan=plan, recorder=recorder))


def test_what_native_code_changes_adds_and_removes_is_told_by_name(watcher, out, told):
    watcher.watch(str(out))
    (out / "a.png").write_text("overwritten")
    (out / "new.h5").write_text("")
    (out / "inference/c.json").unlink()
    watcher.tell()
    ((kind, message),) = told
    assert kind == "files-touched"
    for words in ("a.png has changed", "new.h5 is new", "c.json is gone"):
        assert words in message
    assert "b.csv" not in message
    watcher.tell()
    assert len(told) == 1


def test_a_file_of_the_same_size_is_told_by_its_time(watcher, out, told):
    watcher.watch(out)
    os.utime(out / "a.png", ns=(1, 1))
    watcher.tell()
    assert "a.png has changed" in told[0][1]


def test_an_untouched_folder_and_one_that_is_not_there_tell_nothing(watcher, out, told):
    watcher.watch(out)
    watcher.watch(out.parent / "none")
    watcher.watch(None)
    watcher.tell()
    assert told == []


def test_the_run_folder_and_the_folder_that_the_script_works_in_are_not_watched(
    watcher, tmp_path, told, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run/child-output").mkdir(parents=True)
    watcher.watch("run/child-output")
    watcher.watch(".")
    (tmp_path / "run/child-output/metrics.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("")
    watcher.tell()
    assert told == []


def test_of_a_folder_with_very_many_files_the_first_are_looked_at(watcher, out, told, monkeypatch):
    monkeypatch.setattr(touched, "LISTED", 2)
    watcher.watch(out)
    (out / "z.png").write_text("")
    watcher.tell()
    assert told == []


def test_many_files_are_told_in_few_words(watcher, out, told):
    watcher.watch(out)
    for number in range(20):
        (out / f"{number}.png").write_text("")
    watcher.tell()
    assert told[0][1].endswith("and 15 more")
