"""Facts that the checker itself adds to a finished run folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from d2check.model import Scalar
from d2check.probe import wire


def amend(folder: Path, facts: Mapping[str, Scalar]) -> None:
    """Append a record of facts, so that an audit of the folder comes to the same verdicts."""
    with (folder / wire.RECORDS).open("a", encoding="ascii") as file:
        # A child that was killed may have left half a line.
        file.write("\n" + wire.encode({"t": "facts", "facts": dict(facts)}))
