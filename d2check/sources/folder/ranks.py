"""Logs of ranks above 0: they hold no metrics, but the error that ended a training perhaps."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from d2check.model import Ending, EndingKind, Event, Run
from d2check.sources.folder.captures import seconds_apart
from d2check.sources.folder.ends import CRASHES, SAYS_NOTHING

if TYPE_CHECKING:
    from d2check.sources.log_txt import LogSegment

# Ranks start within seconds of each other; a file system of a cluster may take minutes.
_SAME_START_S = 600.0
# What the others meet when one of them is gone: the words of gloo, NCCL and TCPStore.
_CONSEQUENCE = re.compile(
    r"Connection (closed|reset|refused)|Broken pipe|gloo|NCCL|ProcessGroup|TCPStore|timed out",
    re.IGNORECASE,
)
_TOLD_EVENTS = ("oom", "non-finite-losses", "worker-killed", "collective-timeout")


@dataclass(frozen=True, eq=False)
class RankLog:
    """One start in the log of a rank above 0."""

    rank: int
    log: LogSegment


def runs_with_ranks(
    runs: Sequence[Run],
    starts_s: Sequence[Sequence[float]],
    ranks: Sequence[RankLog],
    known_s: Sequence[float],
) -> list[Run]:
    """The runs with what the logs of other ranks tell of their ends.

    starts_s: of each run the stamps of its processes, the last of which its end is of; empty where
    nothing tells. known_s: of all starts that rank 0 tells of. Without stamps the last start in a
    rank's log is taken for that of the last run. A start that rank 0 knows nothing of is told.
    """
    found = [
        _with_ranks(run, [one for one in ranks if _is_near(one, own[-1:])])
        for run, own in zip(runs, starts_s, strict=True)
    ]
    last = {one.rank: one for one in ranks}.values()
    unknown = [one for one in last if seconds_apart(one.log.starts_s[:1], known_s) is None]
    found[-1] = _with_ranks(found[-1], unknown)
    apart = [one for one in ranks if one not in unknown and not _is_near(one, known_s)]
    told = {event.message: event for event in _left_apart(apart)}
    found[-1] = replace(found[-1], events=(*found[-1].events, *told.values()))
    return found


def crashed(ranks: Sequence[RankLog]) -> RankLog | None:
    """The last start that tells of an error, one that is no mere consequence of another if any."""
    bad = [one for one in ranks if one.log.ending(None).kind in CRASHES]
    causes = [one for one in bad if not _is_consequence(one.log.ending(None))]
    return next(reversed(causes or bad), None)


def _is_near(one: RankLog, starts_s: Sequence[float]) -> bool:
    apart = seconds_apart(one.log.starts_s[:1], starts_s)
    return apart is not None and apart <= _SAME_START_S


def _with_ranks(run: Run, ranks: Sequence[RankLog]) -> Run:
    """The run with what only other ranks tell: an error, and whose it was.

    An error of rank 0 that merely says that another rank is gone gives way to that rank's own.
    """
    ranks = [one for one in ranks if _same_size(one, run.facts.get("world_size"))]
    ends = [(one, one.log.ending(run.planned_iterations)) for one in ranks]
    crashes = [(one, end) for one, end in ends if end.kind in CRASHES]
    if not crashes:
        return run
    causes = [(one, end) for one, end in crashes if not _is_consequence(end)]
    if run.ending.kind not in SAYS_NOTHING and not (causes and _is_consequence(run.ending)):
        return run
    one, end = (causes or crashes)[0]
    size = one.log.facts.get("world_size")
    where = f"rank {one.rank} of {size}" if size else f"rank {one.rank}"
    at = end.iteration if end.iteration is not None else run.ending.iteration
    message = f"{where}: {end.message}" if end.message else where
    facts = {name: value for name, value in one.log.facts.items() if name.startswith("oom_")}
    return replace(
        run,
        ending=replace(end, iteration=at, message=message),
        events=(*run.events, *_events(one)),
        facts={**facts, **{k: v for k, v in run.facts.items() if k != "end_unexplained"}},
    )


def _left_apart(ranks: Sequence[RankLog]) -> Iterator[Event]:
    """Of rank logs that belong to no training here, what they tell of an end."""
    for one in ranks:
        end = one.log.ending(None)
        if end.kind in CRASHES:
            what = ": ".join(filter(None, (end.error or end.kind.value, end.message)))
            text = f"the log of rank {one.rank} is of another start, which ended so: {what}"
            yield Event("apart", text, read_from=end.read_from)


def _same_size(one: RankLog, world_size: object) -> bool:
    """Whether a training of that many processes (None: unknown) has such a rank."""
    if not isinstance(world_size, int):
        return True
    return one.rank < world_size and one.log.facts.get("world_size", world_size) == world_size


def _is_consequence(end: Ending) -> bool:
    return end.kind in (EndingKind.CRASHED, EndingKind.HUNG) and bool(
        _CONSEQUENCE.search(end.message or "")
    )


def _events(one: RankLog) -> Iterator[Event]:
    for event in one.log.events:
        if event.kind in _TOLD_EVENTS:
            yield replace(event, message=f"rank {one.rank}: {event.message}")
