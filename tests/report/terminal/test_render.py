import re
import subprocess
import sys
from dataclasses import replace

import pytest
import report_samples
from hypothesis import given, settings
from hypothesis import strategies as st
from report_gold import assert_gold

from d2check.model import Event
from d2check.report.terminal import closing_line, render

SAMPLES = ("healthy", "sick", "crashed", "many")


def plain(report, **changes):
    return render(report, **({"colour": False, "width": 88, "verbosity": 0} | changes))


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("verbosity", [-1, 0, 1])
def test_reports_look_as_they_did_when_they_were_read(name, verbosity):
    level = {-1: "quiet", 0: "normal", 1: "verbose"}[verbosity]
    text = plain(getattr(report_samples, name)(), verbosity=verbosity)
    assert_gold(f"{name}-{level}.txt", text)


def test_a_narrow_ascii_terminal_gets_only_ascii():
    text = plain(report_samples.sick(), width=60, ascii_only=True)
    assert text.isascii()
    assert_gold("sick-narrow-ascii.txt", text)


def test_colour_changes_no_word():
    bare = plain(report_samples.sick())
    coloured = plain(report_samples.sick(), colour=True)
    assert "\x1b[" not in bare
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == bare


@pytest.mark.parametrize("verbosity", [-2, -1, 0, 1, 2])
def test_nothing_of_a_user_reaches_the_terminal_unwashed(verbosity):
    text = plain(report_samples.hostile(), verbosity=verbosity)
    assert not set(text) & {"\x1b", "\x07", "\x00", "\x9b", "\u202e", "\r"}
    if verbosity >= -1:
        assert "red [bold]name <b>&amp;" in text


def test_the_cause_is_read_before_its_symptom_and_the_symptom_only_once():
    text = plain(report_samples.sick())
    failures = text[text.index("FAILURES") :]
    assert failures.index("schedule/lr-unscaled") < failures.index("loss/diverges")
    assert failures.count("loss/diverges") == 1
    assert "root cause" in failures


def test_the_fix_is_one_line_that_can_be_pasted_however_narrow():
    lines = plain(report_samples.sick(), width=40).splitlines()
    assert any("SOLVER.BASE_LR 0.0025 SOLVER.WARMUP_ITERS 8000" in line for line in lines)


def test_iterations_are_told_in_epochs_too():
    text = plain(report_samples.healthy())
    assert "10,000 iterations = 0.44 epochs of 45,000 images" in text


def test_an_ignored_rule_is_shown_with_its_reason_and_not_among_the_failures():
    text = plain(report_samples.sick(), width=120)
    assert "ignored: a frozen backbone, as meant" in text
    assert "loss/plateau" not in text[text.index("FAILURES") :]


def test_a_trial_rule_stands_apart_and_the_last_line_says_that_it_never_fails():
    item = report_samples.finding("loss/spikes", "FAIL", "4 spikes", status="trial")
    judged = report_samples.RunReport(report_samples.run(), (item,))
    text = plain(report_samples.report(judged, exit_code=0))
    assert "FAILURES" not in text
    assert "TRIAL RULES" in text
    assert "1 failed in 41.2s (trial rules never fail a check)" in text
    strict = plain(report_samples.report(judged, exit_code=1, strict=True))
    assert "FAILURES" in strict


def test_rules_skipped_for_one_reason_share_a_line_unless_all_is_asked_for():
    text = plain(report_samples.healthy())
    assert "SKIP  memory/headroom +1 ..." in text
    assert "memory/growth" not in text
    assert "SKIP  memory/growth ..." in plain(report_samples.healthy(), verbosity=1)


def test_quiet_tells_what_is_wrong_and_very_quiet_one_line():
    quiet = plain(report_samples.sick(), verbosity=-1)
    assert "schedule/lr-unscaled" in quiet
    assert "PASS" not in quiet
    assert plain(report_samples.sick(), verbosity=-2).count("\n") == 1


def test_many_runs_are_grouped_and_never_a_table_each():
    text = plain(report_samples.many())
    assert len(text.splitlines()) < 60
    assert "FAIL schedule/lr-unscaled (high): 12 runs" in text
    assert "healthy    5 runs" in text
    assert "not judged 1 run: out/short" in text
    assert "out/locked: permission denied" in text


