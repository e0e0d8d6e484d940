"""Trains again to see whether what was found holds, and whether what repairs it does."""

from d2check.verify.lower import try_lower_rate, wants_lower_rate
from d2check.verify.proof import known_proofs, prove
from d2check.verify.ramp import CONFIRM, confirm_ramp, wants_confirmation

__all__ = [
    "CONFIRM",
    "confirm_ramp",
    "known_proofs",
    "prove",
    "try_lower_rate",
    "wants_confirmation",
    "wants_lower_rate",
]
