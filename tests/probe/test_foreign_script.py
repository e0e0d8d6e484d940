"""The probe in training scripts that know nothing of it."""

from __future__ import annotations

import pytest
import yaml

from d2check.probe import wire

pytestmark = pytest.mark.training

PREPARE = """
import sys
config, setup, output = sys.argv[1:]
sys.path.insert(0, setup)
import demo_setup
from detectron2.config import get_cfg
cfg = get_cfg()
cfg.merge_from_file(config)
cfg.MODEL.DEVICE = "cpu"
cfg.OUTPUT_DIR = output

"""

DEFAULT = (
    PREPARE
    + """
import argparse
from detectron2.engine import DefaultTrainer, default_setup
cfg.freeze()
default_setup(cfg, argparse.Namespace(config_file="", eval_only=False))
trainer = DefaultTrainer(cfg)
trainer.resume_or_load(resume=True)
trainer.train()
print("EXPORTED")
"""
)

SIMPLE = (
    PREPARE
    + """
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import build_detection_train_loader
from detectron2.engine import SimpleTrainer
from detectron2.engine.hooks import PeriodicCheckpointer
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
model = build_model(cfg)
trainer = SimpleTrainer(model, build_detection_train_loader(cfg), build_optimizer(cfg, model))
trainer.register_hooks([PeriodicCheckpointer(DetectionCheckpointer(model, output), 1)])
trainer.train(0, 300)
print("EXPORTED")
"""
)


@pytest.mark.parametrize("source", [DEFAULT, SIMPLE], ids=["DefaultTrainer", "SimpleTrainer"])
def test_a_script_is_recorded_and_ended_and_leaves_nothing_behind(train, source):
    output = train.cwd / "precious"
    site = train.cwd / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("print('THE USERS SITECUSTOMIZE')\n")
    arguments = [str(train.demo / "config.yaml"), str(train.demo), str(output)]
    ran = train.script(source, *arguments, site=site, iterations=3)
    assert ran.status == 0, ran.stderr
    assert ran.end["kind"] == "stopped"
    assert [record["i"] for record in ran.of("iter")] == [0, 1, 2]
    assert ran.facts["images"] == 50
    assert "Traceback" not in ran.stderr
    assert "THE USERS SITECUSTOMIZE" in ran.stdout
    assert "EXPORTED" not in ran.stdout
    assert not output.exists()


@pytest.mark.parametrize("frozen", [True, False])
def test_a_script_for_a_gpu_trains_on_the_cpu_where_there_is_none(train, frozen):
    source = DEFAULT.replace('cfg.MODEL.DEVICE = "cpu"', 'cfg.MODEL.DEVICE = "cuda:0"')
    if not frozen:
        source = source.replace("cfg.freeze()\n", "")
    arguments = [str(train.demo / "config.yaml"), str(train.demo), "out"]
    # As on a machine without a GPU, whatever this one has.
    ran = train.script(
        "import os; os.environ['CUDA_VISIBLE_DEVICES'] = ''\n" + source, *arguments, iterations=2
    )
    assert ran.status == 0, ran.stderr
    assert ran.facts["device"] == "cpu"
    told = [note["message"] for note in ran.of("note") if note["kind"] == "neutralised"]
    assert "MODEL.DEVICE: cpu, for torch finds no CUDA device here (cuda:0)" in told


def test_the_config_of_a_script_is_kept_as_the_user_wrote_it(train):
    output = train.cwd / "precious"
    arguments = [str(train.demo / "config.yaml"), str(train.demo), str(output)]
    ran = train.script(DEFAULT, *arguments, iterations=1)
    config = yaml.safe_load((ran.folder / wire.CONFIG).read_text())
    assert config["OUTPUT_DIR"] == str(output)
    assert config["TEST"]["EVAL_PERIOD"] == 100


def test_a_script_that_breaks_before_its_loop_is_recorded(train):
    ran = train.script("import detectron2\n\nimport my_missing_module\n")
    assert ran.status == 1
    assert ran.end["error"] == "ModuleNotFoundError"
    assert ran.end["traceback"][-1][1:] == [3, "<module>", "import my_missing_module"]


def test_a_helper_process_of_the_script_writes_no_records(train):
    ran = train.script("import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'pass'])\n")
    assert ran.status == 0
    assert ran.records == ()


OWN_FILES = (
    PREPARE
    + """
import os, shutil
import torch
from detectron2.data import build_detection_train_loader
from detectron2.engine import HookBase, SimpleTrainer
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
own = os.path.join(output, "..", "own")
shutil.rmtree(own)
os.makedirs(own, exist_ok=True)
with open(os.path.join(own, "config.yaml"), "w") as file:
    file.write(cfg.dump())

class Keep(HookBase):
    def after_step(self):
        for name in ("best.pth", "iteration_%d.pt" % self.trainer.iter):
            torch.save(self.trainer.model.state_dict(), os.path.join(own, name))
            assert os.path.getsize(os.path.join(own, name)) > 100_000
        with open(os.path.join(own, "log.csv"), "a") as file:
            print(self.trainer.iter, file=file)
        os.remove(os.path.join(own, "best_old.pth"))
        torch.load(os.path.join(own, "best.pth"))

model = build_model(cfg)
trainer = SimpleTrainer(model, build_detection_train_loader(cfg), build_optimizer(cfg, model))
trainer.register_hooks([Keep()])
trainer.train(0, 300)
"""
)


def test_files_that_a_script_writes_by_itself_do_not_touch_an_earlier_training(train):
    own = train.cwd / "own"
    own.mkdir()
    for name in ("best.pth", "best_old.pth", "config.yaml", "log.csv"):
        (own / name).write_text("weeks of work\n")
    arguments = [str(train.demo / "config.yaml"), str(train.demo), str(train.cwd / "unused")]
    ran = train.script(OWN_FILES, *arguments, iterations=2)
    assert ran.end["kind"] == "stopped", ran.stderr
    assert {path.name: path.read_text() for path in own.iterdir()} == dict.fromkeys(
        ("best.pth", "best_old.pth", "config.yaml", "log.csv"), "weeks of work\n"
    )
    apart = ran.folder / "child-output" / "kept-apart"
    assert {path.name for path in apart.iterdir()} == {
        "best.pth", "iteration_0.pt", "iteration_1.pt", "config.yaml", "log.csv",
    }  # fmt: skip
    assert (apart / "log.csv").read_text() == "weeks of work\n0\n1\n"
    told = [note["message"] for note in ran.of("note") if note["kind"] == "neutralised"]
    for name in ("best.pth is not overwritten", "best_old.pth is not removed", "own is not rem"):
        assert any(name in message for message in told), told


SWALLOWS = (
    PREPARE
    + """
from detectron2.engine import DefaultTrainer
for fold in range(2):
    try:
        DefaultTrainer(cfg).train()
    except BaseException as error:
        print("FOLD", fold, type(error).__name__, flush=True)
"""
)


def test_a_script_that_catches_everything_trains_nothing_more(train):
    arguments = [str(train.demo / "config.yaml"), str(train.demo), str(train.cwd / "unused")]
    ran = train.script(SWALLOWS, *arguments, iterations=2)
    assert "FOLD 0 LeaveScript" in ran.stdout
    assert "FOLD 1 LeaveScript" in ran.stdout
    assert len(ran.of("iter")) == 2
    assert not any(path.name.startswith("model_") for path in train.cwd.rglob("*.pth"))
