"""Whether the host's memory holds."""

import numpy as np
import pytest

from d2check.checks.host import host_headroom
from d2check.model import Series


def looks(name, *values):
    return Series(name, np.arange(len(values)) * 10, np.array(values, float), 10)


def test_the_moment_with_the_least_memory_counts():
    measured = host_headroom(looks("free", 9000, 400, 8000), 16000, looks("family", 2048, 5120))
    assert measured.value == pytest.approx(0.025)
    assert measured.extras["family_gib"] == 5
    assert host_headroom(looks("free", 900, 900, 900), 1000).extras["family_gib"] is None


def test_two_looks_are_too_few():
    assert host_headroom(looks("free", 1, 1), 16000).undecided
