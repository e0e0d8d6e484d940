"""A training that goes on, followed by its files: what is told, and when it ends."""

from __future__ import annotations

import json
from itertools import islice

import pytest

from d2check import pipeline, sources
from d2check.errors import InputError
from d2check.looks import CERTAIN_AFTER
from d2check.model import Finding, Verdict
from d2check.rules.load import load_rules
from d2check.watch import Pace, Told, follow

CONFIG = "SOLVER:\n  MAX_ITER: 6000\n  BASE_LR: 0.01\n  WARMUP_ITERS: 0\n  STEPS: []\n"
PLANNED = 6000


@pytest.fixture(scope="module")
def rules():
    return load_rules()


def row(k, loss):
    iteration = 20 * k + 19
    left = 0.2 * (PLANNED - 1 - iteration)
    return {
        "iteration": iteration, "total_loss": loss, "lr": 0.01, "time": 0.2, "data_time": 0.01,
        "eta_seconds": left,
    }  # fmt: skip


class Training:
    """Writes rows while the watcher sleeps; its clock is the watcher's."""

    def __init__(self, folder, losses, rows_a_minute=1):
        self.path = folder
        self.now_s = 0.0
        self.written = True
        self._losses = enumerate(losses)
        self._each = rows_a_minute
        folder.mkdir(exist_ok=True)
        self.write()

    def write(self):
        lines = [json.dumps(row(k, loss)) for k, loss in islice(self._losses, self._each)]
        with (self.path / "metrics.json").open("a") as file:
            file.writelines(line + "\n" for line in lines)
        if not lines:
            self.written = False
        return bool(lines)

    def sleep(self, seconds):
        assert seconds > 0
        self.now_s += max(seconds, 60.0)
        self.write()

    def pace(self, **changes):
        return Pace(sleep=self.sleep, clock_s=lambda: self.now_s, **changes)


@pytest.fixture
def training(tmp_path, monkeypatch):
    def begin(losses, **how):
        one = Training(tmp_path / "output", losses, **how)
        monkeypatch.setattr(sources, "is_written", lambda path: one.written)
        return one

    return begin


def falling(rows):
    return [2.0 * 0.985**k + 0.3 + 0.01 * (k % 3) for k in range(rows)]


def rising(rows):
    """Falls for sixty rows, then climbs for good."""
    return [loss * 1.04 ** max(0, k - 60) for k, loss in enumerate(falling(rows))]


def test_a_training_is_followed_to_its_planned_end(training, rules):
    one = training(falling(300), rows_a_minute=5)
    looks = list(follow(one.path, rules, one.pace()))
    assert [look.first for look in looks] == [True] + [False] * (len(looks) - 1)
    assert [look.over for look in looks] == [False] * (len(looks) - 1) + [True]
    assert looks[-1].judged.run.last_iteration == PLANNED - 1
    assert looks[-1].judged.run.ending.kind.value == "finished"
    told = [c.finding for look in looks for c in look.changes]
    assert not [f for f in told if f.verdict is Verdict.FAIL and f.rule.startswith("loss/")]


def test_looks_grow_rarer_as_the_training_grows(training, rules):
    one = training(falling(300))
    rows = [look.judged.run.rows for look in follow(one.path, rules, one.pace())]
    assert rows[:3] == [1, 2, 3]
    assert rows[-2] - rows[-3] >= 5
    assert len(rows) < 160


def test_a_failure_is_told_once_and_after_it_has_held(training, rules):
    one = training(rising(200))
    found = []
    for look in follow(one.path, rules, one.pace()):
        found += [
            (look.judged.run.rows, c) for c in look.changes if c.finding.rule == "loss/diverges"
        ]
    verdicts = [change.finding.verdict for _, change in found]
    assert verdicts.count(Verdict.FAIL) == 1
    assert found[-1][1].finding.verdict is Verdict.FAIL
    assert 60 < found[-1][0] < 120


def test_a_training_whose_process_is_gone_has_ended(training, rules):
    one = training(falling(40))
    *_, last = follow(one.path, rules, one.pace())
    assert last.over
    assert last.news == "the process that wrote these files is gone"
    assert last.judged.run.ending.kind.value == "truncated"


