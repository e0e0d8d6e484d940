"""What several sources tell of one training, as one Run: each thing from who knows it best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from d2check.model import Config, Ending, EndingKind, Event, Run, Series
from d2check.sources._histogram import class_facts
from d2check.sources.folder.configs import compared, of_same_length, with_config
from d2check.sources.folder.ends import CRASHES, SAYS_NOTHING
from d2check.sources.folder.intervals import with_intervals
from d2check.sources.folder.pairing import Link, Pair, moved
from d2check.sources.folder.refill import Told, refilled
from d2check.sources.folder.stretches import joined
from d2check.sources.metrics_json import MetricsSegment

if TYPE_CHECKING:
    from d2check.sources.folder.ranks import RankLog
    from d2check.sources.log_txt import LogSegment

# What the console prints differently from metrics.json, under names of their own: means (of the
# whole process, of 20 iterations). Their sums tell what the loader really cost, which medians of 20
# hide.
_MEANS = {"time": "time_mean", "data_time": "data_time_mean"}
_NOT_TAKEN = {"eta_s"}  # metrics.json has it in full digits
_ROWS_BEFORE = 12
_ROW_SPAN = 20  # a row stands for the iterations before it
# Of these ends rows cannot tell the cause: no NaN is ever among them, it is raised instead.
_UNEXPLAINED = (*SAYS_NOTHING, EndingKind.CRASHED)


def fused(
    pairs: Sequence[Pair],
    source: str,
    config: Config | None,
    *,
    no_config: str | None,
    other_ranks: Sequence[RankLog] = (),
    starts: int | None = None,
) -> tuple[Run, ...]:
    """One Run per training. Starts that failed before their first row become events of the next.

    source: the main file; a training that another one beside it tells of is named by that one.
    config: that of the folder, or None and `no_config` says why. other_ranks: the starts in the
    logs of ranks above 0, which know of their own crashes only.
    """
    pairs = _with_resumes([_refilled(one, pairs) for one in pairs])
    told: list[tuple[Pair, tuple[Event, ...]]] = []
    waiting: list[Event] = []
    for number, one in enumerate(pairs):
        is_last = number == len(pairs) - 1
        if _never_trained(one) and not (is_last and (_crashed(one) or not told)):
            waiting.append(_failed_start(one.links[0].log))
            continue
        told.append((one, tuple(waiting)))
        waiting = []
    if waiting:
        told[-1] = told[-1][0], (*told[-1][1], *waiting)
    runs: list[Run] = []
    for number, (one, earlier) in enumerate(told):
        run = _run(one, pairs, source)
        before = sum(other.source == run.source for other in runs)
        run = replace(run, segment=before, events=(*earlier, *run.events))
        run = _configured(
            run,
            one,
            config,
            no_config=no_config,
            segments=len(told),
            is_last=number == len(told) - 1,
            starts=starts,
        )
        ending, told_by_rows = _ending(one, run, pairs)
        unexplained = _UNEXPLAINED if one.metrics is not None else SAYS_NOTHING
        if told_by_rows and ending.kind in unexplained:
            run = replace(run, facts={**run.facts, "end_unexplained": True})
        runs.append(_with_rate_before(replace(run, ending=ending), runs))
    if runs and other_ranks:
        from d2check.sources.folder.ranks import runs_with_ranks

        starts_s = [one.links[-1].log.starts_s if one.links else () for one, _ in told]
        runs = runs_with_ranks(runs, starts_s, other_ranks, _starts_of(pairs))
    return tuple(runs)


def _with_resumes(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """Those of which only logs tell, joined where one goes on from another."""
    alone = [one for one in pairs if one.metrics is None]
    if len(alone) < 2:
        return tuple(pairs)
    from d2check.sources.folder.resumes import with_resumes

    logs = iter(with_resumes([one.links[0].log for one in alone]))
    found = []
    for one in pairs:
        if one.metrics is not None:
            found.append(one)
        elif (log := next(logs)) is not None:
            found.append(Pair(None, (Link(log, 0),)))
    return tuple(found)


def _starts_of(pairs: Sequence[Pair]) -> tuple[float, ...]:
    """The stamps of all starts that the logs of rank 0 tell of."""
    return tuple(at for one in pairs for link in one.links for at in link.log.starts_s)


def _with_rate_before(run: Run, earlier: Sequence[Run]) -> Run:
    """A resumed training with `lr_before`, the rates of the rows that it went on from.

    They are those of the latest of the earlier trainings that came to where this one begins.
    """
    lr = run.series.get("lr")
    if not lr or not any(event.kind == "resume" for event in run.events):
        return run
    first = int(lr.iterations[0])
    for one in reversed(earlier):
        before = one.series.get("lr")
        if before is None:
            continue
        before = before.between(first - _ROWS_BEFORE * lr.every, first - 1)
        if len(before) and first - before.iterations[-1] <= 2 * lr.every:
            series = {**run.series, "lr_before": replace(before, name="lr_before")}
            return replace(run, series=series)
    return run


def _never_trained(one: Pair) -> bool:
    return one.metrics is None and one.links[0].log.last_training is None


def _crashed(one: Pair) -> bool:
    return one.links[0].log.ending(None).kind in CRASHES


# ------------------------------------------------------------------------------------ one training


def _run(one: Pair, pairs: Sequence[Pair], source: str) -> Run:
    metrics = one.metrics
    if metrics is None:
        log = one.links[0].log
        return _of_log(log, _beside(source, log.read_from))
    run = Run(
        source=_beside(source, metrics.read_from),
        series=metrics.series,
        planned_iterations=metrics.planned_iterations,
        events=metrics.events,
        rows=metrics.rows,
        malformed_lines=metrics.malformed_lines,
    )
    added = [_added(metrics, link.log, link.shift) for link in one.links]
    for link in one.links:
        log = link.log
        is_end = not _goes_on_elsewhere(one, log, pairs)
        run = replace(
            run,
            facts={**run.facts, **log.facts, **class_facts(log.class_instances)},
            events=(
                *run.events,
                *_events_within(metrics, log, link.shift),
                *_contradictions(metrics, log, link.shift, is_end=is_end),
            ),
            planned_iterations=run.planned_iterations or log.planned_iterations,
            malformed_lines=run.malformed_lines + log.malformed_lines,
        )
    return replace(run, series=_with_means_of_most({**run.series, **joined(added)}))


def _beside(source: str, name: str) -> str:
    return str(Path(source).parent / name)


def _with_means_of_most(series: Mapping[str, Series]) -> dict[str, Series]:
    """Without means of a part of the run, which must not stand for all of its rows."""
    kept = dict(series)
    for name, mean in _MEANS.items():
        if name in kept and mean in kept and _stretch(kept[mean]) < 0.5 * _stretch(kept[name]):
            del kept[mean]
    return kept


def _stretch(series: Series) -> int:
    """Iterations that a series tells of, those of gaps in it left out."""
    return int(np.minimum(np.diff(series.iterations), 2 * max(series.every, 1)).sum())


def _of_log(log: LogSegment, source: str) -> Run:
    return Run(
        source=source,
        series=with_intervals(log),
        facts={**log.facts, **class_facts(log.class_instances)},
        planned_iterations=log.planned_iterations,
        events=log.events,
        rows=log.rows,
        malformed_lines=log.malformed_lines,
    )


def _refilled(one: Pair, pairs: Sequence[Pair]) -> Pair:
    """The training with rows that the metrics lost and its logs have."""
    metrics = one.metrics
    if metrics is None:
        return one
    earlier = [link.log for other in pairs[: pairs.index(one)] for link in other.links]
    for link in one.links:
        log = link.log
        series = {name: moved(series, link.shift) for name, series in log.series.items()}
        told = Told(
            series,
            log.period,
            log.read_from,
            printed=True,
            before=not any(log is other for other in earlier),
            after=not _goes_on_elsewhere(one, log, pairs),
        )
        metrics = refilled(metrics, told)
    return replace(one, metrics=metrics)


def _added(metrics: MetricsSegment, log: LogSegment, shift: int) -> dict[str, Series]:
    """The log's series that the metrics lack, within the training's iterations."""
    have = metrics.series
    spans = [(s.iterations[0], s.iterations[-1]) for s in metrics.series.values() if len(s)]
    first, last = min(int(a) for a, _ in spans), max(int(b) for _, b in spans)
    added = {}
    for name, series in with_intervals(log).items():
        known_as = _MEANS.get(name, name) if name in have else name
        if name in _NOT_TAKEN or known_as in have:
            continue
        part = moved(series, shift).between(first, last)
        if len(part):
            added[known_as] = replace(part, name=known_as)
    return added


def _events_within(metrics: MetricsSegment, log: LogSegment, shift: int) -> Iterator[Event]:
    """The log's events of these iterations, and those that stand for all."""
    first = min(int(s.iterations[0]) for s in metrics.series.values() if len(s))
    last = metrics.last_row or 0
    for event in log.events:
        if event.iteration is None or first <= event.iteration - shift + _ROW_SPAN:
            if event.iteration is None or event.iteration - shift <= last + _ROW_SPAN:
                yield event


