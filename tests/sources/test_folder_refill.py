"""What metrics.json has lost is read from the event files and logs that lie beside it."""

import json

import numpy as np
import pytest

from d2check import sources
from d2check.model import EndingKind, Run
from tests.sources.written import crash, lines, log, rows, start, values, write_events

EVERY = list(range(19, 1000, 20))
NULS = "\x00" * 400 + "\n"


def only(path) -> Run:
    (run,) = sources.read(path)
    return run


def told(run: Run, kind: str) -> list[str]:
    return [event.message for event in run.events if event.kind == kind]


def damaged(*lost: int) -> str:
    """metrics.json of 50 rows, those lost a single line of NULs in the place of the first."""
    kept = rows(999)
    for number, i in enumerate(sorted(lost)):
        kept[EVERY.index(i)] = NULS if number == 0 else ""
    return "".join(kept)


MISSING = tuple(range(219, 440, 20))


def test_rows_lost_in_a_line_of_nuls_come_from_the_event_file(tmp_path):
    (tmp_path / "metrics.json").write_text(damaged(*MISSING))
    events = write_events(tmp_path, 999)
    run = only(tmp_path)
    for name in ("total_loss", "loss_cls", "lr", "time", "data_time"):
        series = run.series[name]
        assert series.iterations.tolist() == EVERY
        np.testing.assert_allclose(series.values, [values(i)[name] for i in EVERY], rtol=1e-6)
        assert series.every == 20
    assert (run.series["time"].statistic, run.series["time"].window) == ("median", 20)
    assert run.series["lr"].statistic == "raw"
    assert run.rows == 50
    assert run.malformed_lines == 1
    (text,) = told(run, "filled")
    assert text == (
        "12 rows (iterations 219 to 439) could not be read in metrics.json and were taken from "
        + events.name
    )
    assert not told(run, "rows-missing")


def test_rows_come_from_the_log_where_it_shows_the_same_statistic(tmp_path):
    """The console's `time` is the mean since the start: it is no median of 20, and stays away."""
    (tmp_path / "metrics.json").write_text(damaged(*MISSING))
    (tmp_path / "log.txt").write_text(log(999))
    run = only(tmp_path)
    assert run.series["total_loss"].iterations.tolist() == EVERY
    expected = [values(i)["total_loss"] for i in EVERY]
    np.testing.assert_allclose(run.series["total_loss"].values, expected, rtol=6e-4)
    whole = [i for i in EVERY if i not in MISSING]
    assert run.series["time"].iterations.tolist() == whole
    assert run.series["data_time"].iterations.tolist() == whole
    (text,) = told(run, "filled")
    assert "time" in text
    assert "otherwise" in text


def test_the_event_file_is_asked_before_the_log(tmp_path):
    (tmp_path / "metrics.json").write_text(damaged(*MISSING))
    (tmp_path / "log.txt").write_text(log(999))
    write_events(tmp_path, 999)
    run = only(tmp_path)
    assert run.series["time"].iterations.tolist() == EVERY
    (text,) = told(run, "filled")
    assert "events.out" in text


