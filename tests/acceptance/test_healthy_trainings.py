"""Healthy real trainings: nothing may be flagged, whatever the seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from d2check.demo.shapes import write_demo

from .conftest import Said

pytestmark = pytest.mark.training

# What a CPU without a GPU cannot show, and what a training of 300 iterations is too short for.
EXPECTED_SKIPS = {"memory/headroom"}


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("mask", ["True", "False"], ids=["mask", "faster"])
def test_a_healthy_training_has_no_warning_and_no_failure(
    d2check: Callable[..., Said], tmp_path: Path, mask: str, seed: int
) -> None:
    config = write_demo(tmp_path / "demo")
    setup = str(config.parent / "demo_setup.py")
    said = d2check(
        *("run", str(config), "MODEL.MASK_ON", mask),
        *("--setup", setup, "--seed", str(seed), "--output", "out"),
    )
    assert said.verdicts("FAIL") == {}
    assert said.verdicts("WARN") == {}
    assert said.verdicts("ERROR") == {}
    assert said.status == 0
    skipped = said.verdicts("SKIP")
    assert set(skipped) >= EXPECTED_SKIPS
    assert all(skipped.values()), "each rule that was not judged says why"
    passed = said.verdicts("PASS")
    assert {"loss/not-decreasing", "loss/diverges", "time/data-bound"} <= set(passed)
