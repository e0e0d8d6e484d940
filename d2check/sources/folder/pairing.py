"""Which training of a log is which training of a metrics.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from d2check.model import Series
from d2check.sources.folder.agreeing import same_numbers
from d2check.sources.metrics_json import MetricsSegment

if TYPE_CHECKING:
    from d2check.sources.log_txt import LogSegment

_SAME_SHARE = 0.8
_MAY_OVERLAP = 0.2  # a resume repeats some iterations, another training repeats nearly all
# Some loops print the number of iterations done, one more than the iteration.
_SHIFTS = (0, 1)


@dataclass(frozen=True, eq=False)
class Link:
    """A log's training that tells of the same iterations; the log counts `shift` higher."""

    log: LogSegment
    shift: int


@dataclass(frozen=True, eq=False)
class Pair:
    """What the sources hold of one training. At least one of the two.

    links: in the order of their iterations, as after each resume another log may have been begun.
    """

    metrics: MetricsSegment | None
    links: tuple[Link, ...] = ()


def pair(metrics: Sequence[MetricsSegment], logs: Sequence[LogSegment]) -> tuple[Pair, ...]:
    """All trainings in their order in time, as far as the sources tell it.

    They belong together where they show the same losses at the same iterations. What is left
    between two that do may belong together as well: a start that broke in the very iteration
    after the last row. A log's training that nothing belongs to is one of its own.
    """
    links: list[list[Link]] = [[] for _ in metrics]
    owners: list[int | None] = [None] * len(logs)  # the first training of the metrics it tells of
    for fit in sorted(_fits(metrics, logs)):
        rivals = [link.log for link in links[fit.metrics]]
        twins = [number for number, one in enumerate(links) if _holds(one, logs[fit.log])]
        if any(_overlap(logs[fit.log].series, rival.series) for rival in rivals):
            continue
        if any(_overlap(metrics[fit.metrics].series, metrics[twin].series) for twin in twins):
            continue
        links[fit.metrics].append(Link(logs[fit.log], fit.shift))
        earlier = owners[fit.log]
        owners[fit.log] = fit.metrics if earlier is None else min(earlier, fit.metrics)
    _claim_broken_starts(metrics, logs, links, owners)
    return _in_order(metrics, logs, links, owners)


@dataclass(frozen=True, order=True)
class _Fit:
    """Two trainings that show the same losses; the surest sort first, equals in file order."""

    minus_rows: int
    away: float
    log: int
    metrics: int
    shift: int


def _fits(metrics: Sequence[MetricsSegment], logs: Sequence[LogSegment]) -> Iterator[_Fit]:
    for k, log in enumerate(logs):
        for number, one in enumerate(metrics):
            for shift in _SHIFTS:
                rows, away = _agreement(one, log, shift)
                if rows:
                    yield _Fit(-rows, away, k, number, shift)


def _holds(links: Sequence[Link], log: LogSegment) -> bool:
    return any(link.log is log for link in links)


def _agreement(metrics: MetricsSegment, log: LogSegment, shift: int) -> tuple[int, float]:
    """How many rows both show, 0 unless nearly all agree; and how far they are apart on average."""
    name = next((n for n in ("total_loss", *metrics.series) if _both(metrics, log, n)), None)
    if name is None:
        return 0, 0.0
    one, other = metrics.series[name], log.series[name]
    _, here, there = np.intersect1d(
        one.iterations, other.iterations - shift, assume_unique=True, return_indices=True
    )
    if not len(here):
        return 0, 0.0
    wanted, printed = one.values[here], other.values[there]
    same = same_numbers(wanted, printed, printed=True)
    if same.mean() < _SAME_SHARE:
        return 0, 0.0
    away = np.abs(printed - wanted)[same & np.isfinite(printed)]
    return len(here), float(away.mean()) if len(away) else 0.0


def _overlap(one: Mapping[str, Series], other: Mapping[str, Series]) -> bool:
    """Whether two trainings show the same iterations, beyond what a resume repeats."""
    mine, theirs = one.get("total_loss"), other.get("total_loss")
    if mine is None or theirs is None:
        return False
    common = len(np.intersect1d(mine.iterations, theirs.iterations, assume_unique=True))
    return common > _MAY_OVERLAP * min(len(mine), len(theirs))


def _both(metrics: MetricsSegment, log: LogSegment, name: str) -> bool:
    return "loss" in name and name in metrics.series and name in log.series


def _claim_broken_starts(
    metrics: Sequence[MetricsSegment],
    logs: Sequence[LogSegment],
    links: list[list[Link]],
    owners: list[int | None],
) -> None:
    for number, one in enumerate(metrics):
        if links[number] or one.last_training is None:
            continue
        before = max((k for k, o in enumerate(owners) if o is not None and o < number), default=-1)
        after = min((k for k, o in enumerate(owners) if o is not None and o > number),
                    default=len(logs))  # fmt: skip
        for k in range(before + 1, after):
            at = logs[k].ending(None).iteration
            if owners[k] is None and _no_losses(logs[k]) and at is not None:
                if 0 <= at - one.last_training <= 2:
                    owners[k] = number
                    links[number].append(Link(logs[k], 0))
                    break


def _in_order(
    metrics: Sequence[MetricsSegment],
    logs: Sequence[LogSegment],
    links: Sequence[Sequence[Link]],
    owners: Sequence[int | None],
) -> tuple[Pair, ...]:
    pairs: list[Pair] = []
    done = 0
    for log, owner in zip(logs, owners, strict=True):
        if owner is None:
            pairs.append(Pair(None, (Link(log, 0),)))
        while owner is not None and done <= owner:
            pairs.append(Pair(metrics[done], _by_iteration(links[done])))
            done += 1
    pairs.extend(Pair(metrics[k], _by_iteration(links[k])) for k in range(done, len(metrics)))
    return tuple(pairs)


def _by_iteration(links: Sequence[Link]) -> tuple[Link, ...]:
    def first(link: Link) -> int:
        loss = link.log.series.get("total_loss")
        return int(loss.iterations[0]) - link.shift if loss else -1

    return tuple(sorted(links, key=first))


def _no_losses(log: LogSegment) -> bool:
    return log.last_training is None


def moved(series: Series, shift: int) -> Series:
    """A log's series in the counting of the metrics."""
    return replace(series, iterations=series.iterations - shift) if shift else series
