"""Rows to trainings: where one ends and the next begins, what values stand for, how it ended."""

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2check.errors import InputError
from d2check.model import EndingKind
from d2check.sources.metrics_json import MetricsFile, MetricsSegment, read_metrics_json


def step(iteration: int, **more: float) -> dict[str, float]:
    """A training row as DefaultTrainer writes it."""
    loss = 2.0 / (1 + iteration / 100)
    row = {"iteration": iteration, "total_loss": loss, "lr": 0.01, "time": 0.5, "data_time": 0.01}
    return {**row, **more}


def steps(first: int, last: int, period: int = 20) -> list[dict[str, float]]:
    return [step(i) for i in range(first, last + 1, period)]


def read(tmp_path: Path, *rows: dict[str, float]) -> MetricsFile:
    path = tmp_path / "metrics.json"
    path.write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))
    return read_metrics_json(path)


def only(file: MetricsFile) -> MetricsSegment:
    (segment,) = file.segments
    return segment


def losses(file: MetricsFile) -> list[list[int]]:
    """The iterations of the total loss, per segment."""
    return [one.series["total_loss"].iterations.tolist() for one in file.segments]


# ------------------------------------------------------------------------------- segments


def test_a_second_run_in_the_same_file_is_split_off(tmp_path):
    file = read(tmp_path, *steps(19, 99), *steps(19, 59))
    assert losses(file) == [[19, 39, 59, 79, 99], [19, 39, 59]]
    assert [one.rows for one in file.segments] == [5, 3]


def test_a_resume_that_repeats_iterations_is_split_off_and_told(tmp_path):
    file = read(tmp_path, *steps(19, 199), *steps(119, 259))
    assert losses(file)[1][0] == 119
    assert [e.kind for e in file.segments[1].events] == ["resume"]
    assert file.segments[0].events == ()


def test_a_fresh_start_is_no_resume(tmp_path):
    file = read(tmp_path, *steps(19, 199), *steps(19, 59))
    assert file.segments[1].events == ()


def test_equal_iterations_belong_to_two_runs(tmp_path):
    assert losses(read(tmp_path, step(19), step(19))) == [[19], [19]]


def test_an_evaluation_row_written_late_stays_with_its_run(tmp_path):
    """Every 30 iterations with rows every 20: the row 29 comes after the row 39."""
    file = read(tmp_path, step(19), step(39), {"iteration": 29, "bbox/AP": 3.0}, step(59))
    segment = only(file)
    assert segment.series["bbox/AP"].iterations.tolist() == [29]
    assert segment.rows == 4


def test_an_evaluation_after_the_last_iteration_belongs_to_the_run_before_it(tmp_path):
    file = read(tmp_path, *steps(19, 99), {"iteration": 100, "bbox/AP": 3.0}, *steps(19, 39))
    assert file.segments[0].series["bbox/AP"].iterations.tolist() == [100]
    assert "bbox/AP" not in file.segments[1].series


def test_the_rest_of_a_crash_that_comes_before_its_losses_stays_with_them(tmp_path):
    broken = {"iteration": 51, "data_time": 0.01, "eta_seconds": 9.0}
    file = read(tmp_path, step(19), step(39), broken, step(50), *steps(19, 59))
    assert losses(file) == [[19, 39, 50], [19, 39, 59]]
    assert [one.rows for one in file.segments] == [4, 3]


def test_a_start_that_dies_before_its_first_loss_is_told_and_disturbs_no_series(tmp_path):
    stray = {"iteration": 0, "rpn/num_pos_anchors": 4.0}
    file = read(tmp_path, *steps(19, 99), stray, stray)
    segment = only(file)
    assert [e.kind for e in segment.events] == ["failed-start"]
    assert segment.rows == 7
    assert "rpn/num_pos_anchors" not in segment.series


def test_a_start_that_broke_within_its_first_period_is_a_run_of_its_own(tmp_path):
    """As Ctrl-C at iteration 18, then a fresh start, leave them: 17 is off the beat."""
    crash = [{"iteration": 18, "data_time": 0.1}, step(17)]
    found = read(tmp_path, *crash, *steps(19, 99))
    assert losses(found) == [[17], [19, 39, 59, 79, 99]]
    assert [len(segment.events) for segment in found.segments] == [0, 0]
    assert found.segments[0].broken is not None


def test_several_starts_that_broke_early_are_runs_of_their_own(tmp_path):
    found = read(tmp_path, step(3), step(9), *steps(19, 59), step(5), *steps(19, 59))
    assert losses(found) == [[3], [9], [19, 39, 59], [5], [19, 39, 59]]


