"""ci/check: every stage runs, and a failure anywhere fails the whole."""

import sys

import pytest
import stages
from stages import Stage

GOOD = Stage("good", "is it good", (sys.executable, "-c", "print('quiet')"))
BAD = Stage("bad", "is it good", (sys.executable, "-c", "print('the cause'); raise SystemExit(1)"))
ABSENT = Stage("absent", "is it there", ("/nowhere/tool",))


def test_all_passing_is_exit_0_and_says_one_line_a_stage(monkeypatch, capsys):
    monkeypatch.setattr(stages, "STAGES", (GOOD,))

    assert stages.main([]) == 0
    assert capsys.readouterr().out.startswith("check: good ok (")


@pytest.mark.parametrize("failing", [BAD, ABSENT])
def test_later_stages_run_after_a_failure_which_is_named_at_the_end(monkeypatch, capsys, failing):
    monkeypatch.setattr(stages, "STAGES", (failing, GOOD))

    assert stages.main([]) == 1
    said = capsys.readouterr().out
    assert "check: good ok" in said
    assert said.endswith(f"check: 1 of 2 stages failed: {failing.name}\n")


def test_output_of_a_failed_stage_is_shown(monkeypatch, capsys):
    monkeypatch.setattr(stages, "STAGES", (BAD,))

    stages.main([])

    assert "the cause" in capsys.readouterr().out


def test_stages_can_be_chosen_and_an_unknown_one_is_exit_4(monkeypatch, capsys):
    monkeypatch.setattr(stages, "STAGES", (GOOD, BAD))

    assert stages.main(["good"]) == 0
    assert stages.main(["typo"]) == 4
    assert "no stage typo; there are good, bad" in capsys.readouterr().err


def test_tests_come_last_so_that_a_good_run_ends_with_their_summary():
    assert stages.STAGES[-1].name == "tests"
    assert stages.STAGES[-1].live
