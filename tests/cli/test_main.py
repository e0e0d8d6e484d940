import re
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

import d2check.cli
from d2check import __version__
from d2check.cli import error_block, main
from d2check.errors import InputError, UsageError


@pytest.mark.parametrize("arguments", [["--help"], ["run", "-h"], ["audit", "-h"], ["--version"]])
def test_help_needs_nothing_heavy(arguments):
    code = (
        "import sys\n"
        "from d2check.cli import main\n"
        f"main({arguments!r}, standalone_mode=False)\n"
        "heavy = {'numpy', 'scipy', 'rich', 'yaml', 'msgspec', 'junitparser'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_version_is_told():
    assert CliRunner().invoke(main, ["--version"]).output == f"d2check {__version__}\n"


@pytest.mark.parametrize("name", ["run", "audit", "watch", "demo", "rules"])
def test_every_command_has_help_with_an_example(name):
    shown = CliRunner().invoke(main, [name, "--help"])
    assert shown.exit_code == 0
    assert f"d2check {name} " in shown.output.partition("Options:")[2]


@pytest.mark.parametrize("arguments", [["audti"], ["run"], ["audit"], ["run", "--budget"], []])
def test_a_misuse_is_exit_4_and_says_where_help_is(arguments):
    shown = CliRunner().invoke(main, arguments)
    assert shown.exit_code == 4
    assert "--help" in shown.output


@pytest.fixture
def failing(monkeypatch):
    """A command that fails as it is told."""

    def use(error):
        @click.command()
        def command():
            raise error

        monkeypatch.setattr(d2check.cli._Commands, "get_command", lambda *_: command)
        return CliRunner().invoke(main, ["run"])

    return use


def test_an_error_of_ours_is_exit_3_and_asks_to_be_reported(failing):
    shown = failing(ZeroDivisionError("division by zero"))
    assert shown.exit_code == 3
    assert "This is a bug in d2check" in shown.output
    assert re.search(r"at .*test_main.py:\d+", shown.output)
    assert "Traceback" not in shown.output


def test_debug_shows_the_traceback(failing, monkeypatch):
    monkeypatch.setenv("D2CHECK_DEBUG", "1")
    assert "Traceback" in failing(ZeroDivisionError()).output
    assert "Traceback" in failing(UsageError("no")).output


def test_an_interrupt_is_exit_2(failing):
    assert failing(KeyboardInterrupt()).exit_code == 2


def test_a_mistake_of_the_input_is_exit_4_without_a_traceback(failing):
    shown = failing(UsageError("the folder is full"))
    assert shown.exit_code == 4
    assert shown.output == "error: the folder is full\n"


def test_an_error_block_says_where_what_expected_and_what_to_do():
    block = error_block(InputError("a.yaml", "a list", "a mapping", "Name another"))
    assert block.splitlines() == [
        "error: a.yaml",
        "  found     a list",
        "  expected  a mapping",
        "  do        Name another",
    ]


def test_the_names_of_users_cannot_repaint_the_terminal(failing):
    shown = failing(UsageError("no file \x1b[31mred\x1b[0m"))
    assert shown.output == "error: no file red\n"
