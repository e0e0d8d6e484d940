"""Several files that hold the console of one training, or parts of it, as one log of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from d2check.model import Event, Series
from d2check.sources._every import every_of
from d2check.sources.folder.ends import SAYS_NOTHING

if TYPE_CHECKING:
    from d2check.sources.log_txt import LogSegment

_CLOCK = "wall_s"
_SAME_SHARE = 0.95  # of the rows in both; the others were spoilt by a capture
_MOST_ROWS = 0.8  # of the shorter one, where no stamps tell
_SURE_ROWS = 10  # rows of four digits that a training with another seed does not repeat
_FEWEST_ROWS = 3
_SAME_MOMENT_S = 2.0
_SAME_START_S = 60.0
_DAY_S = 86400.0
# Stamps of Detectron2 name no year: below this they count from an arbitrary one, else from 1970.
_DATED_S = 1e9


def together(logs: Sequence[LogSegment], ends: Sequence[str] = ()) -> list[LogSegment]:
    """The trainings of several logs, each once: what any capture of it knows is in it.

    They are the same where they printed the same losses for the same iterations, at the same
    moments as far as there are stamps. The first in the order given is the main one. A file with
    nothing but an error in it tells of the end of the only training whose end nothing else tells.

    ends: names of files whose errors are those of a training, not of a script beside it.
    """
    found: list[LogSegment] = []
    for log in logs:
        same = [k for k, other in enumerate(found) if _is_same(other, log)]
        if not same:
            found.append(log)
            continue
        files = [name for k in same for name in found[k].files]
        if len(set(files)) < len(files):  # one training here, several there: theirs are kept
            continue
        for other in (*(found[k] for k in same[1:]), log):
            found[same[0]] = _merged(found[same[0]], other)
        found = [one for k, one in enumerate(found) if k not in same[1:]]
    return _in_time(_with_bare_ends(found, ends))


# ------------------------------------------------------------------------------- the same training


def losses_of(log: LogSegment) -> Series | None:
    """The series that stands for the rows: the total loss, or any."""
    names = ("total_loss", *(name for name in log.series if "loss" in name))
    return next((log.series[name] for name in names if name in log.series), None)


def _is_same(one: LogSegment, other: LogSegment) -> bool:
    if not set(one.files).isdisjoint(other.files):
        return False
    mine, theirs = losses_of(one), losses_of(other)
    if mine is None or theirs is None:
        return mine is None and theirs is None and _same_failed_start(one, other)
    if mine.name != theirs.name or _begins_within(one, other) or _begins_within(other, one):
        return False
    if mine.iterations[-1] < theirs.iterations[0] or theirs.iterations[-1] < mine.iterations[0]:
        return False
    common, here, there = np.intersect1d(
        mine.iterations, theirs.iterations, assume_unique=True, return_indices=True
    )
    fewer = min(len(mine), len(theirs))
    if len(common) < min(_FEWEST_ROWS, fewer) or not len(common):
        return False
    a, b = mine.values[here], theirs.values[there]
    if ((a == b) | (np.isnan(a) & np.isnan(b))).mean() < _SAME_SHARE:
        return False
    at_once = _at_the_same_moments(one, other)
    if at_once is not None:
        return at_once
    return len(common) >= min(_SURE_ROWS, _MOST_ROWS * fewer)


def _begins_within(log: LogSegment, other: LogSegment) -> bool:
    """Whether a process of a log began amid the rows of the other one, which knows of no such."""
    begin, rows = log.start_iteration, losses_of(other)
    if not begin or rows is None or other.start_iteration is None:
        return False
    known = (event.iteration for event in other.events if event.kind == "resume")
    return int(rows.iterations[0]) < begin <= int(rows.iterations[-1]) and begin not in known


def _same_failed_start(one: LogSegment, other: LogSegment) -> bool:
    apart = seconds_apart(one.starts_s, other.starts_s)
    if apart is not None:
        return apart <= _SAME_START_S
    mine, theirs = one.ending(None), other.ending(None)
    return (mine.error, mine.message) == (theirs.error, theirs.message)


def _at_the_same_moments(one: LogSegment, other: LogSegment) -> bool | None:
    """Whether rows of the same iterations have the same stamps; None where that is not known."""
    mine, theirs = one.series.get(_CLOCK), other.series.get(_CLOCK)
    if mine is None or theirs is None:
        return None
    _, here, there = np.intersect1d(
        mine.iterations, theirs.iterations, assume_unique=True, return_indices=True
    )
    if not len(here):
        return None
    apart = theirs.values[there] - mine.values[here] + other.wall_begin_s - one.wall_begin_s
    usual = float(np.median(apart))
    if (np.abs(apart - usual) > _SAME_MOMENT_S).mean() > 1 - _SAME_SHARE:
        return False
    if not comparable(one.wall_begin_s, other.wall_begin_s):
        return None
    return _without_years(usual) <= _SAME_MOMENT_S


def comparable(one: float, other: float) -> bool:
    """Whether two stamps count from the same moment."""
    return math.isfinite(one) and math.isfinite(other) and (one < _DATED_S) == (other < _DATED_S)


def seconds_apart(one: Sequence[float], other: Sequence[float]) -> float | None:
    """How far the nearest two of these stamps are apart; None where that is not known."""
    both = [(a, b) for a in one for b in other if comparable(a, b)]
    return min((_without_years(a - b) for a, b in both), default=None)


def _without_years(seconds: float) -> float:
    """Seconds between two stamps that name no year."""
    years = (0.0, 365 * _DAY_S, 366 * _DAY_S)
    return min(abs(abs(seconds) - year) for year in years)


# ------------------------------------------------------------------------------- one of several


def _merged(main: LogSegment, other: LogSegment) -> LogSegment:
    """Two captures of one training. Where both have a row the main one has the word."""
    series = _union(main, other)
    mine, theirs = main.last_training or -1, other.last_training or -1
    last = max(mine, theirs) - max(main.period, other.period)
    # What the shorter one tells of its end was not the end.
    reached = [one for one, at in ((main, mine), (other, theirs)) if at > last]
    first, *rest = (end for one in reached for end in (one.last_seen, *one.other_ends))
    longer = other if theirs > mine else main
    own = losses_of(main)
    all_of_it = series[own.name] if own is not None else None
    more = len(all_of_it) - len(own) if own is not None and all_of_it is not None else 0
    begin = int(all_of_it.iterations[0]) if all_of_it is not None else 0
    known = {(event.kind, event.message) for event in main.events}
    text = f"{', '.join(other.files)} shows the same training as {', '.join(main.files)}"
    text += f"; {more:,} of its rows are in it alone" if more else ""
    return replace(
        main,
        series=series,
        rows=main.rows + more,
        start_iteration=_start_of(main, other, begin),
        planned_iterations=longer.planned_iterations
        or main.planned_iterations
        or other.planned_iterations,
        planned_about=longer.planned_about,
        last_training=max(mine, theirs) if max(mine, theirs) >= 0 else None,
        began=main.began or other.began,
        facts={**other.facts, **main.facts},
        config=main.config or other.config,
        class_instances=main.class_instances or other.class_instances,
        events=(
            *main.events,
            *(e for e in other.events if (e.kind, e.message) not in known),
            Event("fused", text, read_from=other.read_from),
        ),
        malformed_lines=main.malformed_lines + other.malformed_lines,
        starts_s=_all_starts(main.starts_s, other.starts_s),
        ends_s=longer.ends_s,
        wall_begin_s=main.wall_begin_s if _CLOCK in main.series else other.wall_begin_s,
        last_seen=first,
        other_ends=tuple(rest),
        files=(*main.files, *other.files),
    )


def _union(main: LogSegment, other: LogSegment) -> Mapping[str, Series]:
    together = dict(main.series)
    for name, theirs in other.series.items():
        mine = together.get(name)
        if mine is None:
            together[name] = theirs
        elif (mine.statistic, name) == (theirs.statistic, name):
            moved = _on_the_same_clock(mine, theirs) if name == _CLOCK else theirs
            together[name] = _with_more(mine, moved) if moved is not None else mine
    return together


def _with_more(mine: Series, theirs: Series) -> Series:
    new = ~np.isin(theirs.iterations, mine.iterations)
    if not new.any():
        return mine
    iterations = np.concatenate([mine.iterations, theirs.iterations[new]])
    values = np.concatenate([mine.values, theirs.values[new]])
    order = np.argsort(iterations, kind="stable")
    iterations, window = iterations[order], max(mine.window, theirs.window)
    every = max(every_of(iterations, mine.every), 1)
    return replace(mine, iterations=iterations, values=values[order], every=every, window=window)


def _on_the_same_clock(mine: Series, theirs: Series) -> Series | None:
    _, here, there = np.intersect1d(
        mine.iterations, theirs.iterations, assume_unique=True, return_indices=True
    )
    if not len(here):
        return None
    apart = float(np.median(mine.values[here] - theirs.values[there]))
    return replace(theirs, values=theirs.values + apart)


def _start_of(main: LogSegment, other: LogSegment, first: int) -> int | None:
    told = [one.start_iteration for one in (main, other) if one.start_iteration is not None]
    return min((at for at in told if at <= first), default=None)


def _all_starts(mine: tuple[float, ...], theirs: tuple[float, ...]) -> tuple[float, ...]:
    new = (one for one in theirs if (seconds_apart((one,), mine) or math.inf) > _SAME_START_S)
    return (*mine, *new)


# ------------------------------------------------------------------------------- ends alone


def _with_bare_ends(logs: Sequence[LogSegment], ends: Sequence[str]) -> list[LogSegment]:
    """Without files of nothing but an error, as a cluster keeps of stderr, where it is known whose.

    Theirs is the training that logged the same error; or the only one, if nothing tells its end.
    """
    trained = [one for one in logs if one.last_training is not None]
    kept = list(logs)
    for log in logs:
        if not _is_bare_end(log):
            continue
        end = log.ending(None)
        same = [one for one in trained if _tells_the_same(one, end.error, end.message)]
        open_ends = [one for one in trained if one.ending(None).kind in SAYS_NOTHING]
        alone = len(trained) == len(open_ends) == 1 and log.read_from in ends
        owner = same[0] if same else open_ends[0] if alone else None
        if owner is None:
            continue
        if not same:
            kept[kept.index(owner)] = trained[0] = _ended_by(owner, log)
        kept.remove(log)
    return kept


def _is_bare_end(log: LogSegment) -> bool:
    seen = log.last_seen
    told = log.ending(None).kind not in SAYS_NOTHING
    return told and losses_of(log) is None and not seen.began and not seen.from_start


def _tells_the_same(log: LogSegment, error: str | None, message: str | None) -> bool:
    end = log.ending(None)
    return end.kind not in SAYS_NOTHING and (end.error, end.message) == (error, message)


def _ended_by(log: LogSegment, end: LogSegment) -> LogSegment:
    text = f"the error in {end.read_from} is taken for the end of the only training here"
    return replace(
        log,
        facts={**end.facts, **log.facts},
        events=(*log.events, *end.events, Event("fused", text, read_from=end.read_from)),
        malformed_lines=log.malformed_lines + end.malformed_lines,
        other_ends=(*log.other_ends, end.last_seen, *end.other_ends),
        files=(*log.files, *end.files),
    )


def _in_time(logs: Sequence[LogSegment]) -> list[LogSegment]:
    """In the order in which they were begun, where all tell it; else as they are."""
    begins = [next(iter(log.starts_s), math.nan) for log in logs]
    if not all(comparable(begins[0], begin) for begin in begins):
        return list(logs)
    if max(begins, default=0.0) - min(begins, default=0.0) > 182 * _DAY_S:
        return list(logs)  # over new year, or in different years
    return [log for _, log in sorted(zip(begins, logs, strict=True), key=lambda one: one[0])]
