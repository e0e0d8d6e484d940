"""Rows that two series share."""

import numpy as np

from d2check.checks._rows import in_common
from d2check.model import Series


def series(*at):
    return Series("time", np.array(at, np.int64), np.array(at, np.float64) / 10)


def test_series_of_one_file_are_taken_as_they_are():
    one, other = series(19, 39, 59), series(19, 39, 59)
    at, mine, theirs = in_common(one, other)
    assert at is one.iterations and mine is one.values and theirs is other.values


def test_only_iterations_that_both_have_are_taken():
    at, mine, theirs = in_common(series(0, 19, 39), series(19, 39, 59))
    assert at.tolist() == [19, 39]
    assert mine.tolist() == theirs.tolist() == [1.9, 3.9]


def test_series_of_one_length_may_still_differ():
    at, mine, _ = in_common(series(1, 2, 4), series(1, 3, 4))
    assert at.tolist() == [1, 4] and mine.tolist() == [0.1, 0.4]
