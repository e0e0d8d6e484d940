"""A small rule to change in each test, and small runs to judge."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from d2check.model import Measurement, Run, Series
from d2check.rules.load import load_rules
from d2check.rules.model import Rule


def level(series: Series, *, offset: float = 0.0) -> Measurement:
    """The last value, for tests."""
    if not len(series):
        return Measurement(None, undecided="nothing there")
    value = float(series.values[-1]) + offset
    return Measurement(value, "units", None, {"twice": 2 * value, "word": "odd", "absent": None})


def broken(series: Series) -> Measurement:
    """A check with a bug, for tests."""
    raise ZeroDivisionError("for the test")


CHECKS = {"level": level, "broken": broken}

RULE = """\
id: family/name
title: Too high
status: stable
severity: medium
why: Because.
check: level
reads: {series: series.total_loss}
fail: {above: 10}
message: "ended at {value:.1f}"
examples:
  - {name: low, series: {total_loss: "1 x5"}, expect: pass}
  - {name: high, series: {total_loss: "20 x5"}, expect: fail}
"""


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., tuple[Rule, ...]]:
    """Load rule texts, given by id."""

    def load_texts(**texts: str) -> tuple[Rule, ...]:
        for name, text in texts.items():
            path = tmp_path / "family" / f"{name.replace('_', '-')}.yaml"
            path.parent.mkdir(exist_ok=True)
            path.write_text(textwrap.dedent(text))
        return load_rules([tmp_path], checks=CHECKS)

    return load_texts


@pytest.fixture
def rule(load: Callable[..., tuple[Rule, ...]]) -> Rule:
    """The small rule."""
    return load(name=RULE)[0]


def run_with(last: float = 1.0, **fields: object) -> Run:
    """A run of five rows of total_loss that ends at `last`."""
    values = np.array([1.0, 1.0, 1.0, 1.0, last])
    series = Series("total_loss", np.arange(5), values)
    return Run("test", **{"series": {"total_loss": series}, **fields})
