"""A project's train script on a LazyConfig, with a run_step of its own."""

import argparse

import demo_setup  # noqa: F401 - registers the data set
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import SimpleTrainer, default_setup, default_writers, hooks


class OwnSteps(SimpleTrainer):
    """Two batches for one step."""

    def run_step(self):
        self.optimizer.zero_grad()
        for _ in range(2):
            losses = self.model(next(self._data_loader_iter))
            (sum(losses.values()) / 2).backward()
        self._write_metrics(losses, 0.0)
        self.optimizer.step()


def evaluate():
    print("EVALUATED")


parser = argparse.ArgumentParser()
parser.add_argument("--resume", action="store_true")
args = parser.parse_args()
args.config_file = ""
cfg = LazyConfig.load("micro_lazy.py")
default_setup(cfg, args)
model = instantiate(cfg.model)
cfg.optimizer.params.model = model
trainer = OwnSteps(model, instantiate(cfg.dataloader.train), instantiate(cfg.optimizer))
checkpointer = DetectionCheckpointer(model, cfg.train.output_dir, trainer=trainer)
trainer.register_hooks(
    [
        hooks.IterationTimer(),
        hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
        hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer),
        hooks.EvalHook(cfg.train.eval_period, evaluate),
        hooks.PeriodicWriter(default_writers(cfg.train.output_dir, cfg.train.max_iter)),
    ]
)
checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=args.resume)
if args.resume and checkpointer.has_checkpoint():
    raise SystemExit("resumed from what must not be touched")
trainer.train(0, cfg.train.max_iter)
print("EXPORTED")
