"""Python tracebacks as logs hold them: chained, from loader workers, from spawned ranks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from d2check.model import EndingKind

HEADS = ("Traceback (most recent call last):", "Original Traceback (most recent call last):")
MAX_LINES = 400
_MAX_FRAMES = 8
_MESSAGE_LINES = 24  # the summary of torchrun
MESSAGE_CHARS = 2000

_FRAME = re.compile(r'^\s*File "(.+?)", line (\d+)(?:, in (.+))?$')
# IPython's: the error's name in front of the head, each frame's place above its source, an arrow.
_CELL_HEAD = re.compile(r"^\s*(?P<name>[A-Za-z_][\w.]*) +Traceback \(most recent call last\)$")
_CELL_FRAME = re.compile(
    r"^(?:(?:File )?(?P<path>[\w./~<>-]+\.py\w*|<[^>]+>|(?:Cell )?In ?\[\d+\])(?::\d+)?,? "
    r"(?:in (?P<function>[^(\s]+)|line \d+))"
)
_ARROW = re.compile(r"^-+> (?P<line>\d+) (?P<source>.*)$")
_LAST = re.compile(r"^((?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*)(?::(?: (.*))?)?$")
# Words of torch's loader and of torch.multiprocessing around the error that matters.
_CARRIED = re.compile(r"^Caught (\w+) in |^\s*$|^--+ *Process \d+ terminated")
_LIBRARY = re.compile(
    r"[/\\](?:site-packages|dist-packages|lib[/\\]python3\.\d+)[/\\]|[/\\]detectron2[/\\](?:engine|"
    r"data|utils|modeling|structures|layers|solver|checkpoint)[/\\]|[/\\]torch[/\\]|^<"
)

# PyTorch's and cuBLAS's own words, and those of the host's allocators.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|CUBLAS_STATUS_ALLOC_FAILED|DefaultCPUAllocator: (?:can't allocate|not enough) "
    r"memory|Cannot allocate memory"
)
# Detectron2: train_loop (loss), proposal_utils, fast_rcnn (predictions); torch: clip_grad_norm_.
_NON_FINITE = re.compile(
    r"infinite or NaN|contains? Inf/NaN|non-finite|NaN or Inf|training has diverged"
    r"|contains invalid numeric entries|: tensor\((?:nan|-?inf)",
    re.IGNORECASE,
)
_STUCK = re.compile(r"collective operation timeout", re.IGNORECASE)  # of NCCL's watchdog
SIGNAL = re.compile(r"\b(SIG[A-Z]{3,6})\b")
KILLED_WORKER = re.compile(r"DataLoader worker .*(?:killed by signal|exited unexpectedly).*")


@dataclass(frozen=True)
class Crash:
    """One exception. line: of the traceback's head; logged: Detectron2's loop said it was its end;
    survived: the training went on after it.

    frames: `file:line in function: source`, innermost last, the user's own where there are any.
    """

    line: int
    error: str
    message: str | None
    frames: tuple[str, ...]
    logged: bool = False
    survived: bool = False

    @property
    def kind(self) -> EndingKind:
        """What kind of ending it means."""
        return crash_kind(self.error, self.message or "")


def crash_kind(error: str, message: str) -> EndingKind:
    """Whether an exception means out of memory, NaN, Ctrl-C, ranks that waited, or any other."""
    name = error.rpartition(".")[2]
    if name == "KeyboardInterrupt":
        return EndingKind.INTERRUPTED
    if name in ("OutOfMemoryError", "MemoryError") or _OUT_OF_MEMORY.search(message):
        return EndingKind.OUT_OF_MEMORY
    if name == "FloatingPointError" or _NON_FINITE.search(message):
        return EndingKind.NON_FINITE
    if _STUCK.search(message):
        return EndingKind.HUNG
    if name in ("ProcessExitedException", "ChildFailedError") and SIGNAL.search(message):
        return EndingKind.KILLED
    return EndingKind.CRASHED


def is_head(text: str) -> bool:
    """Whether a line begins a traceback, also inside a message of torch, or a notebook's."""
    return text.strip() in HEADS or _CELL_HEAD.match(text) is not None


