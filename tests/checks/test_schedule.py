from __future__ import annotations

import math

import numpy as np
import pytest

from d2check.checks.schedule import early_decay, late_rate, lr_scale
from d2check.model import Series


def rates(values):
    return Series("lr", np.arange(len(values)), np.asarray(values, float))


@pytest.mark.parametrize(
    ("gamma", "steps", "end"),
    [(0.1, [60, 80], 0.01), (0.5, [60], 0.5), (None, [60], 0.1), (0.1, [600], 1.0)],
)
def test_the_rate_at_the_end_is_that_of_the_configs_own_factor(gamma, steps, end):
    assert late_rate(100, steps, gamma=gamma).value == pytest.approx(end)


def test_a_constant_rate_without_a_config_is_not_judged():
    assert late_rate(100, lr=rates([0.01] * 100), complete=True).undecided
    assert late_rate(100, lr=rates([0.01] * 90 + [0.001] * 10), complete=True).value == 0.1


def test_a_rate_that_has_not_dropped_yet_may_still_do_so_early():
    assert early_decay(1000, lr=rates([0.01] * 100)).undecided
    assert early_decay(1000, lr=rates([0.01] * 100), complete=True).value == math.inf
    assert early_decay(1000, steps=[]).value == math.inf
    assert early_decay(1000, lr=rates([0.01] * 100 + [0.001] * 10)).value == 0.1


@pytest.mark.parametrize(
    ("optimizer", "architecture", "judged"),
    [
        (None, None, True),
        ("torch.optim.SGD", "GeneralizedRCNN", True),
        ("ADAMW", "GeneralizedRCNN", False),
        ("torch.optim.AdamW", "GeneralizedRCNN", False),
        (None, "TwoStagePseudoLabGeneralizedRCNN", True),
        (None, "RetinaNet", True),
        (None, "MaskFormer", False),
    ],
)
def test_the_linear_rule_speaks_where_it_was_made(optimizer, architecture, judged):
    measured = lr_scale(16, 0.02, architecture, optimizer=optimizer)
    assert (measured.undecided is None) == judged
