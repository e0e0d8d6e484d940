"""The command line. A command's module is imported when that command is asked for.

Exit codes are pytest's: 0 all passed, 1 a rule failed, 2 interrupted, 3 a bug of d2check, 4 usage
error, 5 nothing could be judged.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import click

from d2check import __version__
from d2check.errors import D2CheckError, InputError

_COMMANDS = ("run", "audit", "watch", "explain", "demo", "rules")
_LABEL = 10

_EXAMPLES = """\b
d2check demo                       a healthy training on made-up data
d2check run config.yaml            train briefly and judge
d2check audit output/              judge what a training left behind

Exit codes: 0 all passed, 1 a rule failed, 2 interrupted, 3 a bug of d2check, 4 usage error,
5 nothing could be judged.
"""

INTERRUPTED, OUR_BUG, MISUSE = 2, 3, 4


class _Commands(click.Group):
    """A group whose commands live in modules of this package, one each."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"{__name__}.{cmd_name}")
        command: click.Command = module.command
        return command

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        def call() -> Any:
            name = prog_name or "d2check"
            return click.Group.main(self, args, name, complete_var, standalone_mode=False, **extra)

        if not standalone_mode:
            return call()
        sys.exit(_exit_code_of(call))


def _exit_code_of(call: Callable[[], Any]) -> int:
    """The exit code of a command; whatever goes wrong in it is told here, once."""
    try:
        result = call()
    except click.UsageError as error:
        _usage(error)
        return MISUSE
    except click.ClickException as error:
        _tell(f"error: {error.format_message()}")
        return MISUSE
    except D2CheckError as error:
        _tell(error_block(error))
        return MISUSE
    except (click.Abort, KeyboardInterrupt):
        _tell("interrupted")
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the outermost place: told as our bug, exit 3
        _tell_bug(error)
        return OUR_BUG
    return result if isinstance(result, int) else 0


def _usage(error: click.UsageError) -> None:
    message = error.format_message()
    if not message or type(error).__name__ == "NoArgsIsHelpError":
        assert error.ctx is not None
        click.echo(error.ctx.get_help(), err=True)
        return
    usage = f"{error.ctx.get_usage()}\n\n" if error.ctx else ""
    command = error.ctx.command_path if error.ctx else "d2check"
    _tell(f"{usage}error: {message}\n'{command} --help' shows what can be given.")


def error_block(error: D2CheckError) -> str:
    """An error in full: where, what was found, what was expected, what to do."""
    if not isinstance(error, InputError):
        return f"error: {error}"
    parts = (("found", error.found), ("expected", error.expected), ("do", error.todo))
    width = max(60, shutil.get_terminal_size((100, 24)).columns)
    rows = [
        textwrap.fill(
            f"  {label:<{_LABEL}}{text}",
            width,
            subsequent_indent=" " * (_LABEL + 2),
            break_long_words=False,
            break_on_hyphens=False,
        )
        for label, text in parts
    ]
    return "\n".join([f"error: {error.where}", *rows])


def _tell(text: str) -> None:
    from d2check.report._text import clean_block

    click.echo(clean_block(text), err=True)
    if os.environ.get("D2CHECK_DEBUG") and sys.exc_info()[0] is not None:
        click.echo(traceback.format_exc(), err=True)


def _tell_bug(error: Exception) -> None:
    place = traceback.extract_tb(error.__traceback__)[-1]
    _tell(
        f"This is a bug in d2check {__version__}, not in your training:\n"
        f"  {type(error).__name__}: {error}\n"
        f"  at {place.filename}:{place.lineno} in {place.name}\n"
        "Set D2CHECK_DEBUG=1 and run it again for the whole traceback, and please report it."
    )


@click.command(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EXAMPLES,
)
@click.version_option(
    __version__, "-V", "--version", prog_name="d2check", message="%(prog)s %(version)s"
)
def main() -> None:
    """Learn in minutes what a days-long Detectron2 training will do."""
