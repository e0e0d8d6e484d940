"""What is known before the first iteration, of models of many kinds."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("detectron2")

from d2check.probe import facts  # noqa: E402  (imports torch)


class Part(torch.nn.Module):
    def __init__(self, num_classes=None, **parts):
        super().__init__()
        if num_classes is not None:
            self.num_classes = num_classes
        for name, part in parts.items():
            setattr(self, name, part)


@pytest.mark.parametrize(
    ("model", "classes"),
    [
        (Part(roi_heads=Part(80), sem_seg_head=Part(54)), 80),  # panoptic FPN counts things
        (Part(head=Part(20)), 20),
        (Part(sem_seg_head=Part(133), criterion=Part(133)), 133),  # Mask2Former
        (Part(80, criterion=Part(91)), 80),  # DINO
        (Part(criterion=Part(91)), 91),
        (Part(sem_seg_head=Part()), None),
    ],
)
def test_the_classes_are_those_of_the_part_that_classifies(model, classes):
    assert facts.model_facts(model).get("classes") == classes


class Wrapped(torch.nn.Module):
    """As DistributedDataParallel."""

    def __init__(self, module):
        super().__init__()
        self.module = module


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
    told = facts.model_facts(wrap(Part(head=Part(3), linear=torch.nn.Linear(2, 3))))
    assert told["meta_architecture"] == "Part"
    assert told["classes"] == 3
    assert told["parameters"] == 9
    assert told["device"] == "cpu"


def test_the_optimizer_is_told_by_pytorchs_own_class():
    parameters = [torch.nn.Parameter(torch.ones(1))]

    class FullModelGradientClippingOptimizer(torch.optim.AdamW):  # as Mask2Former makes one
        pass

    class Lion(torch.optim.Optimizer):
        pass

    assert facts.optimizer_name(torch.optim.SGD(parameters, lr=0.1)) == "SGD"
    assert facts.optimizer_name(FullModelGradientClippingOptimizer(parameters)) == "ADAMW"
    assert facts.optimizer_name(Lion(parameters, {})) == "LION"
    assert facts.optimizer_name(None) is None
