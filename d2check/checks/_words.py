"""Words that reasons and messages share."""

from __future__ import annotations

from collections.abc import Mapping

from d2check.model import EndingKind

NO_ENDING: Mapping[EndingKind, str] = {
    EndingKind.UNKNOWN: "no trace tells how the run ended",
    EndingKind.RUNNING: "the training is still running",
    EndingKind.TRUNCATED: "the traces stop before the planned end and nothing tells why",
}


def counted(number: float, noun: str) -> str:
    """`1 row`, `4 rows`, `2.5 images`."""
    amount = f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"
    return f"{amount} {noun}{'' if number == 1 else 's'}"
