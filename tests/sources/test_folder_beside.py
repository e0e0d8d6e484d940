"""Copies of a training's rows and folders of its events are no trainings of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from d2check import sources
from tests.sources.written import HOUR_S, log, rows, write_events


def outputs(root: Path) -> list[str]:
    return [str(one.relative_to(root)) for one in sources.discover([root])]


def write_rows(path: Path, last: int, **how: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(rows(last, **how)))


@pytest.mark.parametrize("name", ["metrics (1).json", "metrics_copy.json", "metrics.jsonl"])
def test_a_copy_of_the_rows_is_no_training_of_its_own(tmp_path, name):
    write_rows(tmp_path / "out/metrics.json", 999)
    write_rows(tmp_path / "out" / name, 999)
    assert outputs(tmp_path) == ["out"]
    (run,) = sources.read(tmp_path / "out")
    assert run.rows == 50
    assert [e.read_from for e in run.events if e.kind == "fused"] == [name]


def test_a_copy_made_while_it_trained_is_none_either(tmp_path):
    write_rows(tmp_path / "metrics.json", 999)
    half = (tmp_path / "metrics.json").read_bytes()[:3001]
    (tmp_path / "metrics_at_noon.json").write_bytes(half)
    assert len(sources.read(tmp_path)) == 1
    assert outputs(tmp_path) == ["."]


def test_a_later_copy_tells_the_rest(tmp_path):
    write_rows(tmp_path / "metrics.json", 399)
    write_rows(tmp_path / "metrics (1).json", 999)
    assert outputs(tmp_path) == ["."]
    (run,) = sources.read(tmp_path)
    assert run.last_iteration == 999


def test_rows_of_another_seed_or_of_a_later_start_stay_a_training_of_their_own(tmp_path):
    write_rows(tmp_path / "metrics.json", 999)
    write_rows(tmp_path / "metrics_old.json", 999, seed=1)
    write_rows(tmp_path / "metrics_rest.json", 1999, first=1019)
    assert outputs(tmp_path) == [".", "metrics_old.json", "metrics_rest.json"]


def test_one_row_in_common_makes_no_copy(tmp_path):
    """Two trainings of one seed may begin with the same row, and differ from then on."""
    write_rows(tmp_path / "metrics.json", 999)
    (tmp_path / "metrics_old.json").write_text("".join(rows(19)))
    assert outputs(tmp_path) == [".", "metrics_old.json"]


@pytest.mark.parametrize("name", ["tb", "tensorboard", "events"])
def test_events_in_a_folder_below_are_those_of_the_output(tmp_path, name):
    write_rows(tmp_path / "out/metrics.json", 999)
    (tmp_path / "out" / name).mkdir()
    write_events(tmp_path / "out" / name, 999)
    assert outputs(tmp_path) == ["out"]
    (run,) = sources.read(tmp_path / "out")
    assert "wall_s" in run.series


def test_events_below_belong_to_a_log_too(tmp_path):
    (tmp_path / "out/tb").mkdir(parents=True)
    (tmp_path / "out/log.txt").write_text(log(999))
    write_events(tmp_path / "out/tb", 999)
    assert outputs(tmp_path) == ["out"]
    assert len(sources.read(tmp_path / "out")) == 1


def test_events_below_of_another_training_are_one_of_their_own(tmp_path):
    write_rows(tmp_path / "out/metrics.json", 999)
    (tmp_path / "out/tb").mkdir()
    write_events(tmp_path / "out/tb", 999, seed=1)
    assert outputs(tmp_path) == ["out", "out/tb"]
    (run,) = sources.read(tmp_path / "out")
    assert "wall_s" not in run.series


def test_a_folder_of_events_that_is_named_is_judged_by_itself(tmp_path):
    write_rows(tmp_path / "out/metrics.json", 999)
    (tmp_path / "out/tb").mkdir()
    write_events(tmp_path / "out/tb", 999)
    (found,) = sources.discover([tmp_path / "out/tb"])
    assert found == tmp_path / "out/tb"
    assert len(sources.read(tmp_path / "out/tb")) == 1


def test_a_folder_of_events_with_rows_of_its_own_stays_an_output(tmp_path):
    write_rows(tmp_path / "out/metrics.json", 999)
    write_rows(tmp_path / "out/tb/metrics.json", 999, seed=1)
    write_events(tmp_path / "out/tb", 999)
    assert outputs(tmp_path) == ["out", "out/tb"]


def test_events_of_the_second_start_are_found_among_the_rows_of_both(tmp_path):
    (tmp_path / "tb").mkdir()
    (tmp_path / "metrics.json").write_text("".join(rows(999) + rows(999, seed=1)))
    write_events(tmp_path / "tb", 999, seed=1, begin_s=HOUR_S)
    assert outputs(tmp_path) == ["."]


def test_broken_events_below_are_an_output_that_cannot_be_read(tmp_path):
    write_rows(tmp_path / "out/metrics.json", 999)
    (tmp_path / "out/tb").mkdir()
    (tmp_path / "out/tb/events.out.tfevents.1.host.1.0").write_bytes(b"no events" * 50)
    assert outputs(tmp_path) == ["out", "out/tb"]


def test_rows_beside_a_log_are_its_rows_under_whatever_name(tmp_path):
    """A browser calls the second metrics.json that it saves `metrics (1).json`."""
    (tmp_path / "log.txt").write_text(log(999))
    write_rows(tmp_path / "metrics (1).json", 999)
    write_rows(tmp_path / "metrics (2).json", 599)
    assert outputs(tmp_path) == ["."]
    (run,) = sources.read(tmp_path)
    assert run.source.endswith("metrics (1).json")
    assert run.rows == 50
    assert run.series["total_loss"].statistic == "median"


def test_rows_beside_the_log_of_another_training_stay_apart(tmp_path):
    (tmp_path / "log.txt").write_text(log(999))
    write_rows(tmp_path / "metrics (1).json", 999, seed=9)
    assert outputs(tmp_path) == [".", "metrics (1).json"]


def test_two_trainings_rows_beside_a_log_stay_apart(tmp_path):
    (tmp_path / "log.txt").write_text(log(999))
    write_rows(tmp_path / "metrics (1).json", 999)
    write_rows(tmp_path / "metrics (2).json", 999, seed=9)
    assert outputs(tmp_path) == [".", "metrics (1).json", "metrics (2).json"]
