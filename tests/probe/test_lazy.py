"""LazyConfigs written down as plain data."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest

from d2check.config.load import load_config
from d2check.config.schedule import planned_lr
from d2check.probe import lazy
from d2check.probe.plan import Plan
from d2check.probe.recorder import Recorder
from d2check.probe.session import Session

omegaconf = pytest.importorskip("omegaconf")
pytest.importorskip("detectron2")


@pytest.fixture
def session(tmp_path):
    return Session(Plan({"folder": str(tmp_path)}), Recorder(str(tmp_path)))


def config(**train):
    from detectron2.config import LazyCall
    from detectron2.layers import ShapeSpec
    from detectron2.solver import WarmupParamScheduler
    from fvcore.common.param_scheduler import MultiStepParamScheduler

    return omegaconf.OmegaConf.create(
        {
            "optimizer": {"lr": 0.02, "twice": "${.lr}"},
            "lr_multiplier": LazyCall(WarmupParamScheduler)(
                scheduler=LazyCall(MultiStepParamScheduler)(
                    values=[1.0, 0.1], milestones=[60, 100]
                ),
                warmup_length=0.1,
                warmup_factor=0.001,
            ),
            "model": {"shape": ShapeSpec(channels=3), "lambda": lambda x: x, "size": (1, 2)},
            "dataloader": {"train": {"total_batch_size": 16}},
            "train": {"max_iter": 100, "output_dir": "out", "eval_period": 5, **train},
        },
        flags={"allow_objects": True},
    )


def test_what_is_written_is_read_by_the_checker_with_its_schedule(session, tmp_path):
    lazy.write(config(), session)
    read = load_config(tmp_path / "config.yaml")
    assert read.kind == "lazy"
    assert read.get("optimizer.twice") == 0.02
    assert list(planned_lr(read, [5, 10, 59, 60, 99])) == pytest.approx(
        [0.02 * (0.001 + 0.5 * 0.999), 0.02, 0.02, 0.002, 0.002]
    )


def test_functions_classes_and_objects_become_plain_data():
    tree = lazy.plain(omegaconf.OmegaConf.to_container(config(), resolve=False))
    assert json.loads(json.dumps(tree)) == tree
    assert tree["model"]["shape"]["channels"] == 3
    assert tree["model"]["lambda"].endswith("<lambda>")
    assert tree["lr_multiplier"]["_target_"].endswith("WarmupParamScheduler")


def test_secrets_are_not_written(session, tmp_path):
    lazy.write(config(wandb={"api_key": "0123456789abcdef"}), session)
    text = (tmp_path / "config.yaml").read_text()
    assert "0123456789abcdef" not in text
    assert "***" in text


def test_output_goes_into_the_run_folder_and_nothing_is_evaluated(session, tmp_path):
    cfg = config()
    omegaconf.OmegaConf.set_readonly(cfg, True)
    lazy.neutralise(cfg, session)
    assert cfg.train.output_dir == str(tmp_path / "child-output")
    assert cfg.train.eval_period == 0
    assert lazy.is_neutral(cfg, session)


def test_what_hydra_wrote_before_the_script_began_is_told(session, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(session, "neutralised", told.append)
    job = SimpleNamespace(runtime=SimpleNamespace(output_dir="outputs/today"))
    hydra = SimpleNamespace(HydraConfig=SimpleNamespace(get=lambda: job))
    monkeypatch.setitem(sys.modules, "hydra.core.hydra_config", hydra)
    lazy.tell_hydra(session)
    assert "stand in outputs/today" in told[0]


def test_hydra_that_is_imported_and_runs_nothing_is_not_told(session, monkeypatch):
    told = []
    monkeypatch.setattr(session, "neutralised", told.append)
    pytest.importorskip("hydra.core.hydra_config")
    lazy.tell_hydra(session)
    assert told == []


def test_the_batch_and_a_fixed_seed_are_facts():
    assert lazy.facts(config()) == {"images_per_batch": 16}
    assert lazy.facts(config(seed=3)) == {"images_per_batch": 16, "seed": 3}
