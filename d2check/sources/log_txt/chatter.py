"""Lines about nothing that is looked for, told from the rest at a glance.

A user's own prints may be most of a log. They must not cost what a message that matters costs.
"""

from __future__ import annotations

import re

from d2check.sources.log_txt import messages, raw

_HEAD = re.compile(
    rb"\[\d\d/\d\d \d\d:\d\d:\d\d(?: [^\]\n]*\]|\] [\w.]+ INFO): (?![ \t])(?P<word>[^ ]+)"
)
# A quote, a label, another logger's stamp or a level may begin so.
_MAYBE_HEADED = b">[(0123456789WECDI \t\v\f`"
_STAMP = re.compile(rb"\[\d\d/\d\d \d\d:\d\d:\d\d")
_WORDS = frozenset(word.encode() for word in messages.WORDS)


def is_idle_message(line: bytes) -> bool:
    """Whether a line is a message of Detectron2's logger whose first word tells nothing."""
    head = _HEAD.match(line)
    return head is not None and head["word"] not in _WORDS


def is_idle_text(line: bytes) -> bool:
    """Whether a line that no logger wrote tells nothing, among `quiet` lines and outside of
    tracebacks and blocks.
    """
    # An empty line as well begins so.
    if line[:1] in _MAYBE_HEADED or line.partition(b" ")[0] in _WORDS:
        return False
    return b"[" not in line or _STAMP.search(line) is None


def is_quiet(lines: bytes) -> bool:
    """Whether none of the lines tells how a process ended."""
    return not any(hint in lines for hint in raw.HINTS)
