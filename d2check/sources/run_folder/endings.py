"""How a run ended, by ending.json, or by the probe's own last record where there is none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from d2check.model import Ending, EndingKind
from d2check.probe import wire
from d2check.sources.run_folder.records import Records


def ending_of(path: Path, records: Records, last: int | None) -> Ending:
    """How the run of a folder ended. last: its last iteration that is judged."""
    told = json_object(path / wire.ENDING)
    end = records.end
    if told is not None and told.get("kind") in {kind.value for kind in EndingKind}:
        stage = told.get("stage") or (end or {}).get("stage")
        return _worded_ending(EndingKind(told["kind"]), {**told, "stage": stage}, wire.ENDING, last)
    if end is not None:
        return _worded_ending(_kind_of_record(end), end, str(end["read_from"]), last)
    return Ending(
        EndingKind.UNKNOWN,
        last,
        message="the folder tells no ending: d2check itself was ended, or the run still goes on",
        read_from=path.name,
    )


def _worded_ending(
    kind: EndingKind, told: Mapping[str, Any], read_from: str, last: int | None
) -> Ending:
    at = told.get("iteration", told.get("i"))
    signal = told.get("signal")
    error = told.get("error") or (str(signal) if signal else None)
    lines = told.get("traceback")
    return Ending(
        kind,
        at if isinstance(at, int) else last,
        error=str(error) if error else None,
        message=str(told["message"]) if told.get("message") else None,
        traceback=tuple(map(_frame, lines)) if isinstance(lines, list) else (),
        read_from=read_from,
        stage=str(told["stage"]) if told.get("stage") else None,
    )


def _frame(frame: Any) -> str:
    """One line of a traceback, whether it was kept as text or as [file, line, function, source]."""
    if isinstance(frame, list) and len(frame) == 4:
        file, line, function, source = frame
        return f"{file}:{line} in {function}: {source}"
    return str(frame)


def _kind_of_record(end: Mapping[str, Any]) -> EndingKind:
    kind = end.get("kind")
    if kind != "crashed":
        return EndingKind(kind) if kind in ("stopped", "finished") else EndingKind.UNKNOWN
    error, message = str(end.get("error")), str(end.get("message"))
    if "OutOfMemory" in error or "out of memory" in message:
        return EndingKind.OUT_OF_MEMORY
    if error == "FloatingPointError" or "contain Inf/NaN" in message:
        return EndingKind.NON_FINITE
    return EndingKind.INTERRUPTED if error == "KeyboardInterrupt" else EndingKind.CRASHED


def json_object(path: Path) -> Mapping[str, Any] | None:
    """The object in a small JSON file; None when the file is not there, cut, or no object."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
