import json
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest


def only_run(tmp_path):
    (folder,) = (tmp_path / "d2check-runs").iterdir()
    return folder


def test_a_healthy_training_is_judged_and_can_be_judged_again(run, d2check, tmp_path):
    first = run()
    assert first.code == 0, first.out + first.err
    assert "PASS" in first.out
    assert "turned off checkpoints: none are written" in first.out
    assert "\x1b" not in first.out
    folder = only_run(tmp_path)
    assert f"d2check audit {folder.relative_to(tmp_path)}" in first.out
    again = d2check("audit", folder)
    assert again.code == 0
    assert verdicts(again.out) == verdicts(first.out)


def verdicts(text):
    return [line for line in text.splitlines() if line.startswith(("PASS", "FAIL", "WARN", "SKIP"))]


def test_progress_goes_to_stderr_and_the_report_to_stdout(run):
    ran = run("--iterations", 50)
    assert "iter 1/50 loss 3" in ran.err
    assert "iter" not in ran.out.partition("observed")[0]


def test_the_report_is_kept_in_the_run_folder_and_where_it_was_asked_for(run, tmp_path):
    ran = run("--json", "r.json", "--junitxml", "r.xml", "-q", training="slow")
    assert ran.code == 1
    report = json.loads((tmp_path / "r.json").read_text())
    assert report == json.loads((only_run(tmp_path) / "report.json").read_text())
    assert report["exit_code"] == 1
    assert report["command"][:2] == ["d2check", "run"]
    suites = ET.parse(tmp_path / "r.xml").getroot()
    assert int(suites.attrib["failures"]) == report["summary"]["failed"] == 1


def test_json_on_standard_output_is_nothing_but_json(run):
    ran = run("--json", "-", "-q")
    assert json.loads(ran.out)["summary"]["passed"] > 0


def test_a_crash_is_a_finding_with_the_users_lines(run):
    ran = run(training="crash")
    assert ran.code == 1
    assert "FAIL  ending/crashed" in ran.out
    assert "boxes[i] = x" in ran.out
    assert "Traceback" not in ran.out + ran.err


@pytest.mark.parametrize(
    ("training", "arguments", "words"),
    [
        ("unknown-key", [], ["unknown key SOLVER.BASE_LRR", "Did you mean SOLVER.BASE_LR?"]),
        ("unknown-key", ["SOLVER.BASE_LRR", "1"], ["error: override"]),
        ("wrong-type", [], ["Type mismatch"]),
        ("unregistered", [], ["'my_train' is not registered", "coco_2017_val", "--setup FILE"]),
        (
            "no-module",
            ["--setup", "my_project.data"],
            ["--setup my_project.data", "no such module"],
        ),
    ],
)
def test_what_was_asked_wrongly_is_a_usage_error_and_no_finding(run, training, arguments, words):
    ran = run(*arguments, training=training)
    assert ran.code == 4, ran.out
    told = " ".join(ran.err.split())  # lines are broken where the temporary path ends
    for word in words:
        assert word in told
    assert ran.out == ""
    assert "Traceback" not in ran.err


def test_ctrl_c_ends_the_training_and_still_reports(fake_python, config, tmp_path, environment):
    process = subprocess.Popen(
        [sys.executable, "-m", "d2check", "run", config, "--python", fake_python, "-vv"],
        cwd=tmp_path,
        env=environment | {"FAKE_TRAINING": "hang"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for line in process.stderr:
        if line.startswith("ready"):
            break
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    assert "interrupted: " in out.splitlines()[-1]
    assert "ending interrupted" in out
    assert (only_run(tmp_path) / "report.json").exists()


def test_a_failure_that_is_certain_ends_the_run(run, d2check, tmp_path):
    ran = run("--iterations", 20_000, training="flat")  # far more than it takes
    assert ran.code == 1
    why = "loss/not-decreasing was certain (held for "
    assert f"of 20000: {why}" in ran.err
    words = " ".join(ran.out.split())
    assert "; ended early at iteration" in words
    assert why in words
    assert "FAIL loss/not-decreasing" in words
    (ramp,) = (
        f
        for f in json.loads((only_run(tmp_path) / "report.json").read_text())["runs"][0]["findings"]
        if f["rule"] == "loss/ruined-at-peak-lr"
    )
    assert (ramp["verdict"], ramp["reason"].partition(": ")[2][:19]) == (
        "SKIP",
        "the run ended early",
    )
    again = d2check("audit", only_run(tmp_path))
    assert verdicts(again.out) == verdicts(ran.out)


def test_no_run_ends_early_that_must_not(run, tmp_path):
    ran = run("--iterations", 200, "--no-early-end", training="flat")
    assert ran.code == 1
    assert "ended early" not in ran.out + ran.err
    assert not (only_run(tmp_path) / "stop").exists()


def test_the_trainings_own_output_is_shown_on_request_without_its_escapes(run):
    assert "hello from the training in red" in run("-vv").err
    assert "hello" not in run().err


def test_options_may_stand_among_overrides_and_values_may_begin_with_a_dash(run, tmp_path):
    ran = run("MODEL.X", "-1", "--iterations", "60", "SOLVER.GAMMA", "-1e-4")
    plan = json.loads((only_run(tmp_path) / "plan.json").read_text())
    assert ran.code == 0, ran.err
    assert plan["entry"]["overrides"] == ["MODEL.X", "-1", "SOLVER.GAMMA", "-1e-4"]
    assert plan["iterations"] == 60


def test_a_misspelt_option_is_no_override(run, tmp_path):
    ran = run("--iteratons", "5")
    assert ran.code == 4
    assert "--iterations" in ran.err
    assert not (tmp_path / "d2check-runs").exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--budget", "soon"], "soon"),
        (["--iterations", "0"], "above 0"),
        (["SOLVER.BASE_LR"], "has no value"),
        (["--json", "no/such/folder/r.json"], "no folder"),
        (["--rules", "nowhere"], "nowhere"),
        (["--setup", "nowhere.py"], "no such file"),
    ],
)
def test_mistakes_are_told_before_anything_is_started(run, tmp_path, arguments, word):
    ran = run(*arguments)
    assert ran.code == 4
    assert word in ran.err
    assert "Traceback" not in ran.err
    assert not (tmp_path / "d2check-runs").exists()