def test_a_training_that_nobody_is_seen_to_write_ends_with_patience(training, rules, monkeypatch):
    one = training(falling(10))
    monkeypatch.setattr(sources, "is_written", lambda path: False)
    *_, last = follow(one.path, rules, one.pace(patience_s=600.0))
    assert last.over
    assert "nothing was written for 11 minutes" in last.news
    assert last.judged.run.rows == 10


def test_a_training_that_stands_still_is_told_once_and_not_given_up(training, rules):
    one = training(falling(10))
    one.write = lambda: one.now_s < 3600 or setattr(one, "written", False)
    looks = list(follow(one.path, rules, one.pace(patience_s=600.0)))
    told = [look.news for look in looks if look.news and not look.over]
    assert told == ["nothing was written for 11 minutes"]
    assert looks[-1].over


def test_an_empty_folder_is_waited_for(training, rules):
    one = training([])
    (one.path / "metrics.json").unlink()
    one.written = False
    losses = enumerate(falling(5))
    waited = []

    def write():
        waited.append(1)
        if len(waited) > 3:
            one.path.joinpath("metrics.json").open("a").writelines(
                json.dumps(row(k, loss)) + "\n" for k, loss in islice(losses, 1)
            )

    one.write = write
    told = []
    looks = list(follow(one.path, rules, one.pace(patience_s=600.0), told.append))
    assert told == ["no metrics and no log in it"]
    assert looks[0].judged.run.rows == 1
    assert looks[-1].judged.run.rows == 5


def test_patience_without_anything_to_judge_is_an_error(training, rules):
    one = training([])
    one.written = False
    with pytest.raises(InputError):
        list(follow(one.path, rules, one.pace(patience_s=600.0)))


def test_a_path_that_does_not_exist_is_an_error_at_once(tmp_path, rules):
    with pytest.raises(InputError, match=r"no such file.*Expected an output folder to watch"):
        next(follow(tmp_path / "nowhere", rules))


def test_a_restart_in_the_same_files_is_another_training(training, rules):
    one = training([*falling(30)])
    fresh = [json.dumps(row(k, loss)) for k, loss in enumerate(falling(30))]
    original = one.write

    def write():
        if not original() and fresh:
            one.written = True
            with (one.path / "metrics.json").open("a") as file:
                file.write(fresh.pop(0) + "\n")

    one.write = write
    firsts = [look for look in follow(one.path, rules, one.pace()) if look.first]
    assert [look.earlier for look in firsts] == [0, 1]
    assert firsts[1].judged.run.segment == 1


def test_ctrl_c_reports_the_last_look_and_is_exit_2(training, rules):
    one = training(falling(100))

    def on_look(look):
        if look.judged.run.rows > 20:
            raise KeyboardInterrupt

    report = pipeline.watch(one.path, rules, pace=one.pace(), on_look=on_look)
    assert report.exit_code == 2
    assert report.runs[0].run.rows > 20


def test_the_first_failure_ends_the_watching_when_asked(training, rules):
    one = training(rising(300))
    report = pipeline.watch(one.path, rules, pipeline.Terms(stop_at_first=True), one.pace())
    assert report.exit_code == 1
    assert report.runs[0].run.rows < 300


def finding(verdict, rule):
    return Finding(rule, "t", Verdict(verdict), "high", "stable", "m")


def test_noisy_rules_must_hold_and_facts_are_told_at_once():
    told = Told()
    assert len(told.changes([finding("FAIL", "schedule/lr-zero")])) == 1
    assert not told.changes([finding("FAIL", "schedule/lr-zero")])
    looks = [told.changes([finding("WARN", "loss/plateau")]) for _ in range(4)]
    assert [len(changes) for changes in looks] == [0, 0, 1, 0]
    falls = [told.changes([finding("FAIL", "loss/not-decreasing")]) for _ in range(8)]
    assert [bool(changes) for changes in falls].index(True) == CERTAIN_AFTER[
        "loss/not-decreasing"
    ] - 1


def test_a_verdict_that_does_not_hold_is_not_told():
    told = Told()
    for verdict in ("WARN", "WARN", "PASS", "WARN", "WARN"):
        assert not told.changes([finding(verdict, "loss/plateau")])
