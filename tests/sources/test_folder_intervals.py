"""A log's mean since the start, undone: what passed between its rows."""

import numpy as np
import pytest

from d2check import sources

HEAD = "[03/01 09:00:00 d2.engine.train_loop]: Starting training from iteration {}\n"
ROW = (
    "[03/01 09:00:{:02} d2.utils.events]:  eta: 1:00:00  iter: {}  total_loss: {:.4g}  "
    "loss_cls: {:.4g}  time: {:.4f}  data_time: {:.4f}  lr: 0.02  max_mem: 4210M\n"
)


def log_of(seconds, waits, start=0, period=20):
    """A log as CommonMetricPrinter writes it: `time` is a mean since the process's third one."""
    lines = [HEAD.format(start)]
    for at in range(period - 1, len(seconds), period):
        mean = float(np.mean(seconds[2 : at + 1]))
        wait = float(np.mean(waits[at - 19 : at + 1]))
        loss = 2 / (1 + at / 500)
        lines.append(ROW.format(at % 60, start + at, loss, loss / 2, mean, wait))
    return "".join(lines)


def read(tmp_path, text):
    path = tmp_path / "log.txt"
    path.write_text(text)
    (run,) = sources.read(path)
    return run


def test_iterations_that_become_twice_as_slow_are_seen_at_once(tmp_path):
    seconds = np.where(np.arange(4000) < 3000, 0.4, 0.8)
    time = read(tmp_path, log_of(seconds, 0.01 * seconds)).series["time"]
    assert time.values[time.iterations < 3000] == pytest.approx(0.4, rel=0.03)
    assert time.values[time.iterations > 3060] == pytest.approx(0.8, rel=0.03)


def test_rounding_moves_no_interval_by_more_than_its_tolerance(tmp_path):
    seconds = np.full(100_000, 0.12345)
    time = read(tmp_path, log_of(seconds, 0 * seconds)).series["time"]
    assert len(time) > 40
    assert time.values == pytest.approx(0.12345, rel=0.025)


def test_no_time_is_lost_between_intervals(tmp_path):
    rng = np.random.default_rng(5)
    seconds = 0.3 * rng.lognormal(0, 0.3, 6000)
    run = read(tmp_path, log_of(seconds, 0.2 * seconds))
    time, waits = run.series["time"], run.series["data_time"]
    lengths = np.diff(time.iterations, prepend=1)
    last = int(time.iterations[-1])
    assert float(time.values @ lengths) == pytest.approx(seconds[2 : last + 1].sum(), rel=1e-3)
    assert waits.iterations.tolist() == time.iterations.tolist()
    assert float(waits.values @ lengths) == pytest.approx(0.2 * seconds[: last + 1].sum(), rel=0.01)


def test_a_process_that_resumed_counts_from_its_own_start(tmp_path):
    slow, fast = np.full(1000, 0.8), np.full(1000, 0.4)
    text = log_of(slow, 0.01 * slow) + log_of(fast, 0.01 * fast, start=1000)
    time = read(tmp_path, text).series["time"]
    assert time.values[time.iterations < 1000] == pytest.approx(0.8, rel=0.03)
    assert time.values[time.iterations >= 1000] == pytest.approx(0.4, rel=0.03)


def test_lines_from_the_middle_of_a_log_keep_their_mean_since_an_unknown_start(tmp_path):
    lines = log_of(np.full(4000, 0.4), np.full(4000, 0.01)).splitlines(keepends=True)
    time = read(tmp_path, "".join(lines[100:])).series["time"]
    assert len(time) == len(lines) - 100
    assert time.values == pytest.approx(0.4)
