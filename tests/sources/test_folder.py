"""An output folder: its metrics, and its config where it belongs to them."""

import gzip
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from d2check import sources
from d2check.config.load import load_config
from d2check.config.schedule import planned_lr
from d2check.errors import InputError
from d2check.model import EndingKind

CONFIG = """
VERSION: 2
SOLVER:
  {{BASE_LR: {lr}, MAX_ITER: {length}, WARMUP_ITERS: 100, STEPS: [], IMS_PER_BATCH: 4}}
"""


def output(
    folder: Path, *, lr: float = 0.01, planned: int = 1000, last: int = 399, runs: int = 1
) -> Path:
    """An OUTPUT_DIR whose rows were trained at `lr` for `planned` iterations."""
    folder.mkdir(parents=True, exist_ok=True)
    config(folder, lr=lr, length=planned)
    at = np.arange(19, last + 1, 20)
    rates = planned_lr(load_config(folder / "config.yaml"), at)
    rows = [
        {"iteration": int(i), "total_loss": 2 - i / 1000, "lr": float(rate), "time": 0.5,
         "eta_seconds": 0.5 * (planned - int(i) - 1)}
        for i, rate in zip(at, rates, strict=True)
    ]  # fmt: skip
    lines = [json.dumps(row) + "\n" for _ in range(runs) for row in rows]
    (folder / "metrics.json").write_text("".join(lines))
    return folder


def config(folder: Path, *, lr: float = 0.01, length: int = 1000) -> None:
    (folder / "config.yaml").write_text(CONFIG.format(lr=lr, length=length))


def test_a_config_that_fits_gives_length_facts_and_planned_rate(tmp_path):
    (run,) = sources.read(output(tmp_path))
    assert run.config is not None
    assert run.config.matches_run is True
    assert run.planned_iterations == 1000
    assert run.facts["images_per_batch"] == 4
    np.testing.assert_allclose(run.series["planned_lr"].values, run.series["lr"].values)
    assert run.source == str(tmp_path / "metrics.json")


def test_a_config_of_another_length_is_left_out_with_the_reason(tmp_path):
    output(tmp_path)
    config(tmp_path, length=90_000)
    (run,) = sources.read(tmp_path)
    assert run.config is not None
    assert run.config.matches_run is False
    assert "90,000" in (run.config.mismatch or "")
    assert "planned_lr" not in run.series
    assert "90,000" in run.absent["planned_lr"]
    assert run.planned_iterations == 1000
    assert "images_per_batch" not in run.facts


def test_another_rate_in_the_only_training_stays_comparable(tmp_path):
    """Else a rate that is not as configured could never be found."""
    output(tmp_path)
    config(tmp_path, lr=0.05)
    (run,) = sources.read(tmp_path)
    assert run.config is not None
    assert run.config.matches_run is not False
    assert "planned_lr" in run.series


def test_another_rate_among_several_trainings_is_that_of_another_start(tmp_path):
    output(tmp_path, runs=2)
    (tmp_path / "config.yaml").write_text(
        (tmp_path / "config.yaml").read_text().replace("WARMUP_ITERS: 100", "WARMUP_ITERS: 7")
    )
    first, _ = sources.read(tmp_path)
    assert first.config is not None
    assert first.config.matches_run is False


def test_a_folder_without_a_config_says_so(tmp_path):
    (output(tmp_path) / "config.yaml").unlink()
    (run,) = sources.read(tmp_path)
    assert run.config is None
    assert run.absent["config"] == "the folder holds no config.yaml"


def test_a_config_that_cannot_be_read_is_no_obstacle(tmp_path):
    (output(tmp_path) / "config.yaml").write_text("SOLVER: [unclosed\n")
    (run,) = sources.read(tmp_path)
    assert run.rows == 20
    assert "cannot be read" in run.absent["config"]


def test_a_finished_training_is_told_by_the_config_alone(tmp_path):
    output(tmp_path, planned=400)
    rows = (tmp_path / "metrics.json").read_text().replace("eta_seconds", "left")
    (tmp_path / "metrics.json").write_text(rows)
    (run,) = sources.read(tmp_path)
    assert run.ending.kind is EndingKind.FINISHED


def test_packed_metrics_are_read(tmp_path):
    path = output(tmp_path) / "metrics.json"
    (tmp_path / "metrics.json.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    (run,) = sources.read(tmp_path)
    assert run.rows == 20


def test_a_file_of_rows_is_read_whatever_its_name(tmp_path):
    path = output(tmp_path) / "metrics.json"
    other = path.rename(tmp_path / "my run.txt")
    (run,) = sources.read(other)
    assert (run.rows, run.config) == (20, None)


def test_a_growing_file_reads_at_any_moment(tmp_path):
    path = output(tmp_path) / "metrics.json"
    data = path.read_bytes()
    for size in range(200, len(data), 97):
        path.write_bytes(data[:size])
        (run,) = sources.read(tmp_path)
        whole = data[:size].count(b"\n")
        assert run.rows in (whole, whole + 1)
        assert run.rows + run.malformed_lines in (whole, whole + 1)


def test_rows_from_a_pipe_are_read(tmp_path):
    """`d2check audit <(ssh host cat metrics.json)`"""
    data = (output(tmp_path) / "metrics.json").read_bytes()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(data,))
    writer.start()
    (run,) = sources.read(pipe)
    writer.join()
    assert run.rows == 20


def test_a_config_that_is_a_link_out_of_the_folder_is_not_read(tmp_path):
    folder = output(tmp_path / "out")
    (folder / "config.yaml").rename(tmp_path / "config.yaml")
    (folder / "config.yaml").symlink_to(tmp_path / "config.yaml")
    (run,) = sources.read(folder)
    assert run.config is None
    assert "link" in run.absent["config"]


@pytest.mark.parametrize("name", ["metrics.json", "config.yaml"])
def test_reading_changes_nothing(tmp_path, name):
    folder = output(tmp_path / "out")
    os.utime(folder / name, (1, 1))
    before = sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir())
    sources.read(folder)
    assert sorted((p.name, p.stat().st_mtime_ns) for p in folder.iterdir()) == before


def test_a_folder_without_metrics_is_a_clear_error(tmp_path):
    with pytest.raises(InputError) as error:
        sources.read(tmp_path)
    assert error.value.where == str(tmp_path)
    assert "OUTPUT_DIR" in error.value.todo


def test_a_missing_path_is_a_clear_error(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        sources.read(tmp_path / "nowhere")
