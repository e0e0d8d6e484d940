"""Files of earlier trainings, which a check of a script must neither overwrite nor remove."""

from __future__ import annotations

import io
import os
import shutil
import types

import pytest

from d2check.probe import kept


@pytest.fixture
def user(tmp_path, monkeypatch):
    """A user's folder with an earlier training in `out` and other things beside it."""
    folder = tmp_path / "user"
    (folder / "out").mkdir(parents=True)
    (folder / "out/model_final.pth").write_bytes(b"weeks of work")
    (folder / "out/metrics.json").write_text("{}\n")
    (folder / "out/notes.csv").write_text("a,b\n")
    (folder / "data.json").write_text("old annotations")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def check(user, tmp_path):
    """The guard's functions, as a process under a check has them."""
    run = tmp_path / "run"
    run.mkdir()
    told = []
    session = types.SimpleNamespace(
        plan=types.SimpleNamespace(folder=str(run), child_output=str(run / "child-output")),
        stage="build",
        neutralised=told.append,
    )
    guard = kept.Guard(session)

    def save(obj, f):
        if isinstance(f, (str, os.PathLike)):
            with io.open(f, "wb") as file:  # noqa: UP020 - not the guarded one
                file.write(obj)
        else:
            f.write(obj)

    return types.SimpleNamespace(
        session=session,
        told=told,
        run=run,
        apart=run / "child-output" / kept.FOLDER,
        open=guard.opening(io.open),
        save=guard.saving(save),
        stat=guard.looking(os.stat),
        remove=guard.removing(os.remove),
        replace=guard.renaming(os.replace),
        rmtree=guard.removing_tree(shutil.rmtree),
        mkdir=guard.making(os.mkdir),
    )


@pytest.fixture
def unchanged(user):
    """What is there before is there after."""

    def contents():
        files = [path for path in user.rglob("*") if path.is_file()]
        return {path: path.read_bytes() for path in files}

    before = contents()
    yield
    assert contents() == before


@pytest.mark.parametrize("name", ["out/model_final.pth", "out/metrics.json", "out/notes.csv"])
def test_a_file_of_an_earlier_training_is_not_overwritten(check, unchanged, name):
    with check.open(name, "w") as file:
        file.write("of the check")
    with check.open(name) as file:
        assert file.read() == "of the check"  # the script finds what it wrote
    assert check.told == [f"files: {name} is not overwritten"]


def test_what_is_appended_follows_what_was_there(check, unchanged):
    for line in ("c,d\n", "e,f\n"):
        with check.open("out/notes.csv", "a") as file:
            file.write(line)
    assert (check.apart / "notes.csv").read_text() == "a,b\nc,d\ne,f\n"
    assert len(check.told) == 1


def test_a_checkpoint_is_saved_apart_by_its_path_and_by_an_open_file(check, unchanged, user):
    check.session.stage = "train"
    check.save(b"by path", user / "out" / "model_final.pth")
    check.save(b"new", "checkpoint-of-the-script")
    with check.open("best.pth", "wb") as file:
        check.save(b"by file", file)
    assert {path.name: path.read_bytes() for path in check.apart.iterdir()} == {
        "model_final.pth": b"by path",
        "checkpoint-of-the-script": b"new",
        "best.pth": b"by file",
    }
    assert "files: best.pth is not written" in check.told


def test_weights_that_a_script_converts_before_it_trains_are_its_own(check, user):
    check.save(b"converted", "init.pth")
    assert (user / "init.pth").read_bytes() == b"converted"
    check.save(b"converted again", "init.pth")
    assert (user / "init.pth").read_bytes() == b"converted again"
    assert check.told == []


def test_a_script_that_looks_after_what_it_has_saved_finds_it(check, user):
    check.session.stage = "train"
    check.save(b"12345", "best.pth")
    assert check.stat("best.pth").st_size == 5
    assert check.stat(user).st_size == user.stat().st_size
    with check.open("data.json") as file:
        assert check.stat(file.fileno()).st_size == len("old annotations")


def test_files_beside_the_script_are_its_own_though_weights_lie_there_too(check, user):
    (user / "pretrained.pth").write_bytes(b"weights")
    with check.open("data.json", "w") as file:
        file.write("new annotations")
    assert (user / "data.json").read_text() == "new annotations"
    with check.open("pretrained.pth", "w") as file:
        file.write("of the check")
    assert (user / "pretrained.pth").read_bytes() == b"weights"


