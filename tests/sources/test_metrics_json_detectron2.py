"""What Detectron2's own trainer and writer leave behind reads as what really happened."""

from pathlib import Path

import numpy as np
import pytest

from d2check.model import EndingKind
from d2check.sources.metrics_json import MetricsFile, read_metrics_json

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore")]


def read(folder: Path) -> MetricsFile:
    return read_metrics_json(folder / "metrics.json")


def test_a_training_that_ran_through_is_finished_and_its_length_known(toy, tmp_path):
    toy.train(tmp_path, 200)
    (segment,) = read(tmp_path).segments
    assert segment.planned_iterations == 200
    assert segment.ending(200).kind is EndingKind.FINISHED
    assert segment.series["bbox/AP"].iterations.tolist() == [29, 59, 89, 119, 149, 179]
    assert segment.events == ()


def test_the_length_is_known_from_the_first_row_of_an_unfinished_training(toy, tmp_path):
    toy.train(tmp_path, 45, planned=123_457)
    (segment,) = read(tmp_path).segments
    assert segment.planned_iterations == 123_457
    assert segment.ending(123_457).kind is EndingKind.TRUNCATED


@pytest.mark.parametrize("at", [47, 60, 99, 100])
def test_a_nan_is_a_crash_at_its_iteration(toy, tmp_path, at):
    with pytest.raises(FloatingPointError):
        toy.train(tmp_path, 200, model=toy.Toy(at))
    (segment,) = read(tmp_path).segments
    ending = segment.ending(segment.planned_iterations)
    assert (ending.kind, ending.iteration) == (EndingKind.CRASHED, at)
    assert segment.series["total_loss"].iterations.tolist()[-1] == at - 1
    assert np.isfinite(segment.series["total_loss"].values).all()


@pytest.mark.parametrize(("how", "error"), [("error", RuntimeError), ("ctrl-c", KeyboardInterrupt)])
def test_another_exception_and_ctrl_c_are_not_told_apart(toy, tmp_path, how, error):
    with pytest.raises(error):
        toy.train(tmp_path, 200, model=toy.Toy(71, how))
    (segment,) = read(tmp_path).segments
    ending = segment.ending(segment.planned_iterations)
    assert (ending.kind, ending.iteration) == (EndingKind.TRUNCATED, 71)
    assert "Ctrl-C" in (ending.message or "")


def test_a_crash_and_the_run_that_follows_it_are_told_apart(toy, tmp_path):
    with pytest.raises(FloatingPointError):
        toy.train(tmp_path, 200, model=toy.Toy(51))
    toy.train(tmp_path, 100)
    first, second = read(tmp_path).segments
    assert first.ending(first.planned_iterations).kind is EndingKind.CRASHED
    assert second.ending(second.planned_iterations).kind is EndingKind.FINISHED
    assert second.events == ()


def test_a_resume_after_a_crash_is_told(toy, tmp_path):
    with pytest.raises(FloatingPointError):
        toy.train(tmp_path, 300, model=toy.Toy(171))
    toy.train(tmp_path, 300, start=100)
    first, second = read(tmp_path).segments
    assert first.rows + second.rows == sum(1 for _ in (tmp_path / "metrics.json").open())
    assert [(e.kind, e.iteration) for e in second.events] == [("resume", 119)]
    assert second.planned_iterations == 300


@pytest.mark.parametrize("period", [1, 3, 5])
def test_rows_of_every_few_iterations_are_seen_to_be_running_medians(toy, tmp_path, period):
    toy.train(tmp_path, 400, period=period, validate_every=1000)
    (segment,) = read(tmp_path).segments
    loss = segment.series["total_loss"]
    assert (loss.statistic, loss.window, loss.every) == ("median", 20, period)
    assert segment.series["lr"].statistic == "raw"