def _contradictions(
    metrics: MetricsSegment, log: LogSegment, shift: int, *, is_end: bool
) -> Iterator[Event]:
    if not is_end:  # what a log says of the whole holds for its last start
        return
    told, other = metrics.planned_iterations, log.planned_iterations
    if told is not None and other is not None and abs(told - other) > 1:
        text = f"{metrics.read_from} was to become {told:,} iterations, {log.read_from} {other:,}"
        yield Event("contradiction", text, read_from=log.read_from)
    if log.last_training is not None and metrics.last_training is not None:
        beyond = log.last_training - shift - metrics.last_training
        if beyond > metrics.period:
            text = (
                f"{log.read_from} goes on to iteration {log.last_training:,}, "
                f"{metrics.read_from} ends at {metrics.last_training:,}"
            )
            yield Event("contradiction", text, metrics.last_training, log.read_from)


def _configured(
    run: Run,
    one: Pair,
    config: Config | None,
    *,
    no_config: str | None,
    segments: int,
    is_last: bool,
    starts: int | None,
) -> Run:
    printed = [link for link in one.links if link.log.config is not None]
    told = one.metrics.planned_iterations if one.metrics else None
    world_size = run.facts.get("world_size")
    known = world_size if isinstance(world_size, int) else None
    if printed and (own := printed[-1].log.config) is not None:
        run = with_config(replace(run, config=of_same_length(own, told, known)))
        return _planned_since(run, _last_begin(printed[-1]))
    if config is None:
        return with_config(replace(run, absent={"config": no_config} if no_config else {}))
    judged = compared(
        config,
        run.series.get("lr"),
        last_iteration=run.last_iteration,
        planned=run.planned_iterations,
        segments=segments,
        is_last=is_last,
        starts=starts,
        world_size=known,
    )
    return with_config(replace(run, config=judged))


