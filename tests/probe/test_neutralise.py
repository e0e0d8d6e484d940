"""Trackers, checkpoints, evaluation and output files that a check must not leave behind."""

from __future__ import annotations

import errno
import importlib
import importlib.machinery
import os
import sys
import types

import pytest

from d2check.probe import neutralise
from d2check.probe.imports import AfterImport
from d2check.probe.plan import Plan
from d2check.probe.recorder import Recorder
from d2check.probe.session import Session


@pytest.fixture
def session(tmp_path):
    return Session(Plan({"folder": str(tmp_path)}), Recorder(str(tmp_path)))


def told(session):
    session.recorder.open(0)
    path = os.path.join(session.plan.folder, "records.jsonl")
    with open(path) as file:
        return file.read()


@pytest.fixture
def environment(monkeypatch):
    """The trackers' variables, all unset, and restored afterwards."""
    for variables in neutralise.TRACKERS.values():
        for name in variables:
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)


def test_trackers_are_set_off_and_only_installed_ones_are_told(session, environment, monkeypatch):
    spec = importlib.machinery.ModuleSpec("wandb", None)
    monkeypatch.setattr(
        neutralise.importlib.util, "find_spec", lambda name: spec if name == "wandb" else None
    )
    neutralise.trackers(session)
    assert os.environ["WANDB_MODE"] == "disabled"
    assert os.environ["MLFLOW_TRACKING_URI"].startswith("file://" + session.plan.folder)
    assert "wandb" in told(session)
    assert "mlflow" not in told(session)


