"""How a training ended, from all that was seen of it. Pure: evidence in, Ending out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import PurePath
from typing import Any

from d2check.harness.stacks import frame_of, place_of, stack_of, where_it_hung
from d2check.model import Ending, EndingKind

READ_FROM = "ending.json"
MESSAGE_CHARS = 4000
TRACEBACK_LINES = 20
IMAGES = 8  # of a batch that are named

# PyTorch's own words, its CUDA libraries' and NCCL's, and those of the host's allocators. "CUDA
# driver error": of expandable segments. "ran out": of memory that cuDNN wanted, since torch 2.14.
_OUT_OF_MEMORY = re.compile(
    r"(CUDA|HIP|XPU|MPS backend|(CUDA|HIP)( driver)? error:) (ran )?out of memory"
    r"|C(UBLAS|UDNN|USOLVER|USPARSE)_STATUS_ALLOC_FAILED|Cuda failure \d+ 'out of memory'"
    r"|DefaultCPUAllocator: (can't allocate|not enough) memory|Cannot allocate memory"
)
# Detectron2: train_loop (loss), proposal_utils and fast_rcnn (predictions), structures/boxes;
# torch's clip_grad_norm_; SciPy's assignment, which matchers of the DETR family call.
_NON_FINITE = re.compile(
    r"infinite or NaN|contains? Inf/NaN|non-finite|NaN or Inf|contains invalid numeric entries",
    re.IGNORECASE,
)
_LAST_LINE = re.compile(r"^((?:[A-Za-z_]\w*\.)*[A-Z]\w*)(?:: (.*))?$")
_FRAME = re.compile(r'^  File "(.+)", line (\d+), in (.+)$')

# Python's input() at the end of an empty standard input.
_NO_ANSWER = (
    "the script asks a question, and a check gives it no input; d2check run -- sh -c "
    "'echo y | python train.py' answers y"
)

# detectron2/data/catalog.py; the names of detectron2/data/datasets/builtin.py.
_NOT_REGISTERED = re.compile(r"Dataset '(.+?)' is not registered! Available datasets are: (.+)")
_BUILTIN_SETS = (
    "coco_20",
    "keypoints_coco_20",
    "lvis_v",
    "cityscapes_fine_",
    "voc_20",
    "ade20k_sem",
)

_SIGNALS = {
    "SIGKILL": "a person, a job scheduler or the kernel's out-of-memory killer sends it",
    "SIGSEGV": "native code read memory that is not its own",
    "SIGBUS": "often shared memory (/dev/shm) is too small for the loader workers",
    "SIGABRT": "native code gave up",
    "SIGTERM": "a person or a job scheduler asked it to end",
    "SIGXCPU": "the limit on CPU time was reached",
    "SIGILL": "native code was built for another processor",
}


@dataclass(frozen=True)
class Evidence:
    """What was seen of the end of a training.

    end: the probe's last record, of the rank that ended the others where there are several; rank
    then names it. exit_status, signal_name: of the process, both None when nobody
    saw it. interrupted: d2check was asked to stop. hung: why it counts as hung, in words.
    unseen: why the probe could not join it.
    over_budget: it was ended from outside because it outlived its budget. stderr: last lines.
    memory: what speaks for the host's memory having run out, in words. recording_failed: why
    records are missing.
    """

    end: Mapping[str, Any] | None = None
    rank: str | None = None
    exit_status: int | None = None
    signal_name: str | None = None
    last_iteration: int | None = None
    interrupted: bool = False
    hung: str | None = None
    unseen: str | None = None
    over_budget: bool = False
    stderr: Sequence[str] = ()
    memory: str | None = None
    recording_failed: str | None = None


def classify(seen: Evidence) -> Ending:
    """How the training ended. What d2check did to it weighs more than how it then died."""
    told = seen.end.get("kind") if seen.end is not None else None
    if seen.interrupted:
        return _ending(seen, EndingKind.INTERRUPTED, message="interrupted before it was done")
    if seen.unseen is not None:
        return _ending(seen, EndingKind.UNKNOWN, message=seen.unseen)
    if told == "crashed" and seen.end is not None:
        return _crash_of_record(seen, seen.end)
    if told == "unseen" and seen.end is not None:
        return _ending(seen, EndingKind.UNKNOWN, message=_text(seen.end.get("message")))
    if told in ("stopped", "finished"):
        kind = EndingKind.STOPPED if told == "stopped" else EndingKind.FINISHED
        return _ending(seen, kind, message=_left_badly(seen))
    if seen.hung is not None:
        where, stack = where_it_hung(seen.stderr)
        return _ending(seen, EndingKind.HUNG, message=seen.hung + where, traceback=stack)
    if seen.over_budget:
        return _ending(seen, EndingKind.STOPPED, message="ended from outside, past its budget")
    if seen.signal_name is not None or told in ("interrupted", "killed"):
        return _killed(seen)
    if seen.exit_status:
        return _crash_of_stderr(seen)
    return _silent(seen)


def crash_kind(error: str | None, message: str | None) -> EndingKind:
    """Whether an exception means out of memory, non-finite numbers, or any other crash."""
    text = message or ""
    name = (error or "").rpartition(".")[2]
    if name in ("OutOfMemoryError", "MemoryError") or _OUT_OF_MEMORY.search(text):
        return EndingKind.OUT_OF_MEMORY
    if _NON_FINITE.search(text) or (name == "FloatingPointError" and "nan" in text.lower()):
        return EndingKind.NON_FINITE
    return EndingKind.CRASHED


def traceback_of(lines: Sequence[str]) -> tuple[str | None, str | None, tuple[str, ...]]:
    """Error class, message and frames ("file:line in function") of the last Python traceback."""
    start = None
    for index, line in enumerate(lines):
        if line.startswith("Traceback (most recent call last):"):
            start = index
    if start is None:
        return None, None, ()
    frames: list[str] = []
    for index in range(start + 1, len(lines)):
        line = lines[index]
        found = _FRAME.match(line)
        if found:
            source = lines[index + 1].strip() if index + 1 < len(lines) else ""
            source = "" if _FRAME.match(f"  {source}") else source
            frames.append(frame_of(found[1], found[2], found[3], source))
        elif not line.startswith(" "):
            last = _LAST_LINE.match(line)
            if last is None:
                return None, line, tuple(frames)
            message = "\n".join([last[2] or "", *lines[index + 1 : index + 12]]).strip()
            return last[1], message or None, tuple(frames)
    return None, None, tuple(frames)


def _crash_of_record(seen: Evidence, end: Mapping[str, Any]) -> Ending:
    error, message = _text(end.get("error")), _text(end.get("message"))
    if error == "ProcessRaisedException":
        # torch.multiprocessing's spawn, before any rank trained: stderr ends with the rank's own.
        inner = traceback_of(seen.stderr)
        if inner[0] is not None:
            return _ending(seen, crash_kind(inner[0], inner[1]), *inner)
    frames = tuple(
        frame_of(*(str(part) for part in frame))
        for frame in end.get("traceback") or ()
        if isinstance(frame, (list, tuple)) and len(frame) in (3, 4)
    )
    kind, message = crash_kind(error, message), _without_builtin_sets(message)
    asked = _NO_ANSWER if error == "EOFError" and "reading a line" in (message or "") else None
    image = _text(end.get("image"))
    loading = f"it was loading {image}" if image and not _names(message, image) else None
    for more in filter(
        None, (_images_of(end), loading, _missing_of(end), _weights_of(end, message), asked)
    ):
        message = f"{message.rstrip('.')}; {more}" if message else more
    return _ending(seen, kind, error, message, frames)


def _images_of(end: Mapping[str, Any]) -> str | None:
    """Which images the batch held that was being trained on."""
    files = end.get("batch_files")
    if not isinstance(files, list) or not files:
        return None
    names = [PurePath(str(file)).name for file in files]
    more = f" and {len(names) - IMAGES} more" if len(names) > IMAGES else ""
    return f"the batch was of {', '.join(names[:IMAGES])}{more}"


def _without_builtin_sets(message: str | None) -> str | None:
    """Detectron2 lists its 50 own data sets before the user's, which are those that were meant."""
    told = _NOT_REGISTERED.match(message or "")
    if told is None:
        return message
    own = [name for name in told[2].split(", ") if not name.startswith(_BUILTIN_SETS)]
    near = get_close_matches(told[1].lower(), [name.lower() for name in own], 1)
    meant = next((name for name in own if [name.lower()] == near), None)
    return (
        f"Dataset '{told[1]}' is not registered"
        + (f" (meant '{meant}'?)" if meant else "")
        + f"; registered are {', '.join(own) or 'none'}, and Detectron2's own"
    )


