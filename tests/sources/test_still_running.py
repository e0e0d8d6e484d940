"""A training whose files are still being written is running, not truncated."""

import json
import os
import subprocess
import sys

import pytest

from d2check import sources
from d2check.model import EndingKind
from d2check.sources import _writers

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fdinfo"), reason="needs /proc")

ROWS = [
    {"iteration": 20 * k + 19, "total_loss": 2.0 - 0.01 * k, "lr": 0.01, "time": 0.2}
    | {"data_time": 0.01, "eta_seconds": 0.2 * (3000 - 20 * k - 20)}
    for k in range(30)
]


@pytest.fixture
def output(tmp_path):
    (tmp_path / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


@pytest.fixture(autouse=True)
def fresh_look():
    _writers._written.cache_clear()
    yield
    _writers._written.cache_clear()


def holding(path, mode):
    """A process that has opened `path` and waits."""
    code = f"f = open({str(path)!r}, {mode!r}); print('open', flush=True); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "open\n"
    return child


def ending_of(path):
    return sources.read(path)[-1].ending.kind


def test_rows_that_nobody_writes_any_more_are_truncated(output):
    assert ending_of(output) is EndingKind.TRUNCATED


@pytest.mark.parametrize(
    ("mode", "kind"), [("a", EndingKind.RUNNING), ("r", EndingKind.TRUNCATED)], ids=["a", "r"]
)
def test_a_writer_keeps_a_training_alive_and_a_reader_does_not(output, mode, kind):
    with holding(output / "metrics.json", mode) as child:
        found = (ending_of(output), ending_of(output / "metrics.json"))
        child.communicate("\n")
    assert found == (kind, kind)
