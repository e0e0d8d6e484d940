"""Whether what the model is made of, and what it is given, are numbers."""

from __future__ import annotations

from d2check.model import Ending, EndingKind, Measurement


def broken_weights(groups_not_finite: int) -> Measurement:
    """How many modules or parameters hold NaN or infinity when the training ends."""
    return Measurement(float(groups_not_finite), "groups")


def broken_batch(batch_not_finite: int | None = None, ending: Ending | None = None) -> Measurement:
    """How many images and boxes of the batch over which a training became NaN were no numbers.

    They were looked at as the model was given them, so any that is none is the cause.
    """
    if batch_not_finite is not None:
        return Measurement(float(batch_not_finite), "inputs")
    if ending is not None and ending.kind is EndingKind.NON_FINITE:
        why = "nobody looked at the batch that became NaN; `d2check run` does"
    else:
        why = "no NaN ended the training"
    return Measurement(None, undecided=why)
