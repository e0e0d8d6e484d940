"""An exception as a record: the user's lines first, no secrets, no noise of the probe."""

from __future__ import annotations

import pathlib

import pytest

from d2check.probe import failure


def caught(function):
    try:
        function()
    except Exception as error:  # noqa: BLE001  (whatever the function raises is looked at)
        return error
    raise AssertionError("nothing was raised")


def raise_key_error():
    return {}["SOLVER"]


def test_frames_name_file_line_function_and_source():
    listed = failure.frames(caught(raise_key_error))
    assert listed[-1][0] == __file__
    assert listed[-1][2:] == ["raise_key_error", 'return {}["SOLVER"]']


def test_the_innermost_frames_of_a_library_stay():
    import json

    listed = failure.frames(caught(lambda: json.loads("{")))
    assert [frame[2] for frame in listed[-3:]] == ["loads", "decode", "raw_decode"]
    assert listed[0][0] == __file__


def test_a_package_that_is_linked_into_site_packages_is_not_the_users(tmp_path, monkeypatch):
    """As uv does with `--link-mode symlink`."""
    packages = tmp_path / "site-packages"
    packages.mkdir()
    (tmp_path / "cache").mkdir()
    (packages / "torch").symlink_to(tmp_path / "cache")
    monkeypatch.setattr(failure, "_LIBRARY_FOLDERS", (f"{packages}/",))
    assert not failure.is_users(str(packages / "torch" / "module.py"))
    assert failure.is_users(str(tmp_path / "train_net.py"))


def test_the_file_of_a_syntax_error_is_told_although_it_has_no_frame(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("a = 1\nb = = 2\n")
    error = caught(lambda: compile(path.read_text(), str(path), "exec"))
    assert failure.frames(error)[-1] == [str(path), 2, "<module>", "b = = 2"]


def test_a_key_errors_words_are_not_quoted():
    assert failure.describe(KeyError("Dataset 'a' is not registered!"))["message"] == (
        "Dataset 'a' is not registered!"
    )


@pytest.mark.parametrize(
    "error",
    [
        KeyError("Non-existent config key: SOLVER.BASE_LRR"),
        AssertionError("Non-existent key: SOLVER.BASE_LRR"),
    ],
)
def test_an_unknown_config_key_is_told_apart(error):
    assert failure.describe(error)["key"] == "SOLVER.BASE_LRR"


def test_what_an_exception_followed_from_is_told():
    def chained():
        try:
            raise_key_error()
        except KeyError as error:
            raise RuntimeError("no solver") from error

    assert failure.describe(caught(chained))["caused_by"] == "KeyError: 'SOLVER'"


def test_passwords_in_urls_are_hidden_and_long_messages_cut():
    record = failure.describe(OSError("cannot open https://me:hunter2@host/x"))
    assert record["message"] == "cannot open https://***@host/x"
    assert len(failure.describe(ValueError("x" * 10**6))["message"]) == failure.MESSAGE_LIMIT


def test_installed_packages_are_not_the_users_code():
    assert failure.is_users(__file__)
    assert not failure.is_users(pytest.__file__)
    assert not failure.is_users("<string>")


def read_labels():
    raise KeyError("plate")


@pytest.mark.parametrize("broken", [read_labels, [].pop, pathlib.Path("no", "such").read_text])
def test_an_exception_of_a_loaders_worker_is_told_as_it_was_raised_there(broken):
    wrapper = pytest.importorskip("torch._utils").ExceptionWrapper
    try:
        broken()
    except (LookupError, OSError) as error:
        here = failure.describe(error)
        passed_on = wrapper(where="in DataLoader worker process 0")
    with pytest.raises((LookupError, OSError)) as raised:
        passed_on.reraise()
    found = failure.describe(raised.value)
    assert found["error"] == here["error"]
    assert found["message"].replace("'", "") == (
        f"{here['message']} (in DataLoader worker process 0)".replace("'", "")
    )
    assert found["traceback"] == here["traceback"]


def test_of_exceptions_that_followed_each_other_in_a_worker_the_last_one_is_told():
    wrapper = pytest.importorskip("torch._utils").ExceptionWrapper
    try:
        try:
            read_labels()
        except KeyError as first:
            raise ValueError("bad label\nin line 3") from first
    except ValueError:
        passed_on = wrapper(where="in DataLoader worker process 1")
    with pytest.raises(ValueError, match="Caught") as raised:
        passed_on.reraise()
    found = failure.describe(raised.value)
    assert found["message"] == "bad label\nin line 3 (in DataLoader worker process 1)"
    assert [frame[3] for frame in found["traceback"]] == [
        'raise ValueError("bad label\\nin line 3") from first'
    ]
