"""Errors without their traceback: its last line alone in a paste, or a message quoted in prose."""

from __future__ import annotations

import re

from d2check.sources.log_txt.tracebacks import MESSAGE_CHARS, Crash

_NAMED = re.compile(
    r"[*#\"'`\s-]*(?P<name>(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception))[*\"'`]*: *"
    r"(?P<text>\S.*)"
)
# Detectron2's, PyTorch's and CUDA's own words, which mean an end wherever they stand in a line.
_DEADLY = re.compile(
    r"(?:(?P<name>(?:[A-Za-z_]\w*\.)*\w*Error): *)?(?P<text>(?:Loss became infinite or NaN|"
    r"Predicted boxes or scores contain Inf/NaN|CUDA out of memory|CUDA error: device-side assert)"
    r".*)",
    re.IGNORECASE,
)
_USUAL = {"l": "FloatingPointError", "p": "FloatingPointError", "c": "RuntimeError"}
_GOES_ON = re.compile(r"^\W*loss_dict = ")


def error_of(text: str, line: int) -> Crash | None:
    """The error that a line outside of any traceback names, if it does."""
    found = _NAMED.match(text) or _DEADLY.search(text)
    if found is None:
        return None
    message = found["text"].strip().strip("*`\"'")[:MESSAGE_CHARS]
    name = found["name"] or _USUAL[message[:1].lower()]
    return Crash(line, name[:1].upper() + name[1:] if "." not in name else name, message, ())


def goes_on(text: str) -> bool:
    """Whether a line belongs to the message of the error in the line before it."""
    return _GOES_ON.match(text) is not None
