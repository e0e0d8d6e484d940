"""Which files of a folder tell of a training, by name and by how they begin."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator, Sequence
from io import BufferedReader, FileIO
from pathlib import Path

from d2check.sources._links import leads_out
from d2check.sources._unpack import MAGIC, UTF_16

METRICS = ("metrics.json", "metrics.json.gz")
LOGS = ("log.txt", "log.txt.gz")

_OTHER_RANKS = "log.txt.rank"
_EVENT_NAME = "events.out.tfevents."
_EVENT_FILE, _EVENT_FILE_WITHIN = b"brain.Event:", 64  # the version that each of them begins with
# Endings of names under which people keep what the console printed.
_MAYBE_LOGS = (".txt", ".log", ".out", ".err", ".txt.gz", ".log.gz", ".out.gz")
_MAYBE_ROWS = (".json", ".jsonl", ".ndjson", ".json.gz", ".jsonl.gz")
# What logrotate, or a hand, makes of a log that goes on under its old name.
_ROTATED = re.compile(r"\.(?:txt|log|out|err)\.(?:(?P<age>\d{1,4})|old|bak|orig|prev)(?:\.gz)?$")
_ITERATION = re.compile(rb'"iteration"\s*:\s*\d')
_SCHEDULER = (b"slurmstepd: error:", b"srun: error:")
_IN_TRAINING = (*_SCHEDULER, b"train_loop.py", b"in run_step", b"in train_loop")
_MOST_CAPTURES, _MOST_NAMED = 16, 64  # more logs, or files named so, are not of one training
SNIFF_BYTES = 256 * 1024
_ROW_BYTES = 4096  # in which the first row names its iteration, of up to a hundred keys


def is_output_folder(path: Path) -> bool:
    """Whether the folder holds rows, a log or events of Detectron2 under their own names.

    Or a few logs under other names, which may be captures of one console. Raises OSError for a
    folder that cannot be looked into.
    """
    # Most folders have one of the four: a whole listing is for those that do not.
    if any(is_own_file(path / name) for name in LOGS):
        return True
    if any(is_own_file(path / name) and not _is_other_json(path / name) for name in METRICS):
        return True
    names = names_in(path)
    if event_files(path, names) or rank_logs(path, names):
        return True
    if not 2 <= sum(map(_named_like_a_log, names)) <= _MOST_NAMED:  # labels of a data set, perhaps
        return False
    return 2 <= len(captures_in(path, names)) <= _MOST_CAPTURES


def stands_alone(path: Path, *, in_output: bool) -> bool:
    """Whether a file is an output by itself: rows under another name, or a log outside of one.

    in_output: it lies in an output folder, whose other logs are read with it. Raises OSError for
    a file that its name makes a candidate and that cannot be opened.
    """
    if path.name in (*METRICS, *LOGS) and in_output:
        return False
    if named_like_rows(path.name):
        return looks_like_rows(beginning_of(path))
    return not in_output and _named_like_a_log(path.name) and looks_like_log(beginning_of(path))


def may_tell(name: str) -> bool:
    """Whether a file of this name may be, or be part of, an output."""
    return (
        name.startswith((_EVENT_NAME, _OTHER_RANKS))
        or named_like_rows(name)
        or _named_like_a_log(name)
    )


def names_in(folder: Path) -> list[str]:
    """What lies in a folder, sorted, without what is hidden. Raises OSError."""
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))


def named(folder: Path, names: Sequence[str], wanted: Sequence[str]) -> list[Path]:
    """Those of the wanted files that are there, in the order wanted."""
    return [folder / name for name in wanted if name in names and os.path.isfile(folder / name)]


def event_files(folder: Path, names: Sequence[str]) -> list[Path]:
    """The event files, oldest first."""
    found = [folder / name for name in names if name.startswith(_EVENT_NAME)]
    return [path for path in found if is_own_file(path)]


def captures_in(folder: Path, names: Sequence[str]) -> list[Path]:
    """Logs under names of their own that can be opened."""
    return [path for path in other_logs(folder, names) if is_own_file(path) and _is_log(path)]


def _is_log(path: Path) -> bool:
    try:
        return looks_like_log(beginning_of(path))
    except OSError:  # told where it is read, or found by itself
        return False


def rank_logs(folder: Path, names: Sequence[str]) -> list[Path]:
    """The logs of ranks above 0."""
    found = [folder / name for name in names if name.startswith(_OTHER_RANKS)]
    return [path for path in found if is_own_file(path)]


def other_logs(folder: Path, names: Sequence[str]) -> list[Path]:
    """Captures of the console beside log.txt, by their names; rotated ones first, oldest first."""
    found = [
        folder / name
        for name in names
        if name not in LOGS
        and (_named_like_a_log(name) or name.startswith(_OTHER_RANKS))
        and os.path.isfile(folder / name)
    ]
    return sorted(found, key=lambda path: -age(path.name))


def rank_of(name: str) -> int:
    """The rank whose log it is by its name; 1 where that has no number."""
    found = re.search(r"\.rank(\d{1,6})", name)
    return int(found[1]) if found else 1


def links_out(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """Links in the folder that by their names might tell of its training, and lead out of it."""
    for name in names:
        path = folder / name
        if may_tell(name) and os.path.islink(path) and leads_out(path, folder.resolve()):
            yield path


def beginning_of(path: Path) -> bytes:
    """How a file begins, unpacked. Raises OSError."""
    with opened(path) as stream:
        return beginning(stream)


def opened(path: Path) -> BufferedReader:
    """The file, of which `beginning` can see enough to tell what it is. Raises OSError."""
    return BufferedReader(FileIO(path), SNIFF_BYTES)


def beginning(stream: BufferedReader) -> bytes:
    """The first bytes, unpacked, without moving the stream: a pipe cannot go back."""
    start = stream.peek(SNIFF_BYTES)
    if start.startswith(UTF_16):
        return start[: len(start) & ~1].decode("utf-16", "replace").encode("utf-8", "replace")
    if not start.startswith(MAGIC):
        return start
    try:
        return zlib.decompressobj(wbits=31).decompress(start, SNIFF_BYTES)
    except zlib.error:
        return b""


def looks_like_events(start: bytes) -> bool:
    """Whether a file that begins so is an event file: its first record is of the version.

    The words alone may stand in a text as well. A record has 8 bytes of length and 4 of checksum
    before its content.
    """
    at = start.find(_EVENT_FILE, 0, _EVENT_FILE_WITHIN)
    return 12 <= at < 12 + int.from_bytes(start[:8], "little") < SNIFF_BYTES


def looks_like_log(start: bytes) -> bool:
    """Whether a file that begins so is a log of Detectron2."""
    # The reader of logs takes longer to load than rows to be read.
    from d2check.sources import log_txt

    return log_txt.looks_like_log(start)


def is_of_scheduler(start: bytes) -> bool:
    """Whether a file that begins so tells how a cluster ended a job, its stderr perhaps."""
    return any(sign in start for sign in _SCHEDULER)


def ended_in_training(start: bytes) -> bool:
    """Whether what ended is a training, where a file that begins so tells of an end."""
    return any(sign in start for sign in _IN_TRAINING)


def may_be_log(start: bytes) -> bool:
    """Whether text that was named or pasted is no rows: a log, or what users quote of one."""
    bare = _without_blanks(start)
    if not bare or bare.startswith(b"{") or b"\x00" in start or _ITERATION.search(start):
        return looks_like_log(start)
    return True


def looks_like_rows(start: bytes) -> bool:
    """Whether a file that begins so holds rows."""
    start = _without_blanks(start)
    return start.startswith(b"{") and _ITERATION.search(start) is not None


def begins_with_a_row(start: bytes) -> bool:
    """Whether the first line is a row: then console lines further on are what broke into it."""
    return looks_like_rows(_without_blanks(start).partition(b"\n")[0])


def _is_other_json(path: Path) -> bool:
    """Whether a file is JSON of another program, as DVC and many scripts write metrics.json."""
    with FileIO(path) as file:  # all that is sniffed takes a third of a millisecond for each folder
        if b'"iteration"' in file.read(_ROW_BYTES):
            return False
    start = _without_blanks(beginning_of(path)).rstrip()
    # Of a first row that is still being written the iteration may be to come.
    whole = b"\n" in start or start.endswith((b"}", b"]"))
    return whole and start.startswith((b"{", b"[")) and b'"iteration"' not in start


def is_own_file(path: Path) -> bool:
    """Whether a file is there that is no link out of its folder."""
    if not path.is_file():
        return False
    return not os.path.islink(path) or not leads_out(path, path.parent.resolve())


def named_like_rows(name: str) -> bool:
    """Whether a file of this name may hold rows."""
    return name.lower().endswith(_MAYBE_ROWS)


def _named_like_a_log(name: str) -> bool:
    return name.lower().endswith(_MAYBE_LOGS) or _ROTATED.search(name) is not None


def age(name: str) -> int:
    """How often a log was rotated since: log.txt.2 is older than log.txt.1."""
    rotated = _ROTATED.search(name)
    return int(rotated["age"] or 1) if rotated else 0


def _without_blanks(start: bytes) -> bytes:
    return start.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n\x00")