def _missing_of(end: Mapping[str, Any]) -> str | None:
    """How many images of the training set are not there."""
    counts = end.get("images_missing")
    if not isinstance(counts, list) or len(counts) != 2:
        return None
    return f"of {counts[1]:,} image files that were looked for {counts[0]:,} do not exist"


def _names(message: str | None, file: str) -> bool:
    """Whether an error's words name this file; it may do so by another way to it."""
    return PurePath(file).name in (message or "")


def _weights_of(end: Mapping[str, Any], message: str | None) -> str | None:
    """Which checkpoint was being loaded, where the error does not say so: a failed download."""
    weights = _text(end.get("weights"))
    if not weights or weights in (message or ""):
        return None
    return f"it came from loading the weights {weights}"


def _crash_of_stderr(seen: Evidence) -> Ending:
    error, message, frames = traceback_of(seen.stderr)
    if error is None and message is None:
        last = next((line for line in reversed(seen.stderr) if line.strip()), None)
        message = f"it left with status {seen.exit_status}" + (f": {last}" if last else "")
    return _ending(seen, crash_kind(error, message), error, message, frames)


def _killed(seen: Evidence) -> Ending:
    # The probe answers SIGTERM and SIGINT by leaving with an exit status, and says which it was.
    end = seen.end or {}
    error = seen.signal_name or _text(end.get("signal"))
    if error is None and end.get("kind") != "killed":
        error = "SIGTERM"
    if seen.rank is not None:
        error = _text(end.get("signal"))
    parts = [f"ended by {error}" if error else "its process is gone, and nobody saw what ended it"]
    likely = error in (None, "SIGKILL") and seen.memory
    hint = seen.memory if likely else _SIGNALS.get(error or "")
    if hint:
        parts.append(hint)
    stack = stack_of(seen.stderr)
    if stack:
        parts.append(f"it was in {place_of(stack)}")
    last = "\n".join(seen.stderr[-40:])
    if _OUT_OF_MEMORY.search(last):
        # An uncaught C++ exception aborts the process without a Python traceback.
        line = next(line for line in reversed(seen.stderr) if _OUT_OF_MEMORY.search(line))
        return _ending(seen, EndingKind.OUT_OF_MEMORY, error, line.strip(), stack)
    return _ending(seen, EndingKind.KILLED, error, "; ".join(parts), stack)


