"""Takes secrets out of what is kept: values of telling names, passwords inside URLs."""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "***"
_WORDS = "token(?!iz)|passw|secret|api_?key|access_?key|credential"
_KEY = re.compile(_WORDS, re.IGNORECASE)
# As in a line of source. Bounded, so that a long line does not cost the square of its length.
_ASSIGNED = re.compile(
    r"""((?:%s)[\w-]{0,40}["']?\]?\s{0,3}[=:]\s{0,3})(["'])[^"']{1,4000}\2""" % _WORDS,
    re.IGNORECASE,
)
_URL_LOGIN = re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)")


def redact(value: Any, key: str = "") -> Any:
    """A copy of plain data (dicts, lists, scalars) without secrets."""
    if isinstance(value, dict):
        return {name: redact(item, str(name)) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(redact(item, key) for item in value)
    if _KEY.search(key) and isinstance(value, str) and value:
        return HIDDEN
    if isinstance(value, str):
        return redact_text(value)
    return value


def redact_text(text: str) -> str:
    """Text without the user and password of URLs, and without what `api_key="..."` names."""
    return _ASSIGNED.sub(r"\1\2" + HIDDEN + r"\2", _URL_LOGIN.sub(HIDDEN, text))
