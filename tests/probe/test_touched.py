"""Which files of a user's output folder changed although nothing of it should."""

from __future__ import annotations

import os

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
def watcher(tmp_path):
    return touched.Touched(str(tmp_path / "run"))


def test_what_native_code_changes_adds_and_removes_is_told_by_name(watcher, out):
    watcher.watch(str(out))
    (out / "a.png").write_text("overwritten")
    (out / "new.h5").write_text("")
    (out / "inference/c.json").unlink()
    message = watcher.tell()
    for words in ("a.png has changed", "new.h5 is new", "c.json is gone"):
        assert words in message
    assert "b.csv" not in message
    assert watcher.tell() is None


def test_a_file_of_the_same_size_is_told_by_its_time(watcher, out):
    watcher.watch(out)
    os.utime(out / "a.png", ns=(1, 1))
    assert "a.png has changed" in watcher.tell()


def test_an_untouched_folder_and_one_that_is_not_there_tell_nothing(watcher, out):
    watcher.watch(out)
    watcher.watch(out.parent / "none")
    watcher.watch(None)
    assert watcher.tell() is None


def test_the_run_folder_and_the_folder_that_the_script_works_in_are_not_watched(
    watcher, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run/child-output").mkdir(parents=True)
    watcher.watch("run/child-output")
    watcher.watch(".")
    (tmp_path / "run/child-output/metrics.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("")
    assert watcher.tell() is None


def test_of_a_folder_with_very_many_files_the_first_are_looked_at(watcher, out, monkeypatch):
    monkeypatch.setattr(touched, "LISTED", 2)
    watcher.watch(out)
    (out / "z.png").write_text("")
    assert watcher.tell() is None


def test_many_files_are_told_in_few_words(watcher, out):
    watcher.watch(out)
    for number in range(20):
        (out / f"{number}.png").write_text("")
    assert watcher.tell().endswith("and 15 more")
