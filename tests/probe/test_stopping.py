"""When the loop ends: iterations, budget, stop file, and all ranks at the same iteration."""

from __future__ import annotations

import json
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2check.probe.stopping import VERDICT, LeaveScript, LoopEnded, StopRule

CERTAIN = {"i": 81, "done": 82, "why": "loss/diverges was certain"}


def test_iterations_are_counted_from_the_first_one_seen(tmp_path):
    rule = StopRule(str(tmp_path / "stop"), iterations=3, budget_s=None)
    assert [rule.reason(i) for i in (500, 501, 502)] == [None, None, "iterations"]


def test_without_limits_it_goes_on(tmp_path):
    rule = StopRule(str(tmp_path / "stop"), iterations=None, budget_s=None)
    assert {rule.reason(i) for i in range(100)} == {None}


def test_the_stop_file_ends_the_loop(tmp_path):
    rule = StopRule(str(tmp_path / "stop"), iterations=None, budget_s=None)
    (tmp_path / "stop").touch()
    assert rule.reason(0) == "stop-file"


def test_a_stop_file_with_words_tells_what_is_certain(tmp_path):
    rule = StopRule(str(tmp_path / "stop"), iterations=None, budget_s=None)
    (tmp_path / "stop").write_text(json.dumps(CERTAIN), encoding="utf-8")
    assert rule.reason(0) == VERDICT
    assert rule.certain == CERTAIN


@pytest.mark.parametrize("content", ["", "{", "3", '{"i": 3}', "\x00"])
def test_a_stop_file_that_tells_nothing_ends_the_loop_all_the_same(tmp_path, content):
    rule = StopRule(str(tmp_path / "stop"), iterations=None, budget_s=None)
    (tmp_path / "stop").write_text(content, encoding="utf-8")
    assert rule.reason(0) == "stop-file"
    assert rule.certain is None


def test_all_ranks_learn_that_a_verdict_ended_the_loop(tmp_path):
    rules = [StopRule(str(tmp_path / "stop"), None, None, rank, 2) for rank in (0, 1)]
    (tmp_path / "stop").write_text(json.dumps(CERTAIN), encoding="utf-8")
    reasons = [(rules[0].reason(i), rules[1].reason(i)) for i in range(3)]
    assert reasons == [(None, None), (None, None), (VERDICT, VERDICT)]


def test_a_spent_budget_ends_the_loop(tmp_path):
    rule = StopRule(str(tmp_path / "stop"), iterations=None, budget_s=0.0)
    assert rule.reason(0) == "budget"


@given(st.integers(2, 4), st.integers(0, 8), st.randoms(use_true_random=False))
def test_ranks_stop_together_however_they_are_scheduled(tmp_path_factory, size, asked_at, random):
    """A rank ends iteration i only after every rank has begun it, as gradients are exchanged."""
    folder = tmp_path_factory.mktemp("ranks")
    stop = str(folder / "stop")
    rules = [StopRule(stop, None, None, rank, size) for rank in range(size)]
    rules[0]._next_look_s = float("-inf")
    ended: dict[int, int] = {}
    for i in range(asked_at + 10):
        if i == asked_at:
            (folder / "stop").touch()
        order = list(range(size))
        random.shuffle(order)
        for rank in order:
            rules[0]._next_look_s = float("-inf")
            if rank not in ended and rules[rank].reason(i) is not None:
                ended[rank] = i
    assert set(ended.values()) == {asked_at + 2}
    assert len(ended) == size


def test_a_script_is_left_with_status_zero_and_no_exception_handler_in_between():
    assert issubclass(LeaveScript, SystemExit)
    assert not issubclass(LoopEnded, Exception)
    assert LeaveScript(0).code == 0
    assert traceback.format_exception_only(LeaveScript, LeaveScript(0))
