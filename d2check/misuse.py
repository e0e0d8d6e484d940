"""Trainings that never began because of how they were asked for: what to say of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2check.errors import InputError, UsageError
from d2check.model import Ending, EndingKind

if TYPE_CHECKING:
    from d2check.harness.plan import Plan

# yacs' words for a value of the wrong type, from a file and from the command line.
_WRONG_TYPE = "Type mismatch"


def refuse_misuse(ending: Ending, end: Mapping[str, Any], plan: Plan) -> None:
    """Raise UsageError where the training never began because of how it was asked for.

    end: the probe's last record. An exception in the user's own code is no misuse: that is a
    finding, with its lines. So is whatever a command of the user's own was asked wrongly.
    """
    if ending.kind is not EndingKind.CRASHED or plan.entry.get("kind") == "command":
        return
    log = f"The training's output is in {shown(plan.folder)}"
    if end.get("key") and ending.stage in ("setup", "config"):
        raise _unknown_key(str(end["key"]), plan, log)
    if ending.stage == "config" and _WRONG_TYPE in (ending.message or ""):
        raise InputError(
            _config_of(plan),
            str(ending.message),
            "a value of the key's own type",
            f"Change it in the config or in the override. {log}",
        )
    if isinstance(end.get("registered"), list):
        raise _unregistered(ending, end["registered"], log)
    if ending.stage == "setup" and ending.error == "ModuleNotFoundError":
        needed = re.search(r"No module named '(torch|detectron2)'", ending.message or "")
        if needed:
            raise InputError(
                plan.command[0],
                f"this Python has no {needed[1]}",
                "the Python that runs your training",
                f"Name it, as --python /path/to/env/bin/python. {log}",
            )
        for setup in plan.entry.get("setup", ()):
            if f"'{setup.partition('.')[0]}'" in (ending.message or "") and "/" not in setup:
                raise InputError(
                    f"--setup {setup}",
                    f"{plan.command[0]} finds no such module",
                    "a module that can be imported from here, or a file",
                    f"Name the file itself, or start where it can be imported. {log}",
                )


def _unknown_key(key: str, plan: Plan, log: str) -> InputError:
    from d2check.config import keys

    where = "override" if key in plan.entry.get("overrides", ())[::2] else _config_of(plan)
    meant = keys.renamed(key) or keys.nearest(key)
    hint = f"Did you mean {meant}" if meant else "See the config reference of Detectron2"
    return InputError(
        where,
        f"unknown key {key}",
        "a key of Detectron2, or one that a --setup file adds in d2check_setup(cfg)",
        f"{hint}? {log}" if meant else f"{hint}. {log}",
    )


def _unregistered(ending: Ending, registered: Sequence[Any], log: str) -> UsageError:
    import difflib

    from d2check.report._text import listed

    wanted = re.search(r"'([^']+)'", ending.message or "")
    own = [str(name) for name in registered]
    near = difflib.get_close_matches(wanted[1], own, n=3, cutoff=0.7) if wanted else []
    own = [*near, *(name for name in own if name not in near)]
    message = ending.message or "a data set is not registered"
    words = re.split(r"Available| \(meant |; registered are ", message)[0].strip()
    return InputError(
        "data set",
        words.rstrip(". ;:!"),
        f"one of those registered: {listed(own, 12) or 'none is'}",
        "Name the file that registers it with --setup FILE: it runs before the training, for"
        ' example with register_coco_instances("my_train", {}, "annotations.json", "images/").'
        f" {log}",
    )


def _config_of(plan: Plan) -> str:
    return shown(Path(str(plan.entry.get("config", "config"))))


def shown(folder: Path) -> str:
    """The folder as seen from here where that is shorter."""
    try:
        return str(folder.relative_to(Path.cwd()))
    except ValueError:
        return str(folder)
