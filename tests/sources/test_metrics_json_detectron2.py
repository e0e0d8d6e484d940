"""What Detectron2's own trainer and writer leave behind reads as what really happened."""

from pathlib import Path

import numpy as np
import pytest

from d2check.model import EndingKind
from d2check.sources.metrics_json import MetricsFile, read_metrics_json

torch = pytest.importorskip("torch")
pytest.importorskip("detectron2")

from detectron2.engine import HookBase, SimpleTrainer, hooks  # noqa: E402
from detectron2.utils.events import CommonMetricPrinter, JSONWriter  # noqa: E402

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore")]


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


def read(folder: Path) -> MetricsFile:
    return read_metrics_json(folder / "metrics.json")


def test_a_training_that_ran_through_is_finished_and_its_length_known(tmp_path):
    train(tmp_path, 200)
    (segment,) = read(tmp_path).segments
    assert segment.planned_iterations == 200
    assert segment.ending(200).kind is EndingKind.FINISHED
    assert segment.series["bbox/AP"].iterations.tolist() == [29, 59, 89, 119, 149, 179]
    assert segment.events == ()


def test_the_length_is_known_from_the_first_row_of_an_unfinished_training(tmp_path):
    train(tmp_path, 45, planned=123_457)
    (segment,) = read(tmp_path).segments
    assert segment.planned_iterations == 123_457
    assert segment.ending(123_457).kind is EndingKind.TRUNCATED


@pytest.mark.parametrize("at", [47, 60, 99, 100])
def test_a_nan_is_a_crash_at_its_iteration(tmp_path, at):
    with pytest.raises(FloatingPointError):
        train(tmp_path, 200, model=Toy(at))
    (segment,) = read(tmp_path).segments
    ending = segment.ending(segment.planned_iterations)
    assert (ending.kind, ending.iteration) == (EndingKind.CRASHED, at)
    assert segment.series["total_loss"].iterations.tolist()[-1] == at - 1
    assert np.isfinite(segment.series["total_loss"].values).all()


@pytest.mark.parametrize(("how", "error"), [("error", RuntimeError), ("ctrl-c", KeyboardInterrupt)])
def test_another_exception_and_ctrl_c_are_not_told_apart(tmp_path, how, error):
    with pytest.raises(error):
        train(tmp_path, 200, model=Toy(71, how))
    (segment,) = read(tmp_path).segments
    ending = segment.ending(segment.planned_iterations)
    assert (ending.kind, ending.iteration) == (EndingKind.TRUNCATED, 71)
    assert "Ctrl-C" in (ending.message or "")


def test_a_crash_and_the_run_that_follows_it_are_told_apart(tmp_path):
    with pytest.raises(FloatingPointError):
        train(tmp_path, 200, model=Toy(51))
    train(tmp_path, 100)
    first, second = read(tmp_path).segments
    assert first.ending(first.planned_iterations).kind is EndingKind.CRASHED
    assert second.ending(second.planned_iterations).kind is EndingKind.FINISHED
    assert second.events == ()


def test_a_resume_after_a_crash_is_told(tmp_path):
    with pytest.raises(FloatingPointError):
        train(tmp_path, 300, model=Toy(171))
    train(tmp_path, 300, start=100)
    first, second = read(tmp_path).segments
    assert first.rows + second.rows == sum(1 for _ in (tmp_path / "metrics.json").open())
    assert [(e.kind, e.iteration) for e in second.events] == [("resume", 119)]
    assert second.planned_iterations == 300


@pytest.mark.parametrize("period", [1, 3, 5])
def test_rows_of_every_few_iterations_are_seen_to_be_running_medians(tmp_path, period):
    train(tmp_path, 400, period=period, validate_every=1000)
    (segment,) = read(tmp_path).segments
    loss = segment.series["total_loss"]
    assert (loss.statistic, loss.window, loss.every) == ("median", 20, period)
    assert segment.series["lr"].statistic == "raw"
