"""Refuses what cannot work before a process is started for it, and says what would."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from d2check.errors import InputError, UsageError

_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_KEY = re.compile(r"[^\W\d]\w*(\.\w+)*")
_PYTHON = re.compile(r"(python|pypy)[\d.]*(\.exe)?")


def check_config_file(path: Path) -> None:
    """Refuse what cannot be a Detectron2 config, before a process is started for it.

    Shallow on purpose: `_BASE_`, keys and values are judged by Detectron2 itself in the child. A
    LazyConfig (.py) is code, which only the child may run.
    """
    text = _read_config(path)
    if path.suffix == ".py":
        return
    import yaml

    try:
        # Nodes only: configs with Detectron2's own `!!python/...` tags are built by the child.
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise _bad_config(place, f"not YAML ({problem})") from error
    if root is None:
        raise _bad_config(str(path), "holds nothing but comments")
    if not isinstance(root, yaml.MappingNode):
        what = "a list" if isinstance(root, yaml.SequenceNode) else "a single text"
        raise _bad_config(str(path), f"holds {what}")


def check_overrides(overrides: Sequence[str], *, lazy: bool = False) -> None:
    """Overrides come as KEY VALUE KEY VALUE; those of a LazyConfig as key=value."""
    if lazy:
        for each in overrides:
            if "=" not in each:
                raise UsageError(f"override {each!r}: expected key=value, as for any LazyConfig.")
        return
    for key in overrides[::2]:
        name, equals, value = key.partition("=")
        if equals and _KEY.fullmatch(name):
            raise UsageError(f"override {key!r}: expected KEY VALUE. Write {name} {value}.")
        if not _KEY.fullmatch(key):
            raise UsageError(
                f"override {key!r}: expected a config key, as SOLVER.BASE_LR. Overrides come in "
                "pairs KEY VALUE; quote a value that holds spaces."
            )
    if len(overrides) % 2:
        raise UsageError(f"override {overrides[-1]!r} has no value. Write {overrides[-1]} VALUE.")


def check_command(command: Sequence[str]) -> None:
    """Refuse a command that cannot be started, or whose Python would not load the probe.

    Raises InputError or UsageError. Any program is allowed (torchrun, a shell script): only what
    comes of it tells whether it trains.
    """
    if not command or not command[0].strip():
        raise UsageError("no command after --. Write: d2check run -- python train_net.py ...")
    program = command[0]
    if shutil.which(program) is None:
        if program.endswith(".py") and Path(program).is_file():
            words = " ".join(["python", *command[:3]])
            raise UsageError(f"{program} is not executable. Write: d2check run -- {words} ...")
        raise InputError(
            program, "there is no such program", "the command that starts your training",
            "Write it after -- as you would without d2check",
        )  # fmt: skip
    if not _PYTHON.fullmatch(Path(program).name):
        return
    arguments = iter(command[1:])
    for word in arguments:
        if not word.startswith("-") or word in ("-m", "-c"):
            _check_script(word)
            return
        if not word.startswith("--") and set("EIS") & set(word[1:]):
            raise UsageError(
                f"{word} has Python ignore its environment, and the probe comes in by that. "
                f"Leave {word} out for the check."
            )
        if word in ("-W", "-X"):
            next(arguments, None)


def _check_script(script: str) -> None:
    if script.endswith(".py") and not Path(script).is_file():
        found = "it is a folder" if Path(script).is_dir() else "there is no such file"
        raise InputError(script, found, "your training script", "Check the path")


def resolve_setup(setup: str) -> str:
    """The absolute path of a setup file, or the dotted name of a setup module, as it is."""
    path = Path(setup)
    if path.is_file():
        if not os.access(path, os.R_OK):
            raise InputError(
                setup, "no permission to read it", "a readable file", "Change its mode"
            )
        return os.path.abspath(path)
    looks_like_path = path.suffix == ".py" or os.sep in setup or "/" in setup or path.exists()
    if looks_like_path or not _MODULE.fullmatch(setup):
        found = "it is a folder" if path.is_dir() else "there is no such file"
        raise InputError(
            f"--setup {setup}",
            found,
            "a Python file or a module that registers the data sets",
            "Name the file that your training imports for that",
        )
    return setup


def find_interpreter(name: str) -> str:
    """The interpreter's absolute path, with links kept: a virtual environment is known by them."""
    has_folder = os.sep in name or (os.altsep is not None and os.altsep in name)
    found = shutil.which(os.path.abspath(name) if has_folder else name)
    if found:
        return os.path.abspath(found)
    if Path(name).is_dir():
        what = "it is a folder"
    elif Path(name).exists():
        what = "it is not executable"
    else:
        what = "there is no such program"
    todo = "Name the one that runs your training, as --python /path/to/env/bin/python"
    raise InputError(f"--python {name}", what, "a Python interpreter", todo)


def default_interpreter(environment: Mapping[str, str]) -> str:
    """The Python that can train: this one if it has torch and Detectron2, else the active one.

    d2check may live apart (pipx, uv tool); then the user's environment is the activated one, or
    the `python` on the path.
    """
    if importlib.util.find_spec("torch") and importlib.util.find_spec("detectron2"):
        return sys.executable
    for folder in (environment.get("VIRTUAL_ENV"), environment.get("CONDA_PREFIX")):
        for name in ("bin/python", "Scripts/python.exe", "python.exe"):
            candidate = Path(folder, name) if folder else None
            if candidate and candidate.is_file() and os.access(candidate, os.X_OK):
                return str(candidate)
    path = environment.get("PATH")
    return shutil.which("python", path=path) or shutil.which("python3", path=path) or sys.executable


def _read_config(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():
            found = "it is a folder" if path.is_dir() else "it is not a regular file"
            raise _bad_config(str(path), found)
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise _bad_config(str(path), "there is no such file") from error
    except UnicodeDecodeError as error:
        raise _bad_config(str(path), "it is not text") from error
    except (OSError, ValueError) as error:
        found = getattr(error, "strerror", None) or str(error)
        raise _bad_config(str(path), found) from error
    if not text.strip():
        raise _bad_config(str(path), "it is empty")
    if "\0" in text:
        raise _bad_config(str(path), "it is not text")
    return text


def _bad_config(where: str, found: str) -> InputError:
    return InputError(
        where, found, "a Detectron2 config (YAML with KEY: VALUE)", "Name your training's config"
    )
