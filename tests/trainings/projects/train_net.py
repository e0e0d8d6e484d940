"""A project's train script on DefaultTrainer, with all that must not happen in a short check."""

import argparse
import os

import demo_setup
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.engine import DefaultTrainer, default_setup, hooks
from detectron2.utils.logger import setup_logger


class Trainer(DefaultTrainer):
    def build_hooks(self):
        checkpointer = DetectionCheckpointer(self.model, "precious")
        keep_one = hooks.PeriodicCheckpointer(checkpointer, 1, max_to_keep=1)
        return [*super().build_hooks(), keep_one]

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        print("EVALUATED")
        return {}


parser = argparse.ArgumentParser()
parser.add_argument("--resume", action="store_true")
args = parser.parse_args()
setup_logger("precious/own.log", name="own")
cfg = get_cfg()
cfg.merge_from_file(os.path.join(os.path.dirname(demo_setup.__file__), "config.yaml"))
cfg.MODEL.DEVICE = "cpu"
cfg.OUTPUT_DIR = "precious"
cfg.SOLVER.CHECKPOINT_PERIOD = 1
cfg.TEST.EVAL_PERIOD = 2
default_setup(cfg, args)
trainer = Trainer(cfg)
trainer.resume_or_load(resume=args.resume)
print("START", trainer.start_iter)
trainer.train()
print("EXPORTED")
