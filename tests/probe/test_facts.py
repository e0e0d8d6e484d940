"""What a model tells of itself before the first iteration."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from d2check.probe import facts  # noqa: E402  (imports torch)


class Wrapped(torch.nn.Module):
    """As DistributedDataParallel."""

    def __init__(self, module):
        super().__init__()
        self.module = module


class Detector(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(2, 3)
        self.head.num_classes = 3


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: model,
        Wrapped,
        lambda model: torch.compile(model, backend="eager"),
        lambda model: torch.compile(Wrapped(model), backend="eager"),
        lambda model: Wrapped(torch.compile(model, backend="eager")),
    ],
    ids=["bare", "distributed", "compiled", "compiled around", "compiled within"],
)
def test_a_model_is_known_through_what_wraps_it(wrap):
    if not hasattr(torch, "compile"):
        pytest.skip("torch before 2.0 compiles nothing")
    told = facts.model_facts(wrap(Detector()))
    assert told["meta_architecture"] == "Detector"
    assert told["classes"] == 3
    assert told["parameters"] == 9
    assert told["device"] == "cpu"