def test_a_loop_that_writes_iteration_zero_goes_on_from_it(tmp_path):
    found = read(tmp_path, step(0), *steps(99, 499, 100))
    assert losses(found) == [[0, 99, 199, 299, 399, 499]]


@pytest.mark.parametrize("again", [0, 1])
def test_a_start_that_broke_in_iteration_one_is_a_run_of_its_own(tmp_path, again):
    """Iteration 0 written twice, or the rest of iteration 1, is never of the run that goes on."""
    rest = {"iteration": again, "data_time": 0.1}
    found = read(tmp_path, step(0), rest, *steps(99, 499, 100))
    assert losses(found) == [[0], [99, 199, 299, 399, 499]]


def test_rows_of_starts_that_never_came_to_a_loss_are_counted_once(tmp_path):
    dead = {"iteration": 0, "rpn/num_pos_anchors": 4.0}
    found = read(tmp_path, *steps(19, 59), dead, dead, dead, *steps(19, 59))
    assert [segment.rows for segment in found.segments] == [5, 4]
    assert [event.kind for event in found.segments[0].events] == ["failed-start"]


def test_rows_of_iteration_zero_are_kept(tmp_path):
    segment = only(read(tmp_path, *steps(0, 300, 100)))
    assert segment.series["total_loss"].iterations.tolist() == [0, 100, 200, 300]
    assert segment.events == ()


@pytest.mark.parametrize("period", [1, 20, 100, 10_000])
def test_any_logging_period_is_recognised(tmp_path, period):
    segment = only(read(tmp_path, *steps(period - 1, period * 10 - 1, period)))
    assert segment.period == period
    assert segment.series["total_loss"].every == period


def test_two_processes_that_write_side_by_side_become_two_rising_runs(tmp_path):
    pairs = [row for i in range(19, 400, 20) for row in (step(i), step(i))]
    file = read(tmp_path, *pairs)
    assert [len(one) for one in losses(file)] == [20, 20]
    assert all(e.kind == "two-writers" for one in file.segments for e in one.events)
    assert all(one.events for one in file.segments)


def test_two_processes_far_apart_in_iterations_become_two_runs(tmp_path):
    pairs = [row for i in range(19, 400, 20) for row in (step(i), step(i + 5000))]
    assert losses(read(tmp_path, *pairs)) == [
        list(range(19, 400, 20)),
        list(range(5019, 5400, 20)),
    ]


def test_many_restarts_are_not_taken_for_two_processes(tmp_path):
    file = read(tmp_path, *(row for _ in range(6) for row in steps(19, 99)))
    assert len(file.segments) == 6
    assert not any(e.kind == "two-writers" for one in file.segments for e in one.events)


def test_a_file_without_total_loss_is_split_by_its_losses(tmp_path):
    rows = [{"iteration": i, "loss_cls": 1.0, "lr": 0.1} for i in (19, 39, 19, 39)]
    assert [one.rows for one in read(tmp_path, *rows).segments] == [2, 2]


def test_a_silent_resume_off_the_beat_is_told(tmp_path):
    """A process writes once more when it ends; the next one goes on from its checkpoint."""
    segment = only(read(tmp_path, *steps(19, 99), step(107), *steps(119, 199)))
    assert [(e.kind, e.iteration) for e in segment.events] == [("resume", 119)]


def test_a_silent_resume_is_seen_by_a_rate_that_climbs_again(tmp_path):
    rates = [0.002, 0.004, 0.006, 0.008, 0.002, 0.004, 0.006, 0.008]
    rows = [step(20 * i + 19, lr=rate) for i, rate in enumerate(rates)]
    events = only(read(tmp_path, *rows)).events
    assert [(e.kind, e.iteration) for e in events] == [("resume", 99)]


def test_a_step_of_the_schedule_is_no_resume(tmp_path):
    rows = [step(20 * i + 19, lr=0.01 if i < 5 else 0.001) for i in range(10)]
    assert only(read(tmp_path, *rows)).events == ()


def test_missing_rows_are_told(tmp_path):
    segment = only(read(tmp_path, *steps(19, 99), *steps(219, 299)))
    assert [(e.kind, e.iteration) for e in segment.events] == [("rows-missing", 219)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 30)), min_size=1, max_size=6),
    st.sampled_from([1, 20, 100]),
)
def test_runs_that_were_appended_come_back_as_they_were(tmp_path_factory, runs, period):
    tmp_path = tmp_path_factory.mktemp("runs")
    written: list[list[int]] = []
    for start, count in runs:
        rows = [period * (start + i) + period - 1 for i in range(count)]
        # A start that goes on exactly behind some earlier row is that run, to any reader.
        if not written or all(rows[0] - period not in one for one in written):
            if not written or rows[0] <= written[-1][-1]:
                written.append(rows)
    file = read(tmp_path, *(step(i) for run in written for i in run))
    assert losses(file) == written


