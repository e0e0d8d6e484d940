"""What is given to d2check from Python: one or several, as text or as a path, or a plain refusal.

A text is a sequence of its letters too, and a list is no path: where a call is meant otherwise than
its parameter, the error says what was found and what was expected.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from d2check.errors import InputError

PathLike = str | os.PathLike[str]


def one_path(where: str, value: Any) -> Path:
    """A path that must be there. Raises InputError."""
    if not _is_path(value):
        raise _refused(where, value, "one path, as str or PathLike")
    return Path(value)


def path_or_none(where: str, value: Any) -> Path | None:
    """A path that may be None. Raises InputError."""
    return None if value is None else one_path(where, value)


def paths(where: str, *values: Any) -> list[Path]:
    """All paths of values that are paths, or collections of some. Raises InputError."""
    found = []
    for value in values:
        many = not _is_path(value) and _is_collection(value)
        for each in value if many else (value,):
            if not _is_path(each):
                raise _refused(where, each, "a path or several, each as str or PathLike")
            found.append(Path(each))
    return found


def names(where: str, value: Any) -> list[str] | None:
    """A name or several; one text may hold some between commas. None stays None."""
    if value is None:
        return None
    if isinstance(value, str):
        return [name.strip() for name in value.split(",")]
    if not _is_collection(value) or not all(isinstance(each, str) for each in value):
        raise _refused(where, value, "a name or several, each as str")
    return list(value)


def words(where: str, value: Any) -> list[str]:
    """The words of a command, each of them text, a path or a number. Raises InputError."""
    expected = 'a list of words, as ["python", "train_net.py"]'
    if not _is_collection(value):
        raise _refused(where, value, expected, "shlex.split takes a line apart")
    return [_word(where, each, expected) for each in value]


def overrides(value: Any, *, lazy: bool) -> list[str]:
    """KEY, VALUE, KEY, VALUE ... of a list or a mapping (key=value for a LazyConfig).

    Values may be numbers, truths, None, lists and tuples as well as text; for a LazyConfig mappings
    too.
    """
    expected = "a mapping of keys to values, or KEY, VALUE, KEY, VALUE ... in a list"
    if isinstance(value, Mapping):
        pairs = [(_word("overrides", key, expected), each) for key, each in value.items()]
        if lazy:
            return [f"{key}={_value(each, _in_hydra)}" for key, each in pairs]
        return [word for key, each in pairs for word in (key, _value(each))]
    if not _is_collection(value):
        raise _refused("overrides", value, expected)
    return [_value(each) for each in value]


def number(where: str, value: Any) -> int | None:
    """A whole number, or None. Raises InputError."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise _refused(where, value, "a whole number")


def seconds(where: str, value: Any) -> float | None:
    """A number of seconds, or None. Raises InputError."""
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return value
    raise _refused(where, value, "a number of seconds")


def text(where: str, value: Any) -> str | None:
    """One text, or None. Raises InputError."""
    if value is None or isinstance(value, str):
        return value
    raise _refused(where, value, "one text")


def _is_path(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, os.PathLike) and isinstance(os.fspath(value), str)
    )


def _is_collection(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))


def _word(where: str, value: Any, expected: str) -> str:
    if _is_path(value):
        return str(os.fspath(value))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    raise _refused(where, value, expected)


def _value(value: Any, literal: Callable[[Any], str] = repr) -> str:
    """As an override is written: text stays, of anything else the literal."""
    return str(os.fspath(value)) if _is_path(value) else literal(value)


def _in_hydra(value: Any) -> str:
    """As Hydra's grammar has it, which LazyConfig reads: no tuples, and null for None."""
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_in_hydra(each)}" for key, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_in_hydra, value)) + "]"
    return repr(os.fspath(value) if _is_path(value) else value)


def _refused(where: str, value: Any, expected: str, todo: str | None = None) -> InputError:
    shown = repr(value)
    found = f"{shown if len(shown) <= 60 else shown[:57] + '...'} ({type(value).__name__})"
    return InputError(where, found, expected, todo or "Change the argument of the call")
