"""Who else uses the GPU, by looks at it."""

import numpy as np

from d2check.checks.gpu import shared_gpu
from d2check.model import Series


def looks(*values):
    at = np.arange(len(values)) * 12
    return Series("gpu_others_busy", at, np.array(values, float), 12)


def test_the_share_of_looks_that_found_another_process_computing():
    measured = shared_gpu(looks(0.0, 0.5, 0.3, 0.01))
    assert (measured.value, measured.extras["busy"]) == (0.5, 0.4)
    assert measured.span == (0, 36)
    assert shared_gpu(looks(0.0, 0.0, 0.0)).value == 0


def test_a_run_of_two_seconds_is_too_short_to_say():
    assert "only 2 times" in (shared_gpu(looks(0.9, 0.9)).undecided or "")
