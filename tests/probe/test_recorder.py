"""records.jsonl: whole lines at once, one writer, silence after a failed write."""

from __future__ import annotations

import json
import math
import os

import pytest

from d2check.probe import wire
from d2check.probe.recorder import RECORDING_FAILED, Recorder


def lines(folder, rank=0):
    return (folder / wire.records_name(rank)).read_text().splitlines()


def test_a_record_is_in_the_file_when_write_returns(tmp_path):
    recorder = Recorder(str(tmp_path))
    recorder.open(0)
    recorder.write({"t": "iter", "i": 3, "scalars": {"total_loss": math.nan}})
    assert json.loads(lines(tmp_path)[0])["scalars"] == {"total_loss": "NaN"}


def test_records_wait_until_the_rank_is_known(tmp_path):
    recorder = Recorder(str(tmp_path))
    recorder.note("dataset", "50 images")
    assert list(tmp_path.iterdir()) == []
    recorder.open(1)
    assert wire.decode(lines(tmp_path, rank=1)[0])["message"] == "50 images"


def test_there_is_one_end(tmp_path):
    recorder = Recorder(str(tmp_path))
    recorder.open(0)
    recorder.end("stopped", i=4)
    recorder.end("crashed")
    assert [json.loads(line)["kind"] for line in lines(tmp_path)] == ["stopped"]


def test_a_forked_process_writes_nothing(tmp_path):
    recorder = Recorder(str(tmp_path))
    recorder.open(0)
    pid = os.fork()
    if pid == 0:
        recorder.note("warning", "from a loader worker")
        recorder.end("crashed")
        os._exit(0)
    os.waitpid(pid, 0)
    recorder.note("warning", "from the training")
    assert len(lines(tmp_path)) == 1


def test_a_full_disk_is_told_once_and_marked(tmp_path, capfd):
    (tmp_path / wire.RECORDS).symlink_to("/dev/full")
    recorder = Recorder(str(tmp_path))
    recorder.open(0)
    for _ in range(3):
        recorder.note("warning", "lost")
    recorder.end("stopped")
    assert capfd.readouterr().err.count("d2check: recording stopped: ") == 1
    assert recorder.failed is not None
    assert (tmp_path / RECORDING_FAILED).exists()


def test_a_folder_that_is_gone_stops_the_recording_only(tmp_path, capfd):
    recorder = Recorder(str(tmp_path / "gone"))
    recorder.note("warning", "early")
    recorder.open(0)
    recorder.end("stopped")
    assert "recording stopped" in capfd.readouterr().err


def test_after_a_cut_line_the_end_begins_a_new_one(tmp_path):
    recorder = Recorder(str(tmp_path))
    recorder.open(0)
    os.write(recorder._file, b'{"t":"iter","i":7,"sca')  # what a disk that fills leaves
    recorder._fail(OSError(28, "No space left on device"))
    recorder.end("stopped", i=9)
    last = json.loads(lines(tmp_path)[-1])
    assert (last["kind"], last["i"]) == ("stopped", 9)
    assert "No space left" in last["recording_failed"]


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 1.5])
def test_numbers_come_back_as_they_were(value):
    again = wire.decode(wire.encode({"t": "iter", "x": [{"y": value}]}))
    assert str(wire.number(again["x"][0]["y"])) == str(value)
