"""A toy model trained by Detectron2's own trainer, hooks and writers, in a second."""

from pathlib import Path

import torch
from detectron2.engine import HookBase, SimpleTrainer, hooks
from detectron2.utils.events import CommonMetricPrinter, JSONWriter


class Toy(torch.nn.Module):
    """Two losses that follow a given rule of the iteration."""

    def __init__(self, breaks_at: int | None = None, how: str = "nan") -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.breaks_at, self.how, self.calls, self.first = breaks_at, how, 0, 0

    def forward(self, _batch: object) -> dict[str, object]:
        at = self.first + self.calls
        self.calls += 1
        value = 1.0 + 0.3 * ((at * 7919) % 101) / 101
        if at == self.breaks_at:
            if self.how == "ctrl-c":
                raise KeyboardInterrupt
            if self.how == "error":
                raise RuntimeError("CUDA out of memory")
            value = float("nan")
        return {"loss_a": self.weight.sum() * value, "loss_b": self.weight.sum() * 0.5}


class ValidationHook(HookBase):
    def __init__(self, period: int) -> None:
        self.period = period

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % self.period == 0:
            self.trainer.storage.put_scalar("bbox/AP", 12.5, smoothing_hint=False)


def train(
    folder: Path,
    length: int,
    *,
    start: int = 0,
    planned: int | None = None,
    model: Toy | None = None,
    validate_every: int = 30,
    period: int = 20,
) -> None:
    """Train `start` to `length` of a schedule of `planned`, as DefaultTrainer hooks it up."""
    model = model or Toy()
    model.first = start
    optimizer = torch.optim.SGD(model.parameters(), 1e-6)
    trainer = SimpleTrainer(model, iter(lambda: [0], None), optimizer)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: (i + 1) / 1000)
    writers = [CommonMetricPrinter(planned or length), JSONWriter(str(folder / "metrics.json"))]
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(optimizer, scheduler),
            ValidationHook(validate_every),
            hooks.PeriodicWriter(writers, period=period),
        ]
    )
    trainer.train(start, length)
