"""How a run ended, as a measurement."""

from __future__ import annotations

from d2check.checks._words import NO_ENDING, counted
from d2check.model import Ending, EndingKind, Event, Measurement, Scalar

_UNHAPPY = {
    EndingKind.CRASHED,
    EndingKind.OUT_OF_MEMORY,
    EndingKind.NON_FINITE,
    EndingKind.KILLED,
    EndingKind.HUNG,
}

_OTHER_STARTS = ("restart", "resume", "two-writers", "second-writer", "failed-start")


def ended_badly(ending: Ending, last_iteration: int | None = None) -> Measurement:
    """1 if the training was ended by an error or a signal, 0 if it was not, with the kind in words.

    extras: kind (text of EndingKind), error, message, where (last of the user's lines), at
    (iteration). Undecided where no trace tells how it ended.
    """
    return _is(ending, _UNHAPPY, last_iteration)


def ended_as(ending: Ending, kind: str, last_iteration: int | None = None) -> Measurement:
    """1 if the training ended in this way (text of EndingKind), else 0; extras as ended_badly."""
    return _is(ending, {EndingKind(kind)}, last_iteration)


def out_of_memory(
    ending: Ending,
    events: tuple[Event, ...] = (),
    last_iteration: int | None = None,
    images_per_batch: int | None = None,
) -> Measurement:
    """1 if the GPU's memory did not suffice, 0.5 if Detectron2 got round it, else 0.

    Detectron2 retries some operations on the CPU after an OOM: slow, and a warning of the next
    one. extras as ended_badly, and half_batch (images per batch for a try with half as many).
    """
    found = _is(ending, {EndingKind.OUT_OF_MEMORY}, last_iteration)
    survived = [e for e in events if e.kind in ("oom", "out-of-memory")]
    extras = dict(found.extras)
    extras["half_batch"] = (
        images_per_batch // 2 if images_per_batch and images_per_batch > 1 else None
    )
    value, undecided = found.value, found.undecided
    if survived and not value:
        value, undecided = 0.5, None
        extras["at"], extras["message"] = survived[0].iteration, survived[0].message
    return Measurement(value, "yes/no", found.span, extras, undecided)


def runs_mixed(
    events: tuple[Event, ...] = (),
    first_iteration: int | None = None,
    segment: int = 0,
    *,
    apart: int = 100,
) -> Measurement:
    """How many other runs share this run's file: restarts, resumes, and a second writer.

    A resume that several sources tell of, less than `apart` iterations from each other, is one. One
    at the first rows is how these rows began: whatever was before, its rows are not among them,
    unless they stand before these in the same file (segment: how many runs do).

    extras: kinds, counted ("1 other start", "3 other starts").
    """
    mixed: list[Event] = []
    for event in events:
        if event.kind not in _OTHER_STARTS:
            continue
        at = event.iteration
        told = [e.iteration for e in mixed if e.kind == event.kind and e.iteration is not None]
        if event.kind == "resume" and first_iteration is not None:
            told.append(first_iteration)
        if at is None or all(abs(at - other) > apart for other in told):
            mixed.append(event)
    kinds = sorted({e.kind for e in mixed} | ({"earlier rows"} if segment and not mixed else set()))
    others = max(len(mixed), segment)
    extras: dict[str, Scalar] = {
        "kinds": ", ".join(kinds) or None,
        "counted": counted(others, "other start"),
    }
    return Measurement(float(others), "runs", None, extras)


def missing_share(ending: Ending, planned_iterations: int, last_iteration: int) -> Measurement:
    """Share of the planned iterations that the traces do not show (0 = complete).

    Undecided where the run was stopped on purpose, and where an error ended it: that says it all.
    """
    missing = max(0.0, 1.0 - (last_iteration + 1) / max(planned_iterations, 1))
    extras: dict[str, Scalar] = {"kind": ending.kind.value, "at": last_iteration}
    undecided = None
    if ending.kind in (EndingKind.STOPPED, EndingKind.INTERRUPTED):
        undecided = f"the run was {ending.kind.value} on purpose"
    elif ending.kind is EndingKind.RUNNING:
        undecided = NO_ENDING[ending.kind]
    elif ending.kind in _UNHAPPY:
        undecided = f"the run's end is known: {ending.kind.value}"
    if ending.kind is EndingKind.FINISHED:
        missing = 0.0
    return Measurement(missing, "share", (0, last_iteration), extras, undecided)


def _is(ending: Ending, kinds: set[EndingKind], last_iteration: int | None) -> Measurement:
    at = ending.iteration if ending.iteration is not None else last_iteration
    extras: dict[str, Scalar] = {
        "kind": ending.kind.value,
        "error": ending.error,
        "message": ending.message,
        "where": ending.traceback[-1] if ending.traceback else None,
        "at": at,
    }
    undecided = NO_ENDING.get(ending.kind)
    return Measurement(float(ending.kind in kinds), "yes/no", None, extras, undecided)
