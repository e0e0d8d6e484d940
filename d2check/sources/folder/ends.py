"""Kinds of ending by what they tell, for whoever weighs one file's against another's."""

from __future__ import annotations

from d2check.model import EndingKind

SAYS_NOTHING = (EndingKind.UNKNOWN, EndingKind.TRUNCATED)
CRASHES = (
    EndingKind.CRASHED,
    EndingKind.OUT_OF_MEMORY,
    EndingKind.NON_FINITE,
    EndingKind.KILLED,
    EndingKind.HUNG,
)
