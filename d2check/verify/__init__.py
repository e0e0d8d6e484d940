"""Trains again to see whether what was found holds, and whether what repairs it does."""

from d2check.verify.proof import known_proofs, prove
from d2check.verify.ramp import CONFIRM, confirm_ramp, wants_confirmation

__all__ = ["CONFIRM", "confirm_ramp", "known_proofs", "prove", "wants_confirmation"]