def test_what_the_checker_has_set_stays(session, environment, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    neutralise.trackers(session)
    assert os.environ["WANDB_MODE"] == "offline"


@pytest.fixture
def checkpoints(session):
    """Stand-ins for fvcore's classes, neutralised."""

    class Checkpointer:
        def __init__(self, model, save_dir="", *, save_to_disk=True, **checkpointables):
            self.save_dir, self.saved, self.resumed = save_dir, 0, None

        def save(self, name, **kwargs):
            self.saved += 1

        def has_checkpoint(self):
            return True

        def load(self, path):
            raise OSError("no such host")

        def resume_or_load(self, path, *, resume=True):
            self.resumed = resume
            return {"path": path}

    class PeriodicCheckpointer:
        def __init__(self, checkpointer):
            self.checkpointer, self.removed = checkpointer, 0

        def step(self, iteration, **kwargs):
            self.removed += 1

        def save(self, name, **kwargs):
            self.checkpointer.saved += 1

    module = types.SimpleNamespace(
        Checkpointer=Checkpointer, PeriodicCheckpointer=PeriodicCheckpointer
    )
    neutralise._checkpointer(module, session)
    return module


def test_no_checkpoint_is_saved_and_that_is_told_once(session, checkpoints):
    checkpointer = checkpoints.Checkpointer(None, "/data/precious")
    for _ in range(3):
        checkpointer.save("model_0000001", iteration=1)
    assert checkpointer.saved == 0
    assert told(session).count("checkpoints") == 1


def test_no_older_checkpoint_is_removed_to_make_room(checkpoints):
    checkpointer = checkpoints.Checkpointer(None, "/data/precious")
    periodic = checkpoints.PeriodicCheckpointer(checkpointer)
    periodic.step(0)
    periodic.save("model_final")
    assert (periodic.removed, checkpointer.saved) == (0, 0)


def test_nothing_is_resumed_from(session, checkpoints):
    checkpointer = checkpoints.Checkpointer(None, save_dir="/data/precious")
    assert checkpointer.save_dir == session.plan.child_output
    assert checkpointer.resume_or_load("weights.pkl", resume=True) == {"path": "weights.pkl"}
    assert checkpointer.resumed is False
    assert not checkpointer.has_checkpoint()
    assert "resuming" in told(session)


def test_weights_that_cannot_be_loaded_are_told_with_the_error_that_they_gave(session, checkpoints):
    with pytest.raises(OSError, match="no such host") as raised:
        checkpoints.Checkpointer(None).load("https://me:s3cret@host/w.pkl")
    session.recorder.open(0)
    session.crashed(raised.value)
    assert told(session).count('"weights":"https://***@host/w.pkl"') == 1
    assert "s3cret" not in told(session)


def test_a_checkpointer_without_a_folder_keeps_none(checkpoints):
    assert checkpoints.Checkpointer(None).save_dir == ""


def test_a_logger_of_the_scripts_own_writes_into_the_run_folder(session):
    module = types.SimpleNamespace(setup_logger=lambda output=None, rank=0: (output, rank))
    neutralise._logger(module, session)
    inside = session.plan.child_output
    assert module.setup_logger("/data/precious", rank=2) == (inside, 2)
    assert module.setup_logger("/data/own.log") == (os.path.join(inside, "own.log"), 0)
    assert module.setup_logger() == (None, 0)
    assert told(session).count("/data/own.log is not written") == 1
    assert inside + " is not written" not in told(session)


def test_writers_are_led_into_the_run_folder(session, tmp_path):
    class Writer:
        def __init__(self, path, window_size=20):
            self.path, self.window_size = path, window_size

        def write(self):
            pass

        close = write

    class Board(Writer):
        pass

    module = types.SimpleNamespace(JSONWriter=Writer, TensorboardXWriter=Board)
    json_init = module.JSONWriter.__init__
    neutralise._writers(module, session)
    assert module.JSONWriter.__init__ is not json_init
    writer = module.JSONWriter("/data/precious/metrics.json", window_size=5)
    assert writer.path == os.path.join(session.plan.child_output, "metrics.json")
    assert writer.window_size == 5
    assert module.TensorboardXWriter("/data/precious").path == session.plan.child_output
    module.TensorboardXWriter(session.plan.child_output)
    assert told(session).count("is not written") == 2


def test_writers_on_a_full_disk_end_no_training(session):
    class Writer:
        def __init__(self, path):
            self.problem, self.tried = errno.ENOSPC, 0

        def write(self):
            self.tried += 1
            raise OSError(self.problem, os.strerror(self.problem))

        def close(self):
            self.tried += 1

    class Board(Writer):
        pass

    module = types.SimpleNamespace(JSONWriter=Writer, TensorboardXWriter=Board)
    neutralise._writers(module, session)
    writer = module.JSONWriter("metrics.json")
    for _ in range(2):
        writer.write()
    writer.close()
    assert writer.tried == 1
    assert told(session).count("Writer writes nothing more: [Errno 28]") == 1
    other = module.JSONWriter("metrics.json")
    other.problem = errno.EIO
    with pytest.raises(OSError, match="Input/output"):
        other.write()


@pytest.mark.parametrize("given", [("/data/precious",), (), {"log_dir": "x"}, {"logdir": "x"}])
def test_summaries_of_the_scripts_own_go_into_the_run_folder(session, given):
    """torch's SummaryWriter calls its folder log_dir, tensorboardX's logdir."""

    class SummaryWriter:
        def __init__(self, folder=None, comment="", **kwargs):
            self.folder, self.comment, self.more = folder, comment, kwargs

    module = types.SimpleNamespace(SummaryWriter=SummaryWriter)
    neutralise._summaries(module, session)
    named = given if isinstance(given, dict) else {}
    writer = module.SummaryWriter(*(() if named else given), comment="a", **named)
    assert (writer.folder, writer.comment) == (session.plan.child_output, "a")
    assert writer.more == {}
    folder = (*given, "runs")[0] if isinstance(given, tuple) else "x"
    assert folder + " is not written" in told(session)


class LeavesWhatIsImported(AfterImport):
    """Detectron2 may be there already, and is for the tests that follow."""

    def add(self, module, action):
        if module not in sys.modules:
            super().add(module, action)


def test_a_tracker_from_a_folder_that_the_script_adds_is_told_too(session, environment, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "comet_ml.py").write_text("")
    neutralise.trackers(session)
    assert "comet_ml" not in told(session)
    after_import = LeavesWhatIsImported()
    neutralise.watch(after_import, session)
    after_import.install()
    sys.path.insert(0, str(tmp_path / "site"))
    try:
        importlib.import_module("comet_ml")
    finally:
        sys.path.remove(str(tmp_path / "site"))
        sys.meta_path.remove(after_import)
        del sys.modules["comet_ml"]
    assert "comet_ml: kept off the network (COMET_START_ONLINE=0" in told(session)
