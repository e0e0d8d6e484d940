"""Listening at a trainer's parts, and leaving them as they were."""

from __future__ import annotations

import pytest

from d2check.probe import clocks, taps

torch = pytest.importorskip("torch")


class Trainer:
    """The parts of a SimpleTrainer that are listened at."""

    def __init__(self, **parts):
        self.data_loader = [[1], [2], [3]]
        self.__dict__.update(parts)


@pytest.mark.parametrize(
    "parts",
    [{"_data_loader_iter": iter([[1], [2]])}, {"_data_loader_iter_obj": None}],
    ids=["v0.6, made at construction", "main, made on first use"],
)
def test_waiting_for_data_is_marked_and_batches_are_seen(parts):
    marks, seen = [], []
    trainer = Trainer(**parts)
    undo = taps.tap_loader(trainer, marks.append, seen.append)
    name = next(iter(parts))
    assert next(getattr(trainer, name)) == [1]
    assert marks == [clocks.FETCH, clocks.FETCHED]
    assert seen == [[1]]
    undo()
    assert next(getattr(trainer, name)) == [2]  # the real one goes on where it was
    assert len(marks) == 2


def test_a_trainer_with_an_iterator_elsewhere_is_not_tapped():
    assert taps.tap_loader(Trainer(), print, print) is None


def test_the_end_of_the_data_ends_the_iterator():
    trainer = Trainer(_data_loader_iter=iter([]))
    taps.tap_loader(trainer, lambda code: None, lambda batch: None)
    with pytest.raises(StopIteration):
        next(trainer._data_loader_iter)


def test_forward_and_optimizer_are_marked_in_order_and_only_while_tapped():
    marks = []
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    undo = [
        taps.tap_model(model, marks.append, None),
        taps.tap_optimizer(optimizer, marks.append, lambda: marks.append("complete")),
    ]
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    expected = [clocks.FORWARD, clocks.FORWARD_DONE, "complete"]
    assert marks == [*expected, clocks.OPTIMIZER, clocks.OPTIMIZER_DONE]
    for each in undo:
        each()
    model(torch.ones(1, 2))
    optimizer.step()
    assert len(marks) == 5
    assert "step" not in vars(optimizer)


def test_a_tapped_optimizer_pleases_schedulers_made_before_and_after(recwarn):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    before = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    taps.tap_optimizer(optimizer, lambda code: None, lambda: None)
    after = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    for _ in range(2):
        optimizer.step()
        before.step()
        after.step()
    assert [str(w.message) for w in recwarn if "optimizer" in str(w.message)] == []


def test_gradients_are_complete_but_not_yet_clipped_when_looked_at():
    parameter = torch.nn.Parameter(torch.ones(1))

    class Clipping(torch.optim.SGD):
        def step(self, closure=None):
            torch.nn.utils.clip_grad_norm_([parameter], 0.1)
            return super().step(closure)

    seen = []
    optimizer = Clipping([parameter], lr=0.1)
    taps.tap_optimizer(optimizer, lambda code: None, lambda: seen.append(float(parameter.grad)))
    (parameter * 7).sum().backward()
    optimizer.step()
    assert seen == [7.0]


def test_metrics_written_in_another_thread_mark_nothing():
    class Async(Trainer):
        async_write_metrics = True

        def _write_metrics(self):
            """As in Detectron2 main."""

    assert taps.tap_metrics(Async(), print) is None


@pytest.mark.parametrize("whole", [False, True])
def test_a_model_that_is_compiled_in_place_is_timed_and_its_graph_is_left_whole(whole):
    """Its hooks are compiled with it: one of ours broke the graph, or ended the training."""
    dynamo = pytest.importorskip("torch._dynamo")
    if not hasattr(torch.nn.Module, "compile"):
        pytest.skip("torch before 2.1 compiles no module in place")
    dynamo.reset()
    dynamo.utils.counters.clear()
    model = torch.nn.Linear(2, 1)
    model.compile(backend="eager", fullgraph=whole)
    compiled = model._compiled_call_impl
    marks, seen = [], []
    undo = taps.tap_model(model, marks.append, seen.append)
    for _ in range(3):
        model(torch.ones(1, 2)).sum().backward()
    assert marks == [clocks.FORWARD, clocks.FORWARD_DONE] * 3
    assert len(seen) == 3
    assert dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not dynamo.utils.counters["graph_break"]
    undo()
    assert model._compiled_call_impl is compiled


def test_the_context_of_mixed_precision_is_the_one_that_the_script_has_entered():
    """Its own, of bfloat16: no scaler of Detectron2's tells of it."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        context = taps.autocast_now("cpu")
    one = torch.ones(2, 2)
    assert (one @ one).dtype is torch.float32
    with context():
        assert (one @ one).dtype is torch.bfloat16
    with taps.autocast_now("cpu")():
        assert (one @ one).dtype is torch.float32
