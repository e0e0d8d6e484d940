"""What a process of the training tells at its end of what it knows."""

from __future__ import annotations

import pytest

from d2check.probe import wire
from d2check.probe.plan import Plan
from d2check.probe.recorder import Recorder
from d2check.probe.session import Session


@pytest.mark.parametrize(("rank", "told"), [(0, ["files-touched"]), (1, [])])
def test_a_changed_output_folder_is_told_before_the_end_and_by_one_rank(tmp_path, rank, told):
    out, run = tmp_path / "out", tmp_path / "run"
    for folder in (out, run):
        folder.mkdir()
    recorder = Recorder(str(run))
    session = Session(Plan({"folder": str(run)}), recorder, rank)
    session.touched.watch(out)
    (out / "new.h5").write_text("")
    recorder.open(rank)
    recorder.end("finished", i=4)
    lines = (run / wire.records_name(rank)).read_text().splitlines()
    *notes, last = [wire.decode(line) for line in lines]
    assert [note["kind"] for note in notes] == told
    assert all(str(out / "new.h5") + " is new" in note["message"] for note in notes)
    assert last["t"] == "end"


def test_what_is_switched_off_is_told_once(tmp_path):
    recorder = Recorder(str(tmp_path))
    session = Session(Plan({"folder": str(tmp_path)}), recorder)
    recorder.open(0)
    session.neutralised("checkpoints")
    session.neutralised("checkpoints")
    (line,) = (tmp_path / wire.records_name(0)).read_text().splitlines()
    assert wire.decode(line)["message"] == "checkpoints"
