"""What is changed in a script's process before it trains."""

from __future__ import annotations

import types

import pytest

from d2check.probe import run_command


@pytest.fixture
def launch():
    """Detectron2's `launch` as a check has it: tells what it is called with."""

    def launch(main_func, num_gpus_per_machine, num_machines=1, machine_rank=0, dist_url=None,
               args=()):  # fmt: skip
        return dist_url, args

    module = types.SimpleNamespace(launch=launch)
    run_command._watch_launch(module, None)
    return module.launch


def test_ranks_of_one_machine_meet_where_no_other_training_does(launch, capsys):
    """Two checks at once, or a check beside the user's training, whose port has the same number."""
    url = "tcp://127.0.0.1:50152"
    assert launch(print, 2, 1, 0, url, ("a",)) == ("auto", ("a",))
    assert launch(print, 2, dist_url=url) == ("auto", ())
    assert capsys.readouterr().err.count(f"not at {url}") == 2


def test_nothing_is_told_of_a_rank_that_is_alone(launch, capsys):
    url = "tcp://127.0.0.1:50152"
    assert launch(print, 1, 1, 0, url)[0] == url
    assert capsys.readouterr().err == ""


def test_ranks_of_several_machines_meet_where_they_were_told(launch):
    url = "tcp://127.0.0.1:50152"
    assert launch(print, 8, num_machines=2, dist_url=url)[0] == url
    for other in ("tcp://10.0.0.1:9000", "file:///shared/store", "auto", None):
        assert launch(print, 2, dist_url=other)[0] == other
