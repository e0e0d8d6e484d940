"""metrics.json, log and config of one folder tell of one training as one Run."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from d2check import sources
from d2check.model import EndingKind, Run

# What a log line looks like since v0.3; numbers as `{:.4g}`.
LINE = (
    "[11/21 10:{m:02}:{s:02} d2.utils.events]:  eta: 0:10:00  iter: {i}  total_loss: {loss:.4g}"
    "  loss_cls: {cls:.4g}  time: 0.5123  data_time: 0.2034  lr: 0.01  max_mem: 3021M\n"
)
START = "[11/21 10:00:00 d2.engine.train_loop]: Starting training from iteration {first}\n"
RANK = "[11/21 09:59:00 detectron2]: Rank of current process: 0. World size: 4\n"


def loss_at(i: int, seed: int) -> float:
    return 2.0 / (1 + i / 300) + 0.001 * seed + 0.01 * ((i * 7919) % 13)


def metrics_rows(last: int, *, first: int = 19, seed: int = 0, planned: int = 1000) -> str:
    rows = [
        {"iteration": i, "total_loss": loss_at(i, seed), "loss_cls": loss_at(i, seed) / 2,
         "lr": 0.01, "time": 0.25, "data_time": 0.001, "eta_seconds": 0.25 * (planned - i - 1)}
        for i in range(first, last + 1, 20)
    ]  # fmt: skip
    return "".join(json.dumps(row) + "\n" for row in rows)


def log_lines(last: int, *, first: int = 19, seed: int = 0, shift: int = 0) -> str:
    lines = [
        LINE.format(i=i + shift, loss=loss_at(i, seed), cls=loss_at(i, seed) / 2,
                    m=(i // 60) % 60, s=i % 60)
        for i in range(first, last + 1, 20)
    ]  # fmt: skip
    return RANK + START.format(first=first - 19) + "".join(lines)


def crash(error: str = "ValueError: no such image") -> str:
    return (
        "[11/21 10:50:00 d2.engine.train_loop]: ERROR Exception during training:\n"
        'Traceback (most recent call last):\n  File "/home/me/train.py", line 3, in train\n'
        f"    self.run_step()\n{error}\n"
    )


def folder_of(path: Path, *, metrics: str | None, **logs: str) -> Path:
    path.mkdir(exist_ok=True)
    if metrics is not None:
        (path / "metrics.json").write_text(metrics)
    for name, text in logs.items():
        (path / name.replace("_", ".")).write_text(text)
    return path


def only(path: Path) -> Run:
    (run,) = sources.read(path)
    return run


def test_each_thing_comes_from_the_source_that_knows_it_best(tmp_path):
    run = only(folder_of(tmp_path, metrics=metrics_rows(399), log_txt=log_lines(399)))
    assert run.series["total_loss"].values[0] == loss_at(19, 0)  # all digits
    assert run.series["max_mem"].values.tolist() == [3021.0] * 20
    assert run.series["wall_s"].values[-1] > 300
    assert run.facts["world_size"] == 4
    assert run.rows == 20


def test_sums_of_the_loaders_waits_stand_beside_the_medians(tmp_path):
    """A loader that stalls now and then waits 0.2 s on average and 1 ms in the median."""
    series = only(folder_of(tmp_path, metrics=metrics_rows(399), log_txt=log_lines(399))).series
    assert (series["data_time"].statistic, series["data_time_mean"].statistic) == ("median", "mean")
    assert series["data_time_mean"].values[0] == 0.2034
    assert series["time_mean"].statistic == "mean"


def test_a_log_alone_keeps_its_own_names(tmp_path):
    series = only(folder_of(tmp_path, metrics=None, log_txt=log_lines(399))).series
    assert series["data_time"].values[0] == 0.2034
    assert "data_time_mean" not in series


def test_the_log_tells_which_error_ended_the_training(tmp_path):
    rows = metrics_rows(399) + '{"iteration": 405, "eta_seconds": 1.0}\n'
    run = only(folder_of(tmp_path, metrics=rows, log_txt=log_lines(399) + crash()))
    assert (run.ending.kind, run.ending.error) == (EndingKind.CRASHED, "ValueError")
    assert (run.ending.read_from or "").startswith("log.txt:")


def test_the_log_of_another_rank_tells_of_a_crash_that_rank_0_does_not_know(tmp_path):
    other = RANK + START.format(first=0) + crash("RuntimeError: CUDA out of memory. Tried to")
    folder = folder_of(tmp_path, metrics=metrics_rows(399), log_txt=log_lines(399))
    (folder / "log.txt.rank3").write_text(other)
    run = only(folder)
    assert run.ending.kind is EndingKind.OUT_OF_MEMORY
    assert (run.ending.read_from or "").startswith("log.txt.rank3:")


def test_appended_trainings_are_paired_by_their_losses(tmp_path):
    metrics = metrics_rows(199, seed=1) + metrics_rows(299, seed=2) + metrics_rows(99, seed=3)
    log = log_lines(199, seed=1) + log_lines(299, seed=2) + crash() + log_lines(99, seed=3)
    runs = sources.read(folder_of(tmp_path, metrics=metrics, log_txt=log))
    assert [run.ending.kind for run in runs] == [
        EndingKind.TRUNCATED,
        EndingKind.CRASHED,
        EndingKind.TRUNCATED,
    ]
    assert [len(run.series["max_mem"]) for run in runs] == [10, 15, 5]
    assert [run.segment for run in runs] == [0, 1, 2]


def test_identical_trainings_are_paired_in_their_order(tmp_path):
    log = log_lines(199) + crash() + log_lines(199)
    runs = sources.read(folder_of(tmp_path, metrics=metrics_rows(199) * 2, log_txt=log))
    assert [run.ending.kind for run in runs] == [EndingKind.CRASHED, EndingKind.TRUNCATED]


def test_a_log_that_prints_the_next_iteration_is_recognised(tmp_path):
    folder = folder_of(tmp_path, metrics=metrics_rows(399), log_txt=log_lines(399, shift=1))
    run = only(folder)
    assert run.series["max_mem"].iterations.tolist() == list(range(19, 400, 20))


def test_a_training_whose_metrics_were_deleted_is_read_from_the_log(tmp_path):
    log = log_lines(199, seed=1) + log_lines(299, seed=2)
    runs = sources.read(folder_of(tmp_path, metrics=metrics_rows(299, seed=2), log_txt=log))
    assert [(len(run.series["total_loss"]), "eta_seconds" in run.series) for run in runs] == [
        (10, False),
        (15, True),
    ]


def test_starts_that_failed_earlier_are_told_with_the_training_that_followed(tmp_path):
    log = RANK + START.format(first=0) + crash() + log_lines(299)
    run = only(folder_of(tmp_path, metrics=metrics_rows(299), log_txt=log))
    (event,) = [event for event in run.events if event.kind == "failed-start"]
    assert "no such image" in event.message


def test_a_last_start_that_failed_is_a_run_of_its_own(tmp_path):
    log = log_lines(299) + RANK + START.format(first=0) + crash()
    runs = sources.read(folder_of(tmp_path, metrics=metrics_rows(299), log_txt=log))
    assert [run.ending.kind for run in runs] == [EndingKind.TRUNCATED, EndingKind.CRASHED]


def test_a_folder_with_an_empty_metrics_file_is_read_from_its_log(tmp_path):
    run = only(folder_of(tmp_path, metrics="", log_txt=log_lines(299)))
    assert len(run.series["total_loss"]) == 15
    assert [event.kind for event in run.events] == ["unreadable"]


def test_another_capture_of_the_same_console_adds_no_run(tmp_path):
    folder = folder_of(tmp_path, metrics=metrics_rows(299), log_txt=log_lines(299))
    (folder / "slurm-17.out").write_text(log_lines(299))
    assert len(sources.read(folder)) == 1
    (folder / "metrics.json").unlink()
    assert len(sources.read(folder)) == 1


def test_a_capture_under_another_name_is_used_where_there_is_no_log(tmp_path):
    folder = folder_of(tmp_path, metrics=metrics_rows(299))
    (folder / "nohup.out").write_text(log_lines(299))
    assert only(folder).facts["world_size"] == 4


def test_a_log_that_goes_on_beyond_the_metrics_is_followed_and_told(tmp_path):
    run = only(folder_of(tmp_path, metrics=metrics_rows(199), log_txt=log_lines(399)))
    (event,) = [event for event in run.events if event.kind == "filled"]
    assert "iterations 219 to 399" in event.message
    assert run.series["total_loss"].iterations.tolist() == list(range(19, 400, 20))
    assert run.ending.iteration == 399


def test_a_config_of_the_only_start_belongs_to_the_rows_whatever_their_rate(tmp_path):
    folder = folder_of(tmp_path, metrics=metrics_rows(399), log_txt=log_lines(399))
    (folder / "config.yaml").write_text("VERSION: 2\nSOLVER: {BASE_LR: 0.5, MAX_ITER: 1000}\n")
    run = only(folder)
    assert run.config is not None
    assert run.config.matches_run is True


def test_rows_before_a_logs_last_start_are_not_compared_with_its_config(tmp_path):
    """A log that goes on over a resume prints two configs, each that of its own rows."""
    dump = RANK + "[11/21 09:59:01 detectron2]: Running with full config:\nVERSION: 2\nSOLVER:\n"
    first = dump + "  BASE_LR: 0.01\n  WARMUP_ITERS: 0\n  MAX_ITER: 800\n  STEPS: []\n"
    second = dump + "  BASE_LR: 0.04\n  WARMUP_ITERS: 0\n  MAX_ITER: 800\n  STEPS: []\n"
    rows = [log_lines(199).removeprefix(RANK), log_lines(399, first=219).removeprefix(RANK)]
    run = only(folder_of(tmp_path, metrics=None, log_txt=first + rows[0] + second + rows[1]))
    assert run.last_iteration == 399
    planned = run.series["planned_lr"]
    assert planned.iterations[0] == 219
    assert set(planned.values) == {0.04}


def test_a_log_named_by_itself_is_read_by_its_content(tmp_path):
    path = tmp_path / "notes"
    path.write_text(log_lines(299))
    assert only(path).source == str(path)
    assert len(only(path).series["total_loss"]) == 15


def test_logs_in_a_tree_are_found_once(tmp_path):
    folder_of(tmp_path / "a", metrics=metrics_rows(99), log_txt=log_lines(99))
    (tmp_path / "a" / "run.log").write_text(log_lines(99))
    folder_of(tmp_path / "b", metrics=None, log_txt=log_lines(99))
    folder_of(tmp_path / "c", metrics=None)
    (tmp_path / "c" / "job.out").write_text(log_lines(99))
    (tmp_path / "c" / "readme.txt").write_text("nothing\n")
    found = [str(path.relative_to(tmp_path)) for path in sources.discover([tmp_path])]
    assert found == ["a", "b", "c/job.out"]


def test_what_the_rows_pass_the_whole_folder_never_contradicts(tmp_path):
    """The same series, whoever tells it, has the same values up to the printed digits."""
    folder = folder_of(tmp_path, metrics=metrics_rows(399), log_txt=log_lines(399))
    rows, log, whole = (only(folder / name) for name in ("metrics.json", "log.txt", "."))
    for name in ("total_loss", "loss_cls", "lr"):
        np.testing.assert_allclose(rows.series[name].values, whole.series[name].values)
        np.testing.assert_allclose(log.series[name].values, whole.series[name].values, rtol=6e-4)
        assert rows.series[name].statistic == log.series[name].statistic


# ------------------------------------------------------------------- Detectron2's own files


@pytest.fixture
def real_log(tmp_path) -> Iterator[Path]:
    """A folder into which Detectron2 logs."""
    logger = pytest.importorskip("detectron2.utils.logger")
    logger.setup_logger.cache_clear()
    logger.setup_logger(output=str(tmp_path))
    yield tmp_path
    for name in ("detectron2", "fvcore"):
        for handler in list(logging.getLogger(name).handlers):
            logging.getLogger(name).removeHandler(handler)
    logger.setup_logger.cache_clear()


@pytest.mark.training
@pytest.mark.filterwarnings("ignore")
def test_a_real_training_is_one_run_of_all_its_files(toy, real_log):
    toy.train(real_log, 200)
    run = only(real_log)
    assert run.ending.kind is EndingKind.FINISHED
    assert {"total_loss", "time", "data_time", "wall_s", "bbox/AP"} <= run.series.keys()
    assert run.series["total_loss"].iterations.tolist() == list(range(19, 200, 20))
    assert not [event for event in run.events if event.kind == "contradiction"]


@pytest.mark.training
@pytest.mark.filterwarnings("ignore")
def test_a_real_nan_and_the_run_after_it_are_two_runs(toy, real_log):
    with pytest.raises(FloatingPointError):
        toy.train(real_log, 200, model=toy.Toy(71))
    toy.train(real_log, 100)
    first, second = sources.read(real_log)
    assert (first.ending.kind, first.ending.iteration) == (EndingKind.NON_FINITE, 71)
    assert (first.ending.read_from or "").startswith("log.txt:")
    assert second.ending.kind is EndingKind.FINISHED


# ------------------------------------------------------------ one training, several logs


def resumed_log(first: int, last: int) -> str:
    return log_lines(last, first=first)


@pytest.mark.parametrize(
    ("earlier", "later"),
    [("log.txt.1", "log.txt"), ("log.txt", "resumed.log"), ("a.out", "b.out"), ("b.txt", "a.txt")],
)
def test_every_stretch_of_a_training_gives_what_only_its_log_knows(tmp_path, earlier, later):
    (tmp_path / "metrics.json").write_text(metrics_rows(799))
    (tmp_path / earlier).write_text(resumed_log(19, 379))
    (tmp_path / later).write_text(resumed_log(399, 799) + crash())
    run = only(tmp_path)
    every_row = list(range(19, 800, 20))
    for name in ("max_mem", "data_time_mean", "wall_s"):
        assert run.series[name].iterations.tolist() == every_row
    assert (np.diff(run.series["wall_s"].values) > 0).all()
    assert run.series["time_mean"].iterations[-1] == 799
    assert run.series["time_mean"].iterations[0] < 100
    assert (run.ending.kind, run.ending.error) == (EndingKind.CRASHED, "ValueError")
    assert not [event for event in run.events if event.kind == "contradiction"]


def test_three_rotated_logs_are_put_in_order(tmp_path):
    (tmp_path / "metrics.json").write_text(metrics_rows(799))
    for name, first, last in (
        ("log.txt.10", 19, 99),
        ("log.txt.2", 119, 399),
        ("log.txt", 419, 799),
    ):
        (tmp_path / name).write_text(resumed_log(first, last))
    run = only(tmp_path)
    assert run.series["max_mem"].iterations.tolist() == list(range(19, 800, 20))


def test_where_two_logs_overlap_the_later_process_has_the_word(tmp_path):
    (tmp_path / "metrics.json").write_text(metrics_rows(799))
    early = resumed_log(19, 439).replace("data_time: 0.2034", "data_time: 0.9")
    (tmp_path / "log.txt").write_text(early)
    (tmp_path / "resumed.log").write_text(resumed_log(399, 799))
    series = only(tmp_path).series["data_time_mean"]
    assert series.iterations.tolist() == list(range(19, 800, 20))
    assert series.values[series.iterations < 399].tolist() == pytest.approx([0.9] * 19)
    assert series.values[series.iterations >= 399].tolist() == pytest.approx([0.2034] * 21)


def test_means_of_two_ends_do_not_stand_for_the_middle(tmp_path):
    (tmp_path / "metrics.json").write_text(metrics_rows(1999))
    (tmp_path / "log.txt.1").write_text(resumed_log(19, 299))
    (tmp_path / "log.txt").write_text(resumed_log(1719, 1999))
    run = only(tmp_path)
    assert "data_time_mean" not in run.series
    assert len(run.series["max_mem"]) == 30


@pytest.mark.parametrize("metrics", [metrics_rows(799), None])
def test_a_capture_of_one_process_is_no_training_beside_the_log_of_all(tmp_path, metrics):
    """A cluster keeps the console of each job, log.txt goes on over all of them."""
    first, second = resumed_log(19, 379), resumed_log(399, 799)
    folder_of(tmp_path, metrics=metrics, log_txt=first + second, job1_out=first, job2_out=second)
    assert [run.rows for run in sources.read(tmp_path)] == [40]


# ------------------------------------------------------------ what a resume went on from


def rows_at(rate: float, first: int, last: int, seed: int) -> str:
    return metrics_rows(last, first=first, seed=seed).replace('"lr": 0.01', f'"lr": {rate}')


def test_a_resumed_training_knows_the_rates_that_it_went_on_from(tmp_path):
    rows = rows_at(0.001, 19, 559, 1) + rows_at(0.02, 519, 999, 2)
    (tmp_path / "metrics.json").write_text(rows)
    first, resumed = sources.read(tmp_path)
    assert "lr_before" not in first.series
    before = resumed.series["lr_before"]
    assert (before.name, int(before.iterations[-1]), float(before.values[-1])) == (
        "lr_before", 499, 0.001,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("first", "last", "begin"),
    [(19, 199, 19), (19, 199, 519)],  # a fresh start, and a gap that no row tells of
)
def test_no_other_training_tells_what_a_resume_went_on_from(tmp_path, first, last, begin):
    rows = rows_at(0.001, first, last, 1) + rows_at(0.02, 19, 59, 3) + rows_at(0.02, begin, 999, 2)
    (tmp_path / "metrics.json").write_text(rows)
    assert all("lr_before" not in run.series for run in sources.read(tmp_path))