def _last_begin(link: Link) -> int:
    """The iteration with which the last process of a log began: the config that it printed last."""
    resumes = [e.iteration for e in link.log.events if e.kind == "resume" and e.iteration]
    return max(resumes, default=0) - link.shift


def _planned_since(run: Run, begin: int) -> Run:
    """The run with a planned rate from `begin` on only: earlier rows had another config."""
    planned = run.series.get("planned_lr")
    if planned is None or not len(planned) or begin <= planned.iterations[0]:
        return run
    rest = planned.between(begin, int(planned.iterations[-1]))
    series = {name: one for name, one in run.series.items() if name != "planned_lr"}
    return replace(run, series={**series, "planned_lr": rest} if len(rest) else series)


# ------------------------------------------------------------------------------------ endings


def _ending(one: Pair, run: Run, pairs: Sequence[Pair]) -> tuple[Ending, bool]:
    """The log's word where it says how; else what rows alone tell, and True."""
    planned = run.planned_iterations
    if one.metrics is None:
        log = one.links[0].log
        return log.ending(planned), log.torn_out
    by_rows = one.metrics.ending(planned)
    for link in reversed(one.links):
        if _goes_on_elsewhere(one, link.log, pairs):
            continue
        by_log = link.log.ending(planned)
        if link.shift and by_log.iteration is not None:
            by_log = replace(by_log, iteration=by_log.iteration - link.shift)
        if by_log.kind not in SAYS_NOTHING:
            return by_log, False
        if by_rows.kind in SAYS_NOTHING and by_log.kind is not EndingKind.UNKNOWN:
            if (by_log.iteration or 0) >= (one.metrics.last_training or 0):
                return by_log, False
    return by_rows, True


def _goes_on_elsewhere(one: Pair, log: LogSegment, pairs: Sequence[Pair]) -> bool:
    """Whether a later training of the metrics is part of the same one of the log."""
    later = pairs[pairs.index(one) + 1 :]
    return any(link.log is log for other in later for link in other.links)


def _failed_start(log: LogSegment) -> Event:
    ending = log.ending(None)
    words = ": ".join(filter(None, (ending.error, ending.message)))
    text = f"a start {ending.kind.value} before its first row of losses"
    return Event("failed-start", f"{text}: {words}" if words else text, read_from=ending.read_from)
