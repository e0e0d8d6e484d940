"""How a run ended, as a measurement."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from d2check.checks._words import NO_ENDING, counted
from d2check.model import Ending, EndingKind, Event, Measurement, Scalar

_UNHAPPY = {
    EndingKind.CRASHED,
    EndingKind.OUT_OF_MEMORY,
    EndingKind.NON_FINITE,
    EndingKind.KILLED,
    EndingKind.HUNG,
}

_SIZE = r"([\d.]+) ([KMGT]iB|bytes)"
_MIB = {"bytes": 2.0**-20, "KiB": 2.0**-10, "MiB": 1.0, "GiB": 2.0**10, "TiB": 2.0**20}
# What PyTorch's CUDACachingAllocator says. Since 2.1 it names the processes on the GPU.
_ON_HOST = re.compile(r"DefaultCPUAllocator|Cannot allocate memory")
_PROCESS = re.compile(rf"Process \d+ has {_SIZE} memory in use")
_THIS_PROCESS = re.compile(rf"this process has {_SIZE} memory in use")
_ALLOCATED = re.compile(rf"{_SIZE} (?:is allocated by PyTorch|already allocated)")
_TOTAL = re.compile(rf"{_SIZE} total capac|total capac\w+ of {_SIZE}")
_FREE = re.compile(rf"{_SIZE} (?:is )?free")
_RESERVED = re.compile(rf"{_SIZE} reserved in total by PyTorch")
# Context, kernels and libraries of one process beside PyTorch's own blocks: less than this.
BESIDE_TORCH_MIB = 2048.0

# What a training refuses. Its start: fvcore's MultiStepParamScheduler, Detectron2's scheduler
# before v0.5, and detectron2/data/build.py.
_REFUSED = (
    ("steps", re.compile(r"\bmile?stones?\b|Total num_updates must be greater", re.IGNORECASE)),
    ("batch", re.compile(r"atch.* must be divisible by", re.IGNORECASE)),
    # detectron2/structures/instances.py, where a head wants what no object of the batch has.
    ("masks", re.compile(r"Cannot find field 'gt_masks'")),
    ("keypoints", re.compile(r"Cannot find field 'gt_keypoints'")),
    # torch/cuda/__init__.py, of a script that sends its model or data there by itself.
    ("cpu", re.compile(r"Found no NVIDIA driver|Torch not compiled with CUDA enabled")),
    # detectron2/layers/deform_conv.py, engine/train_loop.py and engine/launch.py.
    (
        "gpu",
        re.compile(
            r"not supported on CPUs|CUDA is required for AMP|cuda is not available\. Please check"
        ),
    ),
    # Names that Detectron2 0.6 and code of its time use: gone in numpy 1.24 and 2.0, Pillow 10.
    ("numpy-1.24", re.compile(r"module 'numpy' has no attribute '(bool|int|float|object|str)'")),
    ("numpy-2", re.compile(r"`np\.\w+` was removed in the NumPy 2\.0")),
    ("pillow", re.compile(r"module 'PIL\.Image' has no attribute '(LINEAR|ANTIALIAS|CUBIC)'")),
)

_OTHER_STARTS = ("restart", "resume", "two-writers", "second-writer", "failed-start")


def ended_badly(ending: Ending, last_iteration: int | None = None) -> Measurement:
    """1 if the training was ended by an error or a signal, 0 if it was not, with the kind in words.

    extras: kind (text of EndingKind), error, message, where (last of the user's lines), at
    (iteration), refused (by the error's words: "steps" of the schedule, the "batch", objects
    without "masks" or "keypoints", a "cpu" where a GPU was asked for or is needed ("gpu"), a newer
    "numpy-1.24", "numpy-2" or "pillow" than the code was written for; else "nothing").
    Undecided where no trace tells how it ended.
    """
    found = _is(ending, _UNHAPPY, last_iteration)
    refused = [what for what, words in _REFUSED if words.search(ending.message or "")]
    return replace(found, extras={**found.extras, "refused": refused[0] if refused else "nothing"})


def ended_as(ending: Ending, kind: str, last_iteration: int | None = None) -> Measurement:
    """1 if the training ended in this way (text of EndingKind), else 0; extras as ended_badly."""
    return _is(ending, {EndingKind(kind)}, last_iteration)


def out_of_memory(
    ending: Ending,
    events: tuple[Event, ...] = (),
    last_iteration: int | None = None,
    images_per_batch: int | None = None,
    others_mib: float | None = None,
    *,
    matters_mib: float = 1024.0,
) -> Measurement:
    """1 if memory did not suffice, 0.5 if Detectron2 got round it, else 0.

    Detectron2 retries some operations on the CPU after an OOM: slow, and a warning of the next
    one. others_mib: what other processes held of the GPU, MiB, where that was looked at; PyTorch's
    own words tell it too. extras as ended_badly, half_batch (images per batch for a try with half
    as many), others_gib (held by others, None below matters_mib), on_host (1 where it was the
    host's memory and not the GPU's) and host_error (its words for that, else None).
    """
    found = _is(ending, {EndingKind.OUT_OF_MEMORY}, last_iteration)
    survived = [e for e in events if e.kind in ("oom", "out-of-memory")]
    extras = dict(found.extras)
    extras["half_batch"] = (
        images_per_batch // 2 if images_per_batch and images_per_batch > 1 else None
    )
    held = max(others_mib or 0.0, held_by_others(ending.message) or 0.0)
    extras["others_gib"] = held / 1024 if held >= matters_mib else None
    on_host = bool(found.value) and _is_of_host(ending)
    extras["on_host"] = float(on_host)
    extras["host_error"] = (ending.error or "no more memory") if on_host else None
    value, undecided = found.value, found.undecided
    if survived and not value:
        value, undecided = 0.5, None
        extras["at"], extras["message"] = survived[0].iteration, survived[0].message
    return Measurement(value, "yes/no", found.span, extras, undecided)


def _is_of_host(ending: Ending) -> bool:
    """By Python's, the kernel's and PyTorch's words (c10/core/impl/alloc_cpu.cpp)."""
    text = ending.message or ""
    return ending.error == "MemoryError" or bool(_ON_HOST.search(text))


def held_by_others(message: str | None) -> float | None:
    """MiB that other processes hold of the GPU, at least, by the words of an out-of-memory error.

    None where they tell nothing of it. In a container PyTorch names this process by a number too:
    it is one that holds what PyTorch has allocated, and the largest such leaves least to others.
    """
    text = message or ""
    total, free = _mib(_TOTAL, text), _mib(_FREE, text)
    allocated = _mib(_ALLOCATED, text) or 0.0
    held = [_in_mib(*found) for found in _PROCESS.findall(text)]
    if total is not None and any(mib > total for mib in held):
        held = []  # the driver does not know, and PyTorch words that as 16 EiB
    elif held and not _THIS_PROCESS.search(text):
        held.remove(max([mib for mib in held if mib >= allocated], default=held[0]))
        return sum(held)
    if held or _THIS_PROCESS.search(text):
        return sum(held)
    reserved = _mib(_RESERVED, text)
    if total is None or free is None or reserved is None:
        return None
    return max(0.0, total - free - reserved - BESIDE_TORCH_MIB)


def _mib(pattern: re.Pattern[str], text: str) -> float | None:
    found = pattern.search(text)
    if found is None:
        return None
    size, unit = (part for part in found.groups() if part is not None)
    return _in_mib(size, unit)


def _in_mib(size: str, unit: str) -> float:
    try:
        return float(size) * _MIB[unit]
    except ValueError:  # 1.2.3: no number of PyTorch's
        return 0.0


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


def missing_share(
    ending: Ending,
    planned_iterations: int,
    last_iteration: int,
    first_iteration: int | None = None,
    events: Sequence[Event] = (),
    *,
    first_rows: int = 200,
) -> Measurement:
    """Share of the planned iterations that the traces do not show (0 = complete).

    Undecided where the run was stopped on purpose, where an error ended it (that says it all), and
    where the traces begin after the first `first_rows` iterations and no log tells of a resume
    there: they may be an excerpt.
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
    elif _may_be_excerpt(ending, first_iteration or 0, events, first_rows):
        undecided = (
            f"the rows begin at iteration {first_iteration:,}, so they may be an excerpt that ends "
            "where it was cut"
        )
    if ending.kind is EndingKind.FINISHED:
        missing = 0.0
    return Measurement(missing, "share", (0, last_iteration), extras, undecided)


def _may_be_excerpt(ending: Ending, first: int, events: Sequence[Event], first_rows: int) -> bool:
    # A log says so; of rows that begin in the middle, that they do is all that is known.
    resumed = any(e.kind == "resume" and e.message.startswith("resumed at") for e in events)
    return ending.kind is EndingKind.TRUNCATED and first > first_rows and not resumed


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
