import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from d2check import fleet
from d2check.errors import RuleFileError
from d2check.fleet import RuleChoice, choose, judge_all
from d2check.model import Unreadable

ALL = RuleChoice()


@pytest.fixture
def tree(tmp_path):
    """Outputs in a row, one of them broken."""

    def make(count):
        folders = []
        for number in range(count):
            folder = tmp_path / f"run-{number:04d}"
            folder.mkdir()
            rows = (
                json.dumps({"iteration": 20 * i + 19, "total_loss": 2.0 - 0.01 * i, "lr": 0.01})
                for i in range(0 if number == 3 else 30)
            )
            (folder / "metrics.json").write_text("\n".join(rows))
            folders.append(folder)
        return folders

    return make


def told(judged):
    """Everything that was concluded, in comparable form."""
    if isinstance(judged, Unreadable):
        return judged
    run = judged.run
    return run.source, run.segment, run.last_iteration, judged.findings, judged.root_causes


def test_a_pool_says_the_same_in_the_same_order_as_one_process(tree, monkeypatch):
    outputs = tree(40)
    alone = [told(judged) for judged in judge_all(outputs, ALL)]
    monkeypatch.setattr(fleet, "POOL_FROM", 10)
    monkeypatch.setattr(fleet, "_cores", lambda: 2)
    together = [told(judged) for judged in judge_all(outputs, ALL)]
    assert together == alone
    assert isinstance(alone[3], Unreadable)
    assert len(alone) == 40


def test_a_given_engine_is_used(tree):
    outputs = tree(20)
    with ThreadPoolExecutor(2) as engine:
        by_engine = [told(judged) for judged in judge_all(outputs, ALL, engine)]
    assert by_engine == [told(judged) for judged in judge_all(outputs, ALL)]


def test_outputs_are_taken_as_they_are_needed_and_not_all_at_once(tree, monkeypatch):
    taken = []

    def outputs():
        for number in range(100_000):
            taken.append(number)
            yield Unreadable(str(number), "lost")

    monkeypatch.setattr(fleet, "_cores", lambda: 2)
    with ThreadPoolExecutor(1) as engine:
        stream = judge_all(outputs(), ALL, engine)
        assert next(stream).path == "0"
        assert len(taken) < 1000
        stream.close()


def test_a_choice_names_rules_project_and_expression(tmp_path):
    (tmp_path / "d2check.yaml").write_text("rules:\n  time/data-bound: {ignore: borrowed disk}\n")
    chosen = choose(RuleChoice((), tmp_path / "d2check.yaml", "data-bound or lr-unscaled"))
    assert [rule.id for rule in chosen.rules] == ["schedule/lr-unscaled", "time/data-bound"]
    assert chosen.rules[1].ignored == "borrowed disk"
    assert "borrowed disk" in chosen.notes[0]


def test_a_broken_rule_file_is_told_and_not_remembered_as_good(tmp_path):
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss/odd.yaml").write_text("id: loss/odd\n")
    for _ in range(2):
        with pytest.raises(RuleFileError):
            choose(RuleChoice((tmp_path,)))
