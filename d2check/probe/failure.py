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
# torch.utils.data reraises a worker's exception with its traceback as the message.
_OF_WORKER = re.compile(
    r"Caught \w+ in (DataLoader worker process \d+|pin memory thread[^.\n]*)\.\n"
    r"Original (Traceback .*)",
    re.DOTALL,
)
_TRACEBACK = "Traceback (most recent call last):"
_FRAME_LINE = re.compile(r'^  File "(.+)", line (\d+), in (.+)$')
# Words of Detectron2's loop, proposals and boxes, of torch's clip_grad_norm_, and of SciPy's
# assignment, which the matchers of DETRs call.
_NON_FINITE = re.compile(
    r"contains? Inf/NaN|infinite or NaN|non-finite|NaN or Inf|contains invalid numeric entries",
    re.IGNORECASE,
)
# Scripts with a loop of their own assert that the loss is finite, as Detectron2's plain_train_net
# does. The cost of DETRs' matchers asserts that a predicted box has its corners in order, which
# boxes of a centre, a width and a height have unless they are NaN; so do fvcore's losses of FCOS's.
_ASSERTS_FINITE = re.compile(
    r"^assert\b.*(\bis(finite|nan|inf)\b|\(boxes1\[:, 2:\] >= boxes1\[:, :2\]\)\.all\(\)"
    r"|\((x2 >= x1|y2 >= y1)\)\.all\(\))"
)
_UNKNOWN_KEY = re.compile(r"Non-existent (?:config )?key: ([\w.]+)")


def describe(error: BaseException) -> dict[str, Any]:
    """The fields of an `end` record that tell of an exception."""
    message = str(error)
    if isinstance(error, KeyError) and len(error.args) == 1:
        message = str(error.args[0])  # str() of a KeyError is the repr of its words
    broken = broken_assertion(error)
    if broken:
        message = "NaN or infinity: %s" % "; ".join(filter(None, (broken, message)))
    stack = frames(error)
    if isinstance(error, Exception):
        message, stack = _as_the_worker_told_it(message) or (message, stack)
    record: dict[str, Any] = {
        "error": type(error).__name__,
        "message": redact_text(message[:MESSAGE_LIMIT]),
        "traceback": stack,
    }
    unknown = _UNKNOWN_KEY.search(message)
    if unknown:
        record["key"] = unknown.group(1)
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if isinstance(earlier, Exception):
        text = "%s: %s" % (type(earlier).__name__, earlier)
        record["caused_by"] = redact_text(text[:MESSAGE_LIMIT])
    return record


def is_non_finite(error: BaseException) -> bool:
    """Whether a training was ended for NaN or infinity, in a loss or in what the model predicts."""
    if isinstance(error, FloatingPointError) or _NON_FINITE.search(str(error)):
        return True
    return broken_assertion(error) is not None


def gpu_is_unusable(error: BaseException | None) -> bool:
    """Whether the GPU has no room left, or is lost: nothing more may be asked of it."""
    return error is not None and "CUDA" in "%s %s" % (type(error).__name__, error)


def broken_assertion(error: BaseException) -> str | None:
    """The line of an assertion that something is finite, where it did not hold."""
    if not isinstance(error, AssertionError) or error.__traceback__ is None:
        return None
    frame, line = list(traceback.walk_tb(error.__traceback__))[-1]
    source = linecache.getline(frame.f_code.co_filename, line).strip()
    return source if _ASSERTS_FINITE.match(source) else None


def frames(error: BaseException) -> list[list[Any]]:
    """[file, line, function, source line] of the frames worth reading, outermost first.

    Kept are the innermost three and every frame outside installed packages, the user's own; the
    probe's are dropped.
    """
    stack = [
        (frame.f_code.co_filename, line, frame.f_code.co_name)
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    listed = _worth_reading(stack)
    if isinstance(error, SyntaxError) and error.filename:
        # The mistake itself is in no frame: the file was never run.
        listed.append([error.filename, error.lineno or 0, "<module>", (error.text or "").strip()])
    return listed


def _worth_reading(stack: list[tuple[str, int, str]]) -> list[list[Any]]:
    stack = [entry for entry in stack if not _is_machinery(entry[0])]
    kept = [
        entry
        for position, entry in enumerate(stack)
        if position >= len(stack) - INNERMOST or is_users(entry[0])
    ]
    return [
        [path, line, function, redact_text(linecache.getline(path, line).strip())]
        for path, line, function in kept[-FRAMES_LIMIT:]
    ]


def _as_the_worker_told_it(message: str) -> tuple[str, list[list[Any]]] | None:
    """Message and frames of an exception that a loader's worker passed on; None for any other."""
    told = _OF_WORKER.match(message)
    if told is None:
        return None
    # The last one: those before it were being handled when it was raised.
    lines = told.group(2).rpartition(_TRACEBACK)[2].splitlines()
    stack: list[tuple[str, int, str]] = []
    words: list[str] = []
    for line in lines:
        frame = _FRAME_LINE.match(line)
        if frame:
            stack.append((frame.group(1), int(frame.group(2)), frame.group(3)))
        elif words or (line and not line.startswith(" ")):
            words.append(line)
    if not stack or not words:
        return None
    words[0] = words[0].partition(": ")[2] or words[0]  # the class has a field of its own
    # KeyError, whose repr torch keeps on one line.
    text = "\n".join(words).strip()
    return "%s (in %s)" % (text, told.group(1)), _worth_reading(stack)


def _is_machinery(path: str) -> bool:
    return path.startswith("<frozen ") or os.path.realpath(path).startswith(_PROBE_FOLDER)


def is_users(path: str) -> bool:
    """Whether a source file belongs to nobody's installed package."""
    if path.startswith("<"):  # <string>, made by exec
        return False
    names = (os.path.abspath(path), os.path.realpath(path))
    return not any(name.startswith(_LIBRARY_FOLDERS) for name in names)