def is_frame(text: str) -> bool:
    """Whether a line is a frame of a traceback, as the first line of a paste may be."""
    found = _FRAME.match(text)
    return found is not None and found[3] is not None


def crash_of(lines: Sequence[str], number: int, *, logged: bool) -> Crash | None:
    """The exception that a block of traceback lines tells; None if it was cut before its name.

    lines: from the head on, at most MAX_LINES, with what follows the exception's name as far as
    it may belong to its message. number: line number of the head.
    """
    cell = next((head for head in map(_CELL_HEAD.match, lines) if head), None)
    if cell is not None:
        return _cell_crash(lines, number, cell["name"], logged=logged)
    found: tuple[str, str | None, tuple[str, ...]] | None = None
    frames: list[tuple[str, str]] = []
    at = 0
    while at < len(lines):
        text = lines[at]
        frame = _FRAME.match(text)
        if frame:
            follows = lines[at + 1] if at + 1 < len(lines) else ""
            source = "" if _FRAME.match(follows) or not follows.startswith("  ") else follows
            place = f"{frame[1]}:{frame[2]} in {frame[3] or '<module>'}"
            frames.append((frame[1], f"{place}: {source.strip()}" if source.strip() else place))
            at += 2 if source else 1
            continue
        if is_head(text):
            frames = []
        elif frames and text.strip() and not text[0].isspace():
            last = _LAST.match(text.strip())
            if last:
                message, at = _message(lines, at, last[2] or "")
                own = _own(frames)
                if not (found and _CARRIED.match(message)):
                    found = (last[1], message or None, own)
                frames = []
                continue
        at += 1
    if found is None:
        return None
    error, message_text, own = found
    return Crash(number, error, message_text, own, logged)


def cut_crash(lines: Sequence[str], number: int) -> Crash:
    """What is known where the loop logged an exception whose name is not there any more."""
    places = [
        (found[1], f"{found[1]}:{found[2]} in {found[3] or '<module>'}")
        for found in map(_FRAME.match, lines)
        if found
    ]
    text = "the log stops before the name of the error"
    return Crash(number, "Exception", text, _own(places) if places else (), logged=True)


def _cell_crash(lines: Sequence[str], number: int, name: str, *, logged: bool) -> Crash | None:
    """The exception of a notebook's traceback, which ends in a line with the name of its head."""
    frames: list[tuple[str, str]] = []
    path, function = "<cell>", "<module>"
    ends = [at for at, text in enumerate(lines) if text.startswith(f"{name}:")]
    if not ends:
        return None
    for text in lines[: ends[-1]]:
        frame, arrow = _CELL_FRAME.match(text), _ARROW.match(text)
        if frame:
            path, function = frame["path"], frame["function"] or "<module>"
        elif arrow:
            place = f"{path}:{arrow['line']} in {function}"
            frames.append((path, f"{place}: {arrow['source'].strip()}"))
    message, _ = _message(lines, ends[-1], lines[ends[-1]][len(name) + 1 :].strip())
    return Crash(number, name, message or None, _own(frames) if frames else (), logged)


def _message(lines: Sequence[str], at: int, first: str) -> tuple[str, int]:
    """The message that begins at a line, and the index of the first line behind it."""
    parts = [first]
    at += 1
    while at < len(lines) and len(parts) < _MESSAGE_LINES:
        text = lines[at]
        if not text.strip() or is_head(text) or text.startswith(("During handling", "The above")):
            break
        parts.append(text.rstrip())
        at += 1
    return "\n".join(parts).strip()[:MESSAGE_CHARS], at


def _own(frames: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    own = [text for path, text in frames if not _LIBRARY.search(path)]
    kept = own[-_MAX_FRAMES:] or [text for _, text in frames[-2:]]
    innermost = frames[-1][1]
    return tuple(kept if kept[-1] == innermost else [*kept, innermost])
