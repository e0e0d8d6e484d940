"""What several checks of one run share is computed once, and is never another run's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2check.checks._curve import loss_curve, median, noise_of
from d2check.model import Series


def series(name, seed, rows=200):
    rng = np.random.default_rng(seed)
    values = np.exp(0.2 * rng.standard_normal(rows))
    return Series(name, np.arange(rows, dtype=np.int64), values)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_the_quick_median_is_the_median(values):
    assert median(np.array(values)) == pytest.approx(float(np.median(values)))


def test_the_curve_of_a_run_is_built_once_and_of_equal_values_again():
    total, heads = series("total_loss", 1), {"loss_cls": series("loss_cls", 2)}
    assert loss_curve(total, heads) is loss_curve(total, dict(heads))
    assert loss_curve(series("total_loss", 1), heads) is not loss_curve(total, heads)


def test_other_heads_or_another_base_rate_make_another_curve():
    total, lr = series("total_loss", 1), series("lr", 3)
    one = loss_curve(total, {"loss_cls": series("loss_cls", 2)}, lr, 0.01)
    other = loss_curve(total, {"loss_cls": series("loss_cls", 5)}, lr, 0.01)
    assert not np.array_equal(one.heads["loss_cls"], other.heads["loss_cls"])
    assert loss_curve(total, None, lr, 0.01) is not loss_curve(total, None, lr, 0.02)


def test_the_noise_of_values_that_may_change_is_never_kept():
    values = np.log(series("total_loss", 4).values)
    before = noise_of(values)
    values *= 3
    assert noise_of(values).sd == pytest.approx(3 * before.sd)


def test_a_sample_of_a_long_curve_tells_its_noise():
    values = np.random.default_rng(6).standard_normal(60_000)
    assert noise_of(values).sd == pytest.approx(1.0, rel=0.03)


def test_a_curve_that_is_kept_cannot_be_written_to():
    curve = loss_curve(series("total_loss", 7), {"loss_cls": series("loss_cls", 8)})
    with pytest.raises(ValueError, match="read-only"):
        curve.total[0] = 0.0