def test_a_missing_config_is_told_in_four_parts(d2check):
    ran = d2check("run", "nowhere.yaml")
    assert ran.code == 4
    assert "error: nowhere.yaml" in ran.err
    for part in ("found", "expected", "do"):
        assert f"\n  {part:<10}" in ran.err


def test_an_expression_that_matches_no_rule_is_never_green(run, tmp_path):
    ran = run("-k", "no-such-rule")
    assert ran.code == 5
    assert not (tmp_path / "d2check-runs").exists()


def test_a_gate_in_which_every_rule_was_skipped_is_never_green(run):
    ran = run("-k", "memory/headroom")
    assert ran.code == 5
    assert "nothing could be judged" in ran.out


def test_the_first_failure_ends_the_report_when_asked(run):
    ran = run("-x", training="slow")
    assert ran.code == 1
    assert verdicts(ran.out)[0].startswith("FAIL  time/data-bound")
    assert len(verdicts(ran.out)) == 1
    assert "stopped at the first failure" in ran.out


def test_secrets_of_the_command_line_reach_no_report(run, tmp_path):
    run("MY.API_KEY", "s3cr3t-value-of-mine")
    folder = only_run(tmp_path)
    for file in folder.rglob("*"):
        if file.is_file():
            assert "s3cr3t-value-of-mine" not in file.read_text(), file


def test_a_command_after_dashes_is_run_as_it_is(d2check, fake_python, tmp_path):
    (tmp_path / "train_net.py").write_text("")
    ran = d2check("run", "--iterations", "60", "--", fake_python, "train_net.py", "--lr", "-1")
    assert ran.code == 0, ran.err
    plan = json.loads((only_run(tmp_path) / "plan.json").read_text())
    assert plan["entry"]["command"] == [str(fake_python), "train_net.py", "--lr", "-1"]
    assert plan["iterations"] == 60
    assert only_run(tmp_path).name.endswith("-train_net")


def test_overrides_may_still_stand_after_dashes(run, tmp_path):
    assert run("--", "MODEL.X", "-1").code == 0
    plan = json.loads((only_run(tmp_path) / "plan.json").read_text())
    assert plan["entry"]["overrides"] == ["MODEL.X", "-1"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "CONFIG"),
        (["--"], "no command"),
        (["--seed", "1", "--", "python", "x.py"], "--seed"),
        (["--num-gpus", "2", "--", "python", "x.py"], "--num-gpus"),
        (["--", "no-such-program"], "no such program"),
        (["--", sys.executable, "nowhere.py"], "no such file"),
        (["--", sys.executable, "-I", "-c", "pass"], "ignore its environment"),
    ],
)
def test_a_command_that_cannot_be_watched_is_refused(d2check, tmp_path, arguments, word):
    ran = d2check("run", *arguments)
    assert ran.code == 4, ran.out
    assert word in ran.err
    assert not (tmp_path / "d2check-runs").exists()


def test_a_report_that_cannot_be_kept_in_the_run_folder_changes_no_exit_code(run, tmp_path):
    ran = run(training="no-report")
    assert ran.code == 0, ran.err
    assert "report.json: not written: Is a directory" in ran.err
    assert not list(only_run(tmp_path).glob("*.partial"))
