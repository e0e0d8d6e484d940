"""Takes secrets out of what is kept: values under telling keys, passwords inside URLs."""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "***"
_KEY = re.compile(r"token(?!iz)|passw|secret|api_?key|access_?key|credential", re.IGNORECASE)
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
    """Text without the user and password of URLs."""
    return _URL_LOGIN.sub(HIDDEN, text)
