"""What set-up decides, reuses and refuses. Making the real environment is what CI itself does."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import environment
import pytest
from environment import Interpreter, SetupError, Stamp

PLAIN = Interpreter(
    path="/usr/bin/python3",
    version=(3, 12, 1),
    prefix="/usr",
    base_path="/usr/bin/python3",
    detectron2=None,
    search=(),
)
WITH_DETECTRON2 = replace(PLAIN, detectron2="/site-packages/detectron2/__init__.py")


def test_interpreter_without_detectron2_gives_the_pinned_environment():
    assert environment.decide(PLAIN, recipe="r").kind == "pinned"


def test_interpreter_with_detectron2_is_borrowed():
    assert environment.decide(WITH_DETECTRON2, recipe="r").kind == "borrowed"


def test_python_3_10_is_borrowed_but_not_built_on():
    assert environment.decide(replace(WITH_DETECTRON2, version=(3, 10, 0)), recipe="r")
    with pytest.raises(SetupError, match=r"needs 3\.11 or newer"):
        environment.decide(replace(PLAIN, version=(3, 10, 13)), recipe="r")


def test_old_python_with_detectron2_is_told_how_to_use_d2check_all_the_same():
    with pytest.raises(SetupError, match="d2check run --python /usr/bin/python3"):
        environment.decide(replace(WITH_DETECTRON2, version=(3, 8, 18)), recipe="r")


def test_another_plain_python_on_the_path_keeps_the_environment():
    other = replace(PLAIN, path="/opt/python3", version=(3, 13, 0))

    assert environment.decide(PLAIN, recipe="r").key == environment.decide(other, recipe="r").key


@pytest.mark.parametrize(
    ("base", "recipe"),
    [
        (PLAIN, "other pins"),
        (WITH_DETECTRON2, "r"),
        (replace(WITH_DETECTRON2, path="/opt/python3"), "r"),
    ],
)
def test_other_pins_or_another_detectron2_make_a_new_environment(base, recipe):
    before = environment.decide(PLAIN, recipe="r")

    assert environment.decide(base, recipe=recipe).key != before.key


def test_running_interpreter_is_described():
    found = environment.inspect_interpreter(sys.executable)

    assert found.version == sys.version_info[:3]
    assert found.prefix == sys.prefix


def test_interpreter_that_does_not_run_is_an_error_that_says_what_to_do():
    with pytest.raises(SetupError, match=r"/nowhere/python: .* Set D2CHECK_PYTHON"):
        environment.inspect_interpreter("/nowhere/python")


def test_folder_called_detectron2_is_not_an_installed_detectron2(tmp_path, monkeypatch):
    (tmp_path / "detectron2").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    found = environment.inspect_interpreter(sys.executable)

    assert found.detectron2 is None or str(tmp_path) not in found.detectron2


def test_pins_are_exact_and_every_heading_is_there():
    pins = environment.read_pins(environment.PINS.read_text())

    assert set(pins) == {"training", "core", "tools", "indirect"}
    assert all("==" in pin for section in pins.values() for pin in section)


def test_only_missing_tools_are_added_whatever_the_spelling_of_names():
    pins = {"core": ["PyYAML==6.0.3"], "tools": ["pytest_xdist==3.8.0", "ruff==0.17"]}
    installed = {"pyyaml": "5.4", "pytest-xdist": "2.0"}

    assert environment.missing_requirements(pins, installed) == ["ruff"]


def test_everything_installed_is_held_but_d2check_itself():
    held = environment.constraints({"NumPy": "1.23.5", "torch": "2.1.0+cu118", "d2check": "0.0.9"})

    assert held == "numpy==1.23.5\ntorch==2.1.0+cu118\n"


def test_borrowed_packages_and_editable_installs_import_through_the_pth_file(tmp_path):
    """An editable Detectron2 is a .pth file inside site-packages, a second step away."""
    source, packages = tmp_path / "my source", tmp_path / "site-packages"
    source.mkdir()
    packages.mkdir()
    (source / "borrowed_source.py").write_text("")
    (packages / "borrowed_package.py").write_text("")
    (packages / "editable.pth").write_text(str(source))
    pth = tmp_path / "site" / "borrowed.pth"
    pth.parent.mkdir()
    pth.write_text(environment.path_lines([str(packages)]))

    load = f"import site; site.addsitedir({str(pth.parent)!r}); import borrowed_source"
    subprocess.run([sys.executable, "-c", f"{load}, borrowed_package"], check=True)


def made(venv: Path) -> Stamp:
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").write_text("")
    plan = environment.decide(PLAIN, recipe="r")
    environment.write_stamp(plan, venv, (str(venv / "bin" / "python"),))
    stamp = environment.read_stamp(venv)
    assert stamp is not None
    return stamp


def test_whole_environment_is_recognised(tmp_path):
    assert made(tmp_path / "venv").key == environment.decide(PLAIN, recipe="r").key


def test_environment_whose_interpreter_was_removed_is_not_reused(tmp_path):
    made(tmp_path)
    (tmp_path / "bin" / "python").unlink()
    (tmp_path / "bin" / "python").symlink_to("/nowhere/python3")

    assert environment.read_stamp(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"must_exist": [], "other": 1}'])
def test_damaged_stamp_is_no_stamp(tmp_path, content):
    made(tmp_path)
    (tmp_path / environment.STAMP).write_text(content)

    assert environment.read_stamp(tmp_path) is None


def test_half_made_environment_of_ours_is_cleared(tmp_path):
    venv = tmp_path / "venv"
    venv.mkdir()
    (venv / environment.MARKER).write_text("")

    environment.clear(venv)

    assert not venv.exists()


def test_folder_that_is_not_ours_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")

    with pytest.raises(SetupError, match="left alone"):
        environment.clear(tmp_path)

    assert (tmp_path / "thesis.tex").exists()


def test_failing_command_is_shown_with_its_last_words_and_the_log(tmp_path, capsys):
    steps = environment.Steps(total=1, log=tmp_path / "setup.log")

    with (
        pytest.raises(SetupError, match=r"status 3:\n  no space left(.|\n)*setup\.log"),
        steps.step("install") as run,
    ):
        run(
            sys.executable, "-c", "import sys; print('no space left', file=sys.stderr); sys.exit(3)"
        )

    assert "no space left" in (tmp_path / "setup.log").read_text()
    assert capsys.readouterr().out == "setup: [1/1] install ... failed\n"


def test_second_set_up_waits_for_the_first(tmp_path):
    venv = tmp_path / "venv"
    code = (
        f"import sys; sys.path.insert(0, {str(environment.CI)!r})\n"
        "import environment, pathlib\n"
        f"with environment.locked(pathlib.Path({str(venv)!r})): print('in')"
    )
    with environment.locked(venv):
        second = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert second.stdout is not None
        assert "waiting for another set-up" in second.stdout.readline()
        assert second.poll() is None
    with second:
        assert second.stdout.read() == "in\n"
