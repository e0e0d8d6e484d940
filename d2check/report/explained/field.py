"""One explained field, and how shares and places are written."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ExplainedField:
    """One field. normal and watch are empty where nothing can be said."""

    field: str
    value: str
    means: str
    here: str
    normal: str = ""
    watch: str = ""


def percent(share: float) -> str:
    """`0.6 %`, `1.1 %`, `38 %`, `100 %`."""
    if share > 0.995:
        return "100 %"
    if 0 < share < 0.01:
        return f"{100 * share:.1g} %"
    return f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"


def ordinal(number: int) -> str:
    """`1st`, `60th`, `10,002nd`."""
    last = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{last}"
