"""What a process was doing when it was ended: the dumps of `faulthandler`, read and worded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath

PLACES = 3  # in which processes of a hung training are said to be

_STACK_HEAD = re.compile(r"^(?:Current thread|Thread) 0x[0-9a-f]+.*\(most recent call first\):")
_STACK_FRAME = re.compile(r'^  File "(.+)", line (\d+|\?\?\?) in (.+)$')
_PROBE = PurePath(__file__).parents[1] / "probe"


def stack_of(lines: Sequence[str]) -> tuple[str, ...]:
    """The main thread's stack in the first dump by `faulthandler`, innermost frame last."""
    return next(iter(stacks_of(lines)), ())


def stacks_of(lines: Sequence[str]) -> list[tuple[str, ...]]:
    """The same of every dump: of the process that was started, then of those that it started."""
    dumps: list[list[list[tuple[str, str, str]]]] = []
    reading = False
    for line in lines:
        frame = _STACK_FRAME.match(line)
        if line.startswith("Fatal Python error") or (_STACK_HEAD.match(line) and not dumps):
            dumps.append([])
        if _STACK_HEAD.match(line):
            dumps[-1].append([])
            reading = True
        elif frame and reading:
            dumps[-1][-1].append((frame[1], frame[2], frame[3]))
        else:
            reading = False
    found = []
    for threads in dumps:
        whole = [stack for stack in threads if stack]
        main = next((s for s in whole if s[-1][2] == "<module>"), whole[0] if whole else [])
        if main:
            found.append(tuple(frame_of(*frame) for frame in reversed(main)))
    return found


def where_it_hung(stderr: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """In words, and the stack that tells most: a launcher only waits for what it has launched.

    A process that is in the user's own code comes first, then a loader worker at an image, then
    one that trains; the ranks that merely wait for another are among those.
    """
    stacks = stacks_of(stderr)
    if not stacks:
        return "", ()
    ordered = sorted(stacks, key=_tells_less)  # stable: among equals the first one asked
    telling = [stack for stack in ordered if _tells_less(stack) < _TELLS_NOTHING] or stacks[:1]
    places = list(dict.fromkeys(map(place_of, telling)))[:PLACES]
    if len(stacks) == 1 or telling[0] == stacks[0]:
        words = f"; it was in {places[0]}"
        others = "".join(f", another process in {place}" for place in places[1:])
    else:
        words = f"; of its {len(stacks)} processes one was in {places[0]}"
        others = "".join(f", another in {place}" for place in places[1:])
    return words + others, telling[0]


_TELLS_NOTHING = 3


def _tells_less(stack: tuple[str, ...]) -> int:
    if not is_library(stack[-1]):
        return 0
    if any("/_utils/fetch.py:" in frame for frame in stack):
        return 1
    idle_worker = any(frame.endswith(" in _worker_loop") for frame in stack)
    trains = any("/engine/train_loop.py:" in frame for frame in stack)
    return 2 if trains and not idle_worker else _TELLS_NOTHING


def frame_of(path: str, line: str, function: str, source: str = "") -> str:
    """One line of a traceback."""
    place = f"{path}:{line} in {function}"
    return f"{place}: {source.strip()}" if source.strip() else place


def place_of(stack: tuple[str, ...]) -> str:
    """The innermost frame, and the innermost one of the user's own code when that is another."""
    own = [frame for frame in stack if not is_library(frame)]
    if not own or own[-1] == stack[-1]:
        return stack[-1]
    return f"{stack[-1]}, called from {own[-1]}"


def is_library(frame: str) -> bool:
    """Whether a frame is of an installed package, of Python itself, or of the probe."""
    path = PurePath(re.sub(r":\d+ in .*", "", frame))
    parts = path.parts
    if path.is_relative_to(_PROBE):
        return True
    in_stdlib = any(re.fullmatch(r"python3\.\d+", part) for part in parts)
    return "site-packages" in parts or "dist-packages" in parts or in_stdlib or frame[:1] == "<"