# ------------------------------------------------------------------------------- meaning


def test_losses_and_times_are_medians_and_the_rate_is_raw(tmp_path):
    rows = [step(i, eta_seconds=1.0, **{"fast_rcnn/cls_accuracy": 0.9}) for i in range(19, 200, 20)]
    series = only(read(tmp_path, *rows)).series
    for name in ("total_loss", "time", "data_time", "fast_rcnn/cls_accuracy"):
        assert (series[name].statistic, series[name].window, series[name].every) == (
            "median",
            20,
            20,
        )
    for name in ("lr", "eta_seconds"):
        assert (series[name].statistic, series[name].window) == ("raw", 1)


@pytest.mark.parametrize("key", ["bbox/AP50", "segm/AP-person", "coco_val/bbox/AP", "sem_seg/mIoU"])
def test_evaluations_are_raw_even_in_every_row(tmp_path, key):
    rows = [step(i, **{key: 10.0}) for i in range(19, 100, 20)]
    assert only(read(tmp_path, *rows)).series[key].statistic == "raw"


def test_a_rare_loss_of_the_users_own_may_be_a_median_over_its_last_20_samples(tmp_path):
    rows = [step(i, **({"val_metric": 1.0} if i % 100 == 99 else {})) for i in range(19, 1000, 20)]
    series = only(read(tmp_path, *rows)).series["val_metric"]
    assert (series.statistic, series.window, series.every) == ("median", 2000, 100)


def test_running_medians_of_every_iteration_are_recognised(tmp_path):
    raw = np.exp(np.random.default_rng(1).normal(size=400) * 0.3)
    rows = [step(i, total_loss=float(np.median(raw[max(0, i - 19) : i + 1]))) for i in range(400)]
    assert only(read(tmp_path, *rows)).series["total_loss"].statistic == "median"


def test_raw_values_of_every_iteration_are_recognised(tmp_path):
    raw = np.exp(np.random.default_rng(1).normal(size=400) * 0.3)
    rows = [step(i, total_loss=float(value)) for i, value in enumerate(raw)]
    series = only(read(tmp_path, *rows)).series
    assert (series["total_loss"].statistic, series["total_loss"].window) == ("raw", 1)
    assert series["data_time"].statistic == "raw"


def test_too_few_rows_of_every_iteration_count_as_medians(tmp_path):
    rows = [step(i, total_loss=1.0 + i / 7) for i in range(30)]
    assert only(read(tmp_path, *rows)).series["total_loss"].statistic == "median"


def test_a_value_written_twice_for_one_iteration_counts_once_the_last_one(tmp_path):
    late = {"iteration": 39, "extra": 2.0}
    segment = only(read(tmp_path, step(19), step(39, extra=1.0), late, step(59)))
    assert segment.series["extra"].values.tolist() == [2.0]


def test_nan_in_an_evaluation_is_kept(tmp_path):
    segment = only(read(tmp_path, step(19), {"iteration": 20, "bbox/APs": math.nan}))
    assert math.isnan(segment.series["bbox/APs"].values[0])


# ------------------------------------------------------------------------------- length, ending


def test_the_first_row_gives_the_planned_length_away(tmp_path):
    time, planned = 0.731234567, 270_000
    row = step(19, time=time, eta_seconds=time * (planned - 19 - 1))
    segment = only(read(tmp_path, row, *steps(39, 99)))
    assert segment.planned_iterations == planned
    assert segment.ending(planned).kind is EndingKind.TRUNCATED


def test_the_first_row_after_a_resume_gives_the_planned_length_away(tmp_path):
    row = step(119, time=0.3, eta_seconds=0.3 * (90_000 - 119 - 1))
    file = read(tmp_path, *steps(19, 199), row, *steps(139, 199))
    assert [one.planned_iterations for one in file.segments] == [None, 90_000]


def test_a_resume_that_trains_longer_gives_its_own_length_away(tmp_path):
    """As in a public output: the counter goes on from 500, and only eta tells the new length."""
    rows = [step(i, time=0.3, eta_seconds=0.31 * (500 - i)) for i in range(39, 499, 20)]
    first, last = (step(i, time=0.3, eta_seconds=0.3 * (500 - i - 1)) for i in (19, 498))
    again = step(519, time=0.4, eta_seconds=0.4 * (1000 - 519 - 1))
    more = step(539, time=0.4, eta_seconds=0.41 * 460)
    segment = only(read(tmp_path, first, *rows, last, again, more))
    assert segment.planned_iterations == 1000
    assert segment.ending(1000).kind is EndingKind.TRUNCATED
    untold = only(read(tmp_path, first, *rows, last, more))
    assert untold.planned_iterations is None, "500 is disproved by the rows themselves"


