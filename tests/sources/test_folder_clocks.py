"""Event files give rows a clock, and stand in for rows that are gone."""

import json
from pathlib import Path

import numpy as np

from d2check import sources
from tests.sources.written import event, field, record, wall_time


def loss_at(i: int, seed: int) -> float:
    return 2.0 / (1 + i / 300) + 0.1 * seed


def events_file(
    folder: Path, *, begin_s: float, first: int = 19, last: int = 199, seed: int = 0,
    seconds: float = 0.5, pid: int = 1,
) -> None:  # fmt: skip
    folder.mkdir(exist_ok=True)
    data = record(wall_time(begin_s) + field(3, b"brain.Event:2"))
    for i in range(first, last + 1, 20):
        data += event(begin_s + seconds * (i - first + 20), i, "total_loss", loss_at(i, seed))
        data += event(begin_s + seconds * (i - first + 20), i, "time", seconds)
    (folder / f"events.out.tfevents.{int(begin_s)}.host.{pid}.0").write_bytes(data)


def rows_file(folder: Path, *runs: tuple[int, int, int]) -> None:
    """first, last, seed of each run."""
    rows = [
        {"iteration": i, "total_loss": loss_at(i, seed), "time": 0.5, "lr": 0.01}
        for first, last, seed in runs
        for i in range(first, last + 1, 20)
    ]
    (folder / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_rows_get_the_clock_of_their_event_file(tmp_path):
    events_file(tmp_path, begin_s=1000.0)
    rows_file(tmp_path, (19, 199, 0))
    (run,) = sources.read(tmp_path)
    wall = run.series["wall_s"]
    assert wall.iterations.tolist() == list(range(19, 200, 20))
    np.testing.assert_allclose(np.diff(wall.values), 10.0)
    assert run.series["total_loss"].values[0] == loss_at(19, 0)


def test_each_of_several_runs_gets_its_own_clock(tmp_path):
    events_file(tmp_path, begin_s=1000.0, seed=1, seconds=0.5)
    events_file(tmp_path, begin_s=5000.0, seed=2, seconds=2.0)
    rows_file(tmp_path, (19, 199, 1), (19, 199, 2))
    first, second = sources.read(tmp_path)
    assert np.diff(first.series["wall_s"].values).tolist() == [10.0] * 9
    assert np.diff(second.series["wall_s"].values).tolist() == [40.0] * 9


def test_the_night_between_two_processes_of_one_training_is_no_training_time(tmp_path):
    events_file(tmp_path, begin_s=1000.0, first=19, last=199)
    events_file(tmp_path, begin_s=90_000.0, first=219, last=399)
    rows_file(tmp_path, (19, 399, 0))
    (run,) = sources.read(tmp_path)
    np.testing.assert_allclose(np.diff(run.series["wall_s"].values), 10.0)


def test_a_training_whose_rows_are_gone_is_read_from_its_events(tmp_path):
    events_file(tmp_path, begin_s=1000.0, seed=1)
    events_file(tmp_path, begin_s=5000.0, seed=2)
    rows_file(tmp_path, (19, 199, 2))
    first, second = sources.read(tmp_path)
    np.testing.assert_allclose(first.series["total_loss"].values[0], loss_at(19, 1), rtol=1e-6)
    assert second.series["total_loss"].values[0] == loss_at(19, 2)


def test_a_folder_of_events_alone_is_an_output(tmp_path):
    events_file(tmp_path / "out", begin_s=1000.0)
    assert list(sources.discover([tmp_path])) == [tmp_path / "out"]
    (run,) = sources.read(tmp_path / "out")
    assert run.series["total_loss"].statistic == "median"
    assert "wall_s" in run.series


def test_an_event_file_named_by_itself_is_read(tmp_path):
    events_file(tmp_path, begin_s=1000.0)
    (path,) = tmp_path.iterdir()
    (run,) = sources.read(path.rename(tmp_path / "whatever"))
    assert run.rows == 10


def test_a_broken_event_file_beside_rows_is_told_and_no_obstacle(tmp_path):
    rows_file(tmp_path, (19, 199, 0))
    (tmp_path / "events.out.tfevents.1.host.1.0").write_bytes(b"no records at all" * 9)
    (run,) = sources.read(tmp_path)
    assert run.rows == 10
    assert [one.kind for one in run.events] == ["unreadable"]


def test_large_event_files_that_add_only_a_clock_are_left_unread_aloud(tmp_path):
    rows_file(tmp_path, (19, 199, 0))
    (tmp_path / "log.txt").write_text(
        "".join(
            f"[03/01 09:00:{i:02} d2.utils.events]:  eta: 0:01:00  iter: {19 + 20 * i}  "
            f"total_loss: {loss_at(19 + 20 * i, 0):.4g}  time: 0.5000  lr: 0.01\n"
            for i in range(10)
        )
    )
    events_file(tmp_path, begin_s=1.6e9)
    (run,) = sources.read(tmp_path)
    assert "not-read" not in {event.kind for event in run.events}
    with next(tmp_path.glob("events.*")).open("ab") as stream:
        stream.truncate(5 * 2**20)
    (run,) = sources.read(tmp_path)
    (told,) = [event for event in run.events if event.kind == "not-read"]
    assert "5 MiB" in told.message
