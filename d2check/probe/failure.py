"""An exception as a record: its words, and a traceback that begins with the user's own lines."""

from __future__ import annotations

import linecache
import os
import re
import sysconfig
import traceback
from typing import Any

from .redact import redact_text

MESSAGE_LIMIT = 4000  # characters; a NaN loss lists all its losses, a config error the whole node
FRAMES_LIMIT = 40
INNERMOST = 3

# As they are and with links followed: installers may link packages into them from elsewhere.
_LIBRARY_FOLDERS = tuple(
    follow(path) + os.sep
    for path in {
        sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")
    }
    if path
    for follow in (os.path.abspath, os.path.realpath)
)
_PROBE_FOLDER = os.path.dirname(os.path.realpath(__file__)) + os.sep
# yacs: "Non-existent config key: A.B" (files) and "Non-existent key: A.B" (command line).
_UNKNOWN_KEY = re.compile(r"Non-existent (?:config )?key: ([\w.]+)")


def describe(error: BaseException) -> dict[str, Any]:
    """The fields of an `end` record that tell of an exception."""
    message = str(error)
    if isinstance(error, KeyError) and len(error.args) == 1:
        message = str(error.args[0])  # str() of a KeyError is the repr of its words
    record: dict[str, Any] = {
        "error": type(error).__name__,
        "message": redact_text(message[:MESSAGE_LIMIT]),
        "traceback": frames(error),
    }
    unknown = _UNKNOWN_KEY.search(message)
    if unknown:
        record["key"] = unknown.group(1)
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if isinstance(earlier, Exception):
        text = "%s: %s" % (type(earlier).__name__, earlier)
        record["caused_by"] = redact_text(text[:MESSAGE_LIMIT])
    return record


def frames(error: BaseException) -> list[list[Any]]:
    """[file, line, function, source line] of the frames worth reading, outermost first.

    Kept are the innermost three and every frame outside installed packages, the user's own; the
    probe's are dropped.
    """
    stack = [
        (frame.f_code.co_filename, line, frame.f_code.co_name)
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    stack = [entry for entry in stack if not _is_machinery(entry[0])]
    kept = [
        entry
        for position, entry in enumerate(stack)
        if position >= len(stack) - INNERMOST or is_users(entry[0])
    ]
    listed = [
        [path, line, function, linecache.getline(path, line).strip()]
        for path, line, function in kept[-FRAMES_LIMIT:]
    ]
    if isinstance(error, SyntaxError) and error.filename:
        # The mistake itself is in no frame: the file was never run.
        listed.append([error.filename, error.lineno or 0, "<module>", (error.text or "").strip()])
    return listed


def _is_machinery(path: str) -> bool:
    return path.startswith("<frozen ") or os.path.realpath(path).startswith(_PROBE_FOLDER)


def is_users(path: str) -> bool:
    """Whether a source file belongs to nobody's installed package."""
    if path.startswith("<"):  # <string>, made by exec
        return False
    names = (os.path.abspath(path), os.path.realpath(path))
    return not any(name.startswith(_LIBRARY_FOLDERS) for name in names)
