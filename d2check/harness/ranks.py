"""The processes of one training, by their records: which ended first, which said nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from d2check.harness.tail import RecordTail
from d2check.probe import wire

# What the others meet when one of them is gone: gloo, NCCL, TCPStore, and the launchers' own
# words for it (torch.multiprocessing and torch.distributed.elastic).
_CONSEQUENCE = re.compile(
    r"Connection (closed|reset|refused)|Broken pipe|gloo|NCCL|ProcessGroup|TCPStore|timed out",
    re.IGNORECASE,
)
_LAUNCHERS = ("ProcessRaisedException", "ProcessExitedException", "ChildFailedError")
_SIGNAL = re.compile(r"terminated with signal (SIG[A-Z0-9]+)|Signal \d+ \((SIG[A-Z0-9]+)\)")
_PROC = Path("/proc")


@dataclass
class Rank:
    """One process: its records so far."""

    tail: RecordTail
    pid: int | None = None
    end: Mapping[str, Any] | None = None
    seen_alive: bool = False
    silent_since: float | None = None  # gone without a word; a monotonic clock, seconds


@dataclass
class RankWatch:
    """Follows ranks 1 and up; rank 0 is followed by whoever owns this, who tells of it here."""

    folder: Path
    ranks: dict[int, Rank] = field(default_factory=dict)

    def take(self, rank: int, record: Mapping[str, Any]) -> None:
        """A record of one rank."""
        known = self._known(rank)
        kind = record.get("t")
        if kind == "begin":
            pid = record.get("pid")
            known.pid = pid if isinstance(pid, int) else None
            world_size = record.get("world_size")
            if isinstance(world_size, int):
                for other in range(1, min(world_size, 4096)):
                    self._known(other)
        elif kind == "end":
            known.end = record

    def poll(self) -> None:
        """Read what the other ranks have recorded since."""
        for number, rank in list(self.ranks.items()):
            if number:
                for record in rank.tail.poll():
                    self.take(number, record)

    def close(self) -> None:
        """Read the last records, also of ranks that nobody has announced."""
        for path in self.folder.glob("records.rank*.jsonl"):
            number = path.name.removeprefix("records.rank").removesuffix(".jsonl")
            if number.isdigit():
                self._known(int(number))
        self.poll()

    def lost(self, now: float, grace_s: float) -> int | None:
        """A rank that crashed or is gone for longer than the grace, while others go on."""
        for number, rank in sorted(self.ranks.items()):
            crashed = rank.end is not None and rank.end.get("kind") in ("crashed", "killed")
            if crashed or (rank.end is None and self._is_gone(rank)):
                if rank.silent_since is None:
                    rank.silent_since = now
                if now - rank.silent_since > grace_s and len(self.ranks) > 1:
                    return number
        return None

    def cause(self, stderr: Sequence[str]) -> tuple[int, Mapping[str, Any]] | None:
        """The rank whose end explains the others', with its last record; None if all ended well.

        One that was killed comes first, then the earliest crash that is not of the kind that a
        vanished neighbour gives. A rank that began and wrote no end was killed: of those that were
        seen to go after such a crash, its launcher or d2check has ended it. On GPUs the others of a
        crashed rank hang in NCCL, where no handler of signals can run.
        """
        if len(self.ranks) < 2:
            return None
        killed: list[tuple[int, Mapping[str, Any]]] = []
        for number, rank in sorted(self.ranks.items()):
            if rank.end is None and rank.pid is not None:
                killed.append((number, {"kind": "killed", "signal": _signal_in(stderr)}))
            elif rank.end is not None and rank.end.get("kind") == "killed":
                killed.append((number, rank.end))
        crashed = [
            (number, rank.end)
            for number, rank in self.ranks.items()
            if rank.end is not None and rank.end.get("kind") == "crashed"
        ]
        first = min(crashed, key=lambda item: _order(item[1]), default=None)
        if not killed:
            return first
        gone = min(killed, key=lambda item: self._gone_since(item[0]))
        if first is None or _order(first[1])[0]:
            return gone
        return first if self._gone_since(first[0]) < self._gone_since(gone[0]) else gone

    def _gone_since(self, rank: int) -> float:
        since = self.ranks[rank].silent_since
        return float("inf") if since is None else since

    def _known(self, rank: int) -> Rank:
        if rank not in self.ranks:
            self.ranks[rank] = Rank(RecordTail(self.folder / wire.records_name(rank)))
        return self.ranks[rank]

    def _is_gone(self, rank: Rank) -> bool:
        """Whether a process that was seen is no more; never so in another PID namespace."""
        if rank.pid is None:
            return False
        if _is_alive(rank.pid):
            rank.seen_alive = True
            return False
        return rank.seen_alive


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's: it lives
        return True
    try:
        state = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:  # no /proc, or gone this moment
        return not _PROC.is_dir()
    return bool(state) and state[0] != "Z"


def _order(end: Mapping[str, Any]) -> tuple[bool, float]:
    error, message = str(end.get("error")), str(end.get("message"))
    follows = error in _LAUNCHERS or bool(_CONSEQUENCE.search(message))
    clock = end.get("clock")
    return follows, clock if isinstance(clock, (int, float)) else float("inf")


def _signal_in(lines: Iterable[str]) -> str | None:
    """The signal that a launcher says has ended one of its processes."""
    for line in lines:
        found = _SIGNAL.search(line)
        if found:
            return found[1] or found[2]
    return None