def test_before_version_0_3_the_printed_remainder_was_one_longer(tmp_path):
    row = step(19, time=0.3, eta_seconds=0.3 * (90_000 - 19))
    assert only(read(tmp_path, row)).planned_iterations == 90_000


def test_an_eta_that_is_no_whole_number_of_iterations_tells_no_length(tmp_path):
    """With rows every 100 iterations the two medians differ."""
    row = step(99, time=0.3, eta_seconds=0.3071 * 89_900)
    assert only(read(tmp_path, row, *steps(199, 999, 100))).planned_iterations is None


def test_nothing_left_to_do_is_the_end(tmp_path):
    segment = only(read(tmp_path, *steps(19, 79), step(99, eta_seconds=0.0)))
    assert segment.planned_iterations == 100
    assert segment.ending(100).kind is EndingKind.FINISHED


def test_an_evaluation_at_the_planned_length_means_finished(tmp_path):
    segment = only(read(tmp_path, *steps(19, 79), {"iteration": 90, "bbox/AP": 1.0}))
    assert segment.ending(90).kind is EndingKind.FINISHED


def test_losses_that_were_never_stored_are_a_crash(tmp_path):
    """write_metrics puts data_time, then raises on NaN before it puts the losses."""
    broken = {"iteration": 51, "data_time": 0.01, "eta_seconds": 9.0, "rpn/num_pos_anchors": 3.0}
    ending = only(read(tmp_path, step(19), step(39), broken, step(50))).ending(1000)
    assert (ending.kind, ending.iteration) == (EndingKind.CRASHED, 51)
    assert "NaN" in (ending.message or "")
    assert ending.read_from == "metrics.json"


def test_an_iteration_that_broke_before_its_losses_may_be_ctrl_c(tmp_path):
    broken = {"iteration": 51, "eta_seconds": 9.0}
    ending = only(read(tmp_path, step(19), step(39), step(50), broken)).ending(1000)
    assert (ending.kind, ending.iteration) == (EndingKind.TRUNCATED, 51)
    assert "Ctrl-C" in (ending.message or "")


def test_without_a_planned_length_the_ending_is_unknown(tmp_path):
    assert only(read(tmp_path, *steps(19, 99))).ending(None).kind is EndingKind.UNKNOWN


# ------------------------------------------------------------------------------- files


def test_lost_lines_count_for_the_run_whose_rows_they_follow(tmp_path):
    path = tmp_path / "metrics.json"
    lines = [json.dumps(row) for row in (*steps(19, 59), *steps(19, 59))]
    lines.insert(4, "broken")
    lines.append('{"iteration": 79, "total')
    path.write_text("\n".join(lines))
    assert [one.malformed_lines for one in read_metrics_json(path).segments] == [0, 2]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\xff\xfe", "binary"),
        (b"step,loss\n1,2\n", "2 lines"),
        (b'{"images": [], "annotations": []}', "1 lines"),
        (b"\x1f\x8b\x08 not really packed", "cannot be unpacked"),
    ],
)
def test_a_file_without_rows_is_a_clear_error(tmp_path, content, words):
    path = tmp_path / "metrics.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_metrics_json(path)
    assert words in error.value.found
    assert error.value.where == str(path)


def test_the_error_never_quotes_the_file(tmp_path):
    path = tmp_path / "secrets.json"
    path.write_text("AWS_SECRET=abcdef\n")
    with pytest.raises(InputError) as error:
        read_metrics_json(path)
    assert "abcdef" not in str(error.value)


def test_a_missing_file_is_a_clear_error(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_metrics_json(tmp_path / "metrics.json")


def test_a_packed_file_that_was_cut_is_read_as_far_as_it_goes(tmp_path):
    rng = np.random.default_rng(0)
    rows = [json.dumps(step(i, noise=rng.random())) for i in range(19, 40_000, 20)]
    packed = gzip.compress("\n".join(rows).encode())
    path = tmp_path / "metrics.json.gz"
    path.write_bytes(packed[: len(packed) // 2])
    segment = only(read_metrics_json(path))
    assert 500 < segment.rows < 1500
    assert [e.kind for e in segment.events] == ["damaged"]
