"""What the tests of further ramps share."""

from __future__ import annotations

import pytest

from d2check.rules.load import load_rules


@pytest.fixture(scope="module")
def rules():
    """The rule on the ramp alone."""
    return [rule for rule in load_rules() if rule.id == "loss/ruined-at-peak-lr"]