def test_the_log_fills_what_the_event_file_lost_as_well(tmp_path):
    (tmp_path / "metrics.json").write_text(damaged(*MISSING))
    path = write_events(tmp_path, 999)
    data = path.read_bytes()
    cut = data.index(b"total_loss", len(data) * 2 // 5)
    path.write_bytes(data[:cut] + b"\xff" * 30 + data[cut + 30 :])
    (tmp_path / "log.txt").write_text(log(999))
    run = only(tmp_path)
    assert run.series["total_loss"].iterations.tolist() == EVERY
    assert len(told(run, "filled")) == 2


@pytest.mark.parametrize("lost", [(19,), (19, 39, 59), (999,), (959, 979, 999), (19, 999)])
def test_rows_at_either_end_are_filled(tmp_path, lost):
    kept = [NULS if i in lost else one for i, one in zip(EVERY, rows(999), strict=True)]
    (tmp_path / "metrics.json").write_text("".join(kept))
    write_events(tmp_path, 999)
    run = only(tmp_path)
    assert run.series["total_loss"].iterations.tolist() == EVERY
    assert not told(run, "resume")


def test_a_truncated_last_line_is_filled(tmp_path):
    (tmp_path / "metrics.json").write_text("".join(rows(999))[:-40])
    (tmp_path / "log.txt").write_text(log(999))
    assert only(tmp_path).series["total_loss"].iterations.tolist() == EVERY


def test_a_metrics_file_that_was_copied_half_goes_on_by_the_log(tmp_path):
    (tmp_path / "metrics.json").write_text("".join(rows(399)))
    error = "FloatingPointError: Loss became infinite or NaN at iteration=1003!"
    (tmp_path / "log.txt").write_text(log(999) + crash(error))
    run = only(tmp_path)
    assert run.series["total_loss"].iterations.tolist() == EVERY
    assert run.ending.kind is EndingKind.NON_FINITE
    assert not told(run, "contradiction")


def test_rows_that_a_hand_took_out_are_filled(tmp_path):
    """No line tells that something was lost, but the beat of the rows does."""
    kept = [one for i, one in zip(EVERY, rows(999), strict=True) if i not in MISSING]
    (tmp_path / "metrics.json").write_text("".join(kept))
    write_events(tmp_path, 999)
    run = only(tmp_path)
    assert run.series["total_loss"].iterations.tolist() == EVERY
    assert "are missing" in told(run, "filled")[0]


def test_rows_of_another_period_are_not_lost_ones(tmp_path):
    kept = [one for i, one in zip(EVERY, rows(999), strict=True) if i % 100 == 99]
    (tmp_path / "metrics.json").write_text("".join(kept))
    (tmp_path / "log.txt").write_text(log(999))
    write_events(tmp_path, 999)
    run = only(tmp_path)
    assert run.series["total_loss"].iterations.tolist() == list(range(99, 1000, 100))
    assert not told(run, "filled")


def test_of_a_source_with_more_rows_only_those_that_were_lost_are_taken(tmp_path):
    kept = [one for i, one in zip(EVERY, rows(999), strict=True) if i % 100 == 99]
    kept[4] = NULS
    (tmp_path / "metrics.json").write_text("".join(kept))
    write_events(tmp_path, 999)
    run = only(tmp_path)
    assert run.series["total_loss"].iterations.tolist() == list(range(99, 1000, 100))


def test_an_evaluation_that_was_lost_is_found_again(tmp_path):
    ap = json.dumps({"iteration": 489, "bbox/AP": 31.5}) + "\n"
    late = json.dumps({"iteration": 989, "bbox/AP": 35.5}) + "\n"
    kept = rows(999)
    kept.insert(24, ap)
    kept.insert(50, late)
    more = ((489, "bbox/AP", 31.5), (989, "bbox/AP", 35.5))
    write_events(tmp_path, 999, more=more)
    (tmp_path / "metrics.json").write_text("".join(kept))
    whole = only(tmp_path).series["bbox/AP"]
    kept[24] = NULS
    (tmp_path / "metrics.json").write_text("".join(kept))
    assert only(tmp_path).series["bbox/AP"].values.tolist() == whole.values.tolist() == [31.5, 35.5]
    kept[50] = NULS
    (tmp_path / "metrics.json").write_text("".join(kept))
    run = only(tmp_path)
    assert run.series["bbox/AP"].values.tolist() == [31.5, 35.5]
    assert run.series["bbox/AP"].statistic == "raw"


def test_rows_of_another_training_fill_nothing(tmp_path):
    (tmp_path / "metrics.json").write_text(damaged(*MISSING))
    write_events(tmp_path, 999, seed=200)
    runs = sources.read(tmp_path)
    assert [len(run.series["total_loss"]) for run in runs] == [38, 50]
    assert not any(told(run, "filled") for run in runs)


def test_a_coarse_rate_of_an_old_log_fills_no_gap(tmp_path):
    """Before v0.3 `lr: 0.000013` stands for anything between 0.0000125 and 0.0000135."""
    kept = damaged(*MISSING).replace('"lr": 0.01', '"lr": 1.26e-05')
    (tmp_path / "metrics.json").write_text(kept)
    (tmp_path / "log.txt").write_text(log(999).replace("lr: 0.01", "lr: 0.000013"))
    run = only(tmp_path)
    assert set(run.series["lr"].values) == {1.26e-05}
    assert run.series["total_loss"].iterations.tolist() == EVERY
    assert "lr" in told(run, "filled")[0]


def test_a_gap_that_no_other_file_fills_is_told(tmp_path):
    (tmp_path / "metrics.json").write_text(damaged(*MISSING))
    (tmp_path / "log.txt").write_text(start() + lines(199) + lines(999, first=459, second=600))
    run = only(tmp_path)
    assert told(run, "rows-missing") == ["rows are missing between iterations 199 and 459"]
    assert not told(run, "filled")


def test_large_event_files_are_read_where_rows_were_lost(tmp_path, monkeypatch):
    monkeypatch.setattr("d2check.sources.folder.contents._SMALL_BYTES", 10)
    (tmp_path / "log.txt").write_text(log(999))
    write_events(tmp_path, 999)
    (tmp_path / "metrics.json").write_text("".join(rows(999)))
    assert told(only(tmp_path), "not-read")
    (tmp_path / "metrics.json").write_text(damaged(*MISSING))
    run = only(tmp_path)
    assert run.series["time"].iterations.tolist() == EVERY
    assert not told(run, "not-read")


def test_the_rows_of_two_starts_are_not_mixed(tmp_path):
    """A start over and its rows before the first of them: the same iterations, other losses."""
    first, second = rows(599), rows(999, seed=40)
    second[10] = NULS
    (tmp_path / "metrics.json").write_text("".join(first + second))
    write_events(tmp_path, 599)
    write_events(tmp_path, 999, seed=40, begin_s=1_700_009_000.0, pid=2)
    one, two = sources.read(tmp_path)
    assert len(one.series["total_loss"]) == 30
    assert not told(one, "filled")
    losses = two.series["total_loss"]
    assert losses.iterations.tolist() == EVERY
    assert losses.values[10] == pytest.approx(values(219, 40)["total_loss"])


def test_a_loss_that_the_log_prints_otherwise_is_not_mixed(tmp_path):
    (tmp_path / "metrics.json").write_text(damaged(*MISSING))
    (tmp_path / "log.txt").write_text(log(999).replace("loss_cls: ", "loss_cls: 7"))
    run = only(tmp_path)
    assert run.series["loss_cls"].iterations.tolist() == [i for i in EVERY if i not in MISSING]
    assert "loss_cls" in told(run, "filled")[0]


def test_values_that_old_event_files_repeat_are_not_filled_in(tmp_path):
    """Before v0.3 they write the last value of every key again in each row."""
    kept = rows(999)
    kept[10] = NULS
    kept[4] = kept[4].replace("}", ', "accuracy": 0.5}')
    kept[30] = kept[30].replace("}", ', "accuracy": 0.75}')
    (tmp_path / "metrics.json").write_text("".join(kept))
    more = tuple((i, "accuracy", 0.5 if i < 619 else 0.75) for i in EVERY if i >= 99)
    write_events(tmp_path, 999, more=more)
    run = only(tmp_path)
    assert run.series["total_loss"].iterations.tolist() == EVERY
    assert run.series["accuracy"].iterations.tolist() == [99, 619]
