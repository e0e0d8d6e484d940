"""Errors keep their parts wherever they are raised."""

import pickle

import pytest

from d2check.errors import InputError, LaunchError, Problem, RuleFileError

PROBLEMS = (Problem("a.yaml", 1, 2, "what"), Problem("b.yaml", 3, 4, "is wrong"))


@pytest.mark.parametrize(
    "error",
    [
        InputError("out/config.yaml", "it is empty", "a config", "Name another"),
        RuleFileError(PROBLEMS),
        RuleFileError(PROBLEMS[:1], "the project file"),
        LaunchError("no such interpreter"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_comes_out_of_a_worker_process_as_it_was(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
