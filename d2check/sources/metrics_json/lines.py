"""One line of a metrics file to its JSON objects, whatever has happened to the line."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

ITERATION = "iteration"

_BLANK = b" \t\r\n\x00"
_MAX_TRIES = 200  # starts of an object tried in one broken line
_MAX_ITERATION = 2**53  # beyond it a float64 no longer counts by ones


def objects_of(line: bytes) -> tuple[list[dict[str, Any]], bool]:
    """The JSON objects of one line, and whether nothing else was on it.

    Two objects on one line (two processes, a lost newline) are both whole. NUL bytes, which a
    machine that lost its power leaves behind, count as a loss even around a whole object.
    """
    intact = b"\x00" not in line
    bare = line.strip(_BLANK)
    if not bare:
        return [], intact
    text = bare.decode("utf-8", "replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        objects, whole = _salvage(text)
        return objects, whole and intact
    return ([value], intact) if isinstance(value, dict) else ([], False)


def numbers_of(row: Mapping[str, Any]) -> dict[str, float] | None:
    """The numbers of a row as float64; None when it has no usable iteration.

    true and false are no numbers. An integer too large for a float64 becomes an infinity.
    """
    at = row.get(ITERATION)
    if isinstance(at, bool) or not isinstance(at, (int, float)):
        return None
    if not (0 <= at < _MAX_ITERATION and at == math.floor(at)):
        return None
    return {
        key: _as_float(value)
        for key, value in row.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def _salvage(text: str) -> tuple[list[dict[str, Any]], bool]:
    decode = json.JSONDecoder().raw_decode
    found: list[dict[str, Any]] = []
    whole, end = True, 0
    start = text.find("{")
    for _ in range(_MAX_TRIES):
        if start < 0:
            break
        try:
            value, stop = decode(text, start)
        except (ValueError, RecursionError):
            start = text.find("{", start + 1)
            continue
        whole = whole and not text[end:start].strip()
        found.append(value)
        end = stop
        start = text.find("{", end)
    return found, whole and bool(found) and not text[end:].strip()


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer of more than 308 digits
        return math.inf if value > 0 else -math.inf