def test_data_and_caches_are_the_scripts_own(check, user):
    with check.open("data.json", "w") as file:
        file.write("new annotations")
    check.remove("data.json")
    assert check.told == []
    assert not (user / "data.json").exists()


def test_files_are_neither_removed_nor_replaced(check, unchanged):
    check.remove("out/model_final.pth")
    check.session.stage = "train"
    with check.open("model.tmp.pth", "wb") as file:
        file.write(b"of the check")
    check.replace("model.tmp.pth", "out/model_final.pth")
    with check.open("out/model_final.pth", "rb") as file:
        assert file.read() == b"of the check"
    check.remove("out/model_final.pth")  # its own one, this time
    with check.open("out/model_final.pth", "rb") as file:
        assert file.read() == b"weeks of work"


def test_a_file_that_is_put_aside_stays_where_it_was(check, unchanged):
    check.replace("out/model_final.pth", "out/model_old.pth")
    with check.open("out/model_old.pth", "rb") as file:
        assert file.read() == b"weeks of work"
    assert check.told == ["files: out/model_final.pth is not renamed"]


def test_a_file_replaced_by_one_that_was_written_under_another_name(check, unchanged, user):
    (user / "written").write_text("")  # before: `unchanged` wants nothing new to stay
    with check.open("x.tmp", "w") as file:
        file.write("of the check")
    check.replace("x.tmp", "out/notes.csv")
    assert (check.apart / "notes.csv").read_text() == "of the check"
    (user / "written").unlink()


def test_an_output_folder_is_not_cleared(check, unchanged, user):
    check.rmtree("out")
    check.rmtree(user)
    assert check.told == ["files: out is not removed", f"files: {user} is not removed"]


def test_a_folder_that_was_to_be_cleared_can_be_made_anew(check, unchanged, user):
    (user / "out/images").mkdir()
    check.rmtree("out")
    for folder in ("out", user / "out/images"):
        check.mkdir(folder)
        with pytest.raises(FileExistsError):
            check.mkdir(folder)
    check.mkdir("elsewhere")
    assert (user / "elsewhere").is_dir()


def test_a_script_clears_its_output_folder_by_whatever_way(train, tmp_path):
    source = """
import os, pathlib, shutil, sys
import torch
out = pathlib.Path("out")
for make in (out.mkdir, lambda: os.makedirs("out"), lambda: os.mkdir("out")):
    shutil.rmtree("out")
    make()
(out / "model_final.pth").unlink()
print(sorted(os.listdir("out")))
"""
    (train.cwd / "out").mkdir()
    (train.cwd / "out/model_final.pth").write_text("weeks of work")
    (train.cwd / "out/metrics.json").write_text("{}")
    ran = train.script(source)
    assert ran.status == 0, ran.stderr
    assert (train.cwd / "out/model_final.pth").read_text() == "weeks of work"


def test_a_folder_without_results_is(check, user):
    (user / "cache" / "deep").mkdir(parents=True)
    check.rmtree("cache")
    assert not (user / "cache").exists()


def test_the_run_folder_itself_is_not_guarded(check):
    (check.run / "model.pth").write_bytes(b"1")
    check.session.stage = "train"
    check.save(b"2", check.run / "model.pth")
    assert (check.run / "model.pth").read_bytes() == b"2"
    check.rmtree(check.run)
    assert not check.run.exists()


def test_files_of_one_name_from_two_folders_do_not_meet(check, user):
    (user / "b").mkdir()
    (user / "b/model_final.pth").write_bytes(b"other work")
    for name in ("out", "b"):
        with check.open(f"{name}/model_final.pth", "w") as file:
            file.write(name)
    assert check.open("out/model_final.pth").read() == "out"
    assert check.open("b/model_final.pth").read() == "b"


def test_what_is_no_path_is_left_alone(check, tmp_path):
    handle = os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT)
    with check.open(handle, "w") as file:
        file.write("by number")
    buffer = io.BytesIO()
    check.save(b"1", buffer)
    assert buffer.getvalue() == b"1"
    with pytest.raises(FileExistsError):
        check.open("out/notes.csv", "x")


def test_a_script_with_thousands_of_files_is_told_in_few_words(check, user):
    for number in range(40):
        (user / f"{number}.pth").write_bytes(b"")
        check.remove(user / f"{number}.pth")
    assert len(check.told) == kept.TOLD + 1
