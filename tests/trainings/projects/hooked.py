"""A user's own trainer with D2CheckHook among its hooks. FAULT: raise, in iteration 4."""

import os
import sys

import demo_setup
import torch
from detectron2.config import get_cfg
from detectron2.data import build_detection_train_loader
from detectron2.engine import DefaultTrainer, HookBase, SimpleTrainer
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer

import d2check

torch.set_num_threads(1)


class Fault(HookBase):
    def before_step(self):
        if os.environ.get("FAULT") == "raise" and self.trainer.iter == 4:
            raise ValueError("boxes are upside down")


cfg = get_cfg()
cfg.merge_from_file(os.path.join(os.path.dirname(demo_setup.__file__), "config.yaml"))
cfg.MODEL.DEVICE = "cpu"
cfg.SOLVER.MAX_ITER = 6
cfg.SOLVER.STEPS = []
cfg.TEST.EVAL_PERIOD = 0
cfg.DATASETS.TEST = []
cfg.OUTPUT_DIR = "own-output"
os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
most = int(os.environ["MOST"]) if "MOST" in os.environ else None
hooks = [d2check.D2CheckHook("health", iterations=most), Fault()]
if sys.argv[1] == "default":
    trainer = DefaultTrainer(cfg)
    trainer.register_hooks(hooks)
    trainer.train()
else:
    model = build_model(cfg)
    trainer = SimpleTrainer(model, build_detection_train_loader(cfg), build_optimizer(cfg, model))
    trainer.register_hooks(hooks)
    trainer.train(0, 6)
print("WENT ON", trainer.iter)
