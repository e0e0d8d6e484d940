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