def test_information_is_a_line_and_leaves_a_run_healthy():
    note = report_samples.finding("ending/runs-mixed", "WARN", "1 other start", severity="info")
    runs = [
        report_samples.RunReport(
            report_samples.run(f"out/{name}"), (*report_samples.healthy_findings(), note)
        )
        for name in ("one", "two")
    ]
    several = report_samples.report(*runs, exit_code=0)
    text = plain(several)
    assert "noted      ending/runs-mixed, 2 runs: What ending/runs-mixed is about" in text
    assert "healthy    2 runs: out/one, out/two" in text
    assert "WARN ending/runs-mixed" not in text
    assert "WARN ending/runs-mixed (info): 2 runs" in plain(several, verbosity=1)


def test_several_trainings_of_one_file_are_told_apart():
    text = " ".join(plain(report_samples.many(), verbosity=1).split())
    assert "out/sick-0 (training 1)" in text
    assert "out/sick-0 (training 2)" in text


def test_a_folder_that_all_runs_share_is_named_once():
    runs = [
        report_samples.RunReport(
            report_samples.run(f"/data/team/experiments/{name}/metrics.json"),
            report_samples.healthy_findings(),
        )
        for name in ("one", "two")
    ]
    text = plain(report_samples.report(*runs, exit_code=0))
    assert text.count("/data/team/experiments/") == 1
    assert "healthy    2 runs: one/metrics.json, two/metrics.json" in text


def test_the_last_line_counts_as_pytest_does():
    line, style = closing_line(report_samples.sick())
    assert line == "3 failed, 1 error, 2 warnings, 2 passed, 1 skipped, 1 ignored in 41.2s"
    assert style == "bad"
    assert closing_line(report_samples.healthy()) == ("3 passed, 3 skipped in 41.2s", "good")


def test_an_interrupted_and_an_unjudged_report_say_so():
    interrupted = report_samples.report(exit_code=2)
    assert closing_line(interrupted)[0] == "interrupted: nothing judged in 41.2s"
    unjudged = report_samples.report(exit_code=5)
    assert closing_line(unjudged)[0].startswith("nothing could be judged")


def test_what_passed_without_an_iteration_is_said_to_prove_nothing():
    untrained = replace(report_samples.healthy(), exit_code=5)
    line = "no iteration was seen, which proves nothing: 3 passed, 3 skipped in 41.2s"
    assert closing_line(untrained) == (line, "warn")


@given(st.text(max_size=80), st.text(max_size=80), st.integers(20, 120), st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_words_render_and_every_line_break_is_ours(message, title, width, ascii_only):
    item = report_samples.finding("loss/diverges", "FAIL", message, title=title)
    judged = report_samples.RunReport(report_samples.run(message), (item,))
    text = plain(report_samples.report(judged), width=width, ascii_only=ascii_only)
    assert "\x1b" not in text
    assert text.endswith("\n")


def test_plain_text_needs_no_rich():
    code = (
        "import sys, d2check.report.terminal;"
        "assert not {'rich', 'numpy', 'click'} & set(sys.modules) - {'numpy'}"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_happened_to_the_weights_is_labelled_in_whole_words():
    seen = report_samples.run("out")
    events = (Event("missing-weights", "104 of 116"), Event("skipped-weights", "1 of 116"))
    judged = report_samples.RunReport(replace(seen, events=events), ())
    text = plain(report_samples.report(judged, exit_code=0))
    assert "missing    104 of 116" in text
    assert "skipped    1 of 116" in text


def with_events(report, *events):
    first, *rest = report.runs
    told = replace(first, run=replace(first.run, events=events))
    return replace(report, runs=(told, *rest))


def test_among_many_runs_files_that_were_not_read_are_told():
    """The header of the run is not shown, and with it what it says of its files."""
    lost = Event(
        "unreadable", "out/a/metrics.json: it cannot be read (Permission denied). Expected x"
    )
    apart = Event("apart", "b.log starts at iteration 500, a.log ends at 399")
    text = plain(with_events(report_samples.many(), lost, apart))
    assert "unreadable out/a/metrics.json: it cannot be read (Permission denied)\n" in text
    assert "b.log starts at iteration 500" in text
    assert "Expected x" not in text


def test_names_of_a_thousand_weights_do_not_bury_the_verdicts():
    names = Event("missing-weights", ", ".join(f"backbone.layer{n}.weight" for n in range(1000)))
    report = with_events(report_samples.healthy(), names)
    assert len(plain(report).splitlines()) < 60
    assert "layer999" in plain(report, verbosity=1)
