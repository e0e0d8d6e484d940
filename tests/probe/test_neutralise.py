"""Trackers, checkpoints, evaluation and output files that a check must not leave behind."""

from __future__ import annotations

import importlib.machinery
import os
import types

import pytest

from d2check.probe import neutralise
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


class Checkpointer:
    saved = 0

    def save(self, name, **kwargs):
        self.saved += 1


def test_no_checkpoint_is_saved_and_that_is_told_once(session):
    module = types.SimpleNamespace(Checkpointer=Checkpointer)
    neutralise._checkpointer(module, session)
    checkpointer = Checkpointer()
    for _ in range(3):
        checkpointer.save("model_0000001", iteration=1)
    assert checkpointer.saved == 0
    assert told(session).count("checkpoints") == 1


def test_writers_are_led_into_the_run_folder(session, tmp_path):
    class Writer:
        def __init__(self, path, window_size=20):
            self.path, self.window_size = path, window_size

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