def _silent(seen: Evidence) -> Ending:
    """Nothing was said and nothing went visibly wrong."""
    if seen.recording_failed:
        message = f"the end was not recorded: {seen.recording_failed}"
        return _ending(seen, EndingKind.TRUNCATED, message=message)
    if seen.exit_status is None:
        return _ending(seen, EndingKind.UNKNOWN, message="nobody saw how the process ended")
    if seen.last_iteration is None:
        message = (
            "the process left with status 0 and no training was seen in it; seen are the loops of "
            "Detectron2's trainers, and loops inside `with EventStorage() as storage:` that set "
            "`storage.iter` or call `storage.step()` in each iteration, as its plain_train_net.py "
            "does, in every Python process that inherits the environment"
        )
        return _ending(seen, EndingKind.UNKNOWN, message=message)
    message = "the process left with status 0 without a word on the end of its training"
    return _ending(seen, EndingKind.TRUNCATED, message=message)


def _left_badly(seen: Evidence) -> str | None:
    """A process that fails after its training has ended is told, and judged by its training."""
    if seen.hung is not None:
        return seen.hung
    if seen.signal_name is not None:
        return f"after its training ended, its process was ended by {seen.signal_name}"
    if seen.exit_status:
        return f"after its training ended, its process left with status {seen.exit_status}"
    return None


def _ending(
    seen: Evidence,
    kind: EndingKind,
    error: str | None = None,
    message: str | None = None,
    traceback: tuple[str, ...] = (),
) -> Ending:
    told = seen.end.get("i") if seen.end is not None else None
    if seen.rank is not None:
        message = f"{seen.rank}: {message}" if message else seen.rank
    return Ending(
        kind=kind,
        iteration=told if isinstance(told, int) else seen.last_iteration,
        error=error,
        message=message[:MESSAGE_CHARS] if message else None,
        traceback=traceback[-TRACEBACK_LINES:],
        read_from=READ_FROM,
        stage=_text(seen.end.get("stage")) if seen.end is not None else None,
    )


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
