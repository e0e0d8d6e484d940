import subprocess
import sys

import pytest

from d2check import fleet, pipeline, verify
from d2check.errors import InputError, UsageError
from d2check.harness.phases import plan_phases
from d2check.model import (
    Ending,
    EndingKind,
    Event,
    Finding,
    Fix,
    Override,
    Run,
    RunReport,
    Series,
    Unreadable,
    Verdict,
)
from d2check.pipeline import Terms, audit, exit_code, summarise
from d2check.training import Interrupted


def finding(verdict, rule="loss/diverges", **changes):
    fields = {"title": "t", "severity": "high", "status": "stable", "message": "m"} | changes
    return Finding(rule=rule, verdict=Verdict(verdict), **fields)


def runs(*findings):
    return (RunReport(Run("out"), findings),)


ALL = fleet.RuleChoice()
LOST = (Unreadable("lost", "lost: no such file"),)


@pytest.mark.parametrize(
    ("judged", "unreadable", "code"),
    [
        (runs(finding("PASS"), finding("SKIP")), (), 0),
        (runs(finding("PASS"), finding("WARN")), (), 0),
        (runs(finding("WARN")), (), 0),
        (runs(finding("PASS"), finding("FAIL")), (), 1),
        (runs(finding("PASS"), finding("ERROR")), (), 1),
        (runs(finding("PASS"), finding("FAIL", status="trial")), (), 0),
        (runs(finding("PASS"), finding("FAIL", ignored="known")), (), 0),
        (runs(finding("SKIP"), finding("SKIP")), (), 5),
        (runs(finding("FAIL", ignored="known")), (), 5),
        ((), (), 5),
        (runs(finding("PASS")), LOST, 1),
        ((), LOST, 4),
    ],
)
def test_exit_codes_are_those_of_pytest(judged, unreadable, code):
    assert exit_code(judged, unreadable) == code


@pytest.mark.parametrize("read_from", ["ending.json", "records.jsonl:3", "run-7"])
@pytest.mark.parametrize(("verdict", "code"), [("PASS", 5), ("WARN", 5), ("FAIL", 1)])
def test_a_check_that_saw_no_iteration_is_not_green_for_its_config(verdict, code, read_from):
    untrained = Run("out/run-7", ending=Ending(EndingKind.UNKNOWN, read_from=read_from))
    assert exit_code((RunReport(untrained, (finding(verdict),)),), ()) == code


def test_what_an_output_folder_without_rows_tells_still_counts():
    assert exit_code((RunReport(Run("out"), (finding("PASS"),)),), ()) == 0


@pytest.mark.parametrize("seen", ["WARN", "FAIL", "ERROR"])
def test_strict_lets_warnings_and_trial_rules_fail(seen):
    assert exit_code(runs(finding(seen, status="trial")), (), strict=True) == 1
    assert exit_code(runs(finding(seen, ignored="known")), (), strict=True) == 5


def test_an_interrupt_outweighs_every_verdict():
    assert exit_code(runs(finding("FAIL")), LOST, interrupted=True) == 2


def test_an_ignored_finding_counts_as_nothing_else():
    summary = summarise(runs(finding("FAIL", ignored="known"), finding("PASS")), 1.0)
    assert (summary.failed, summary.passed, summary.ignored) == (0, 1, 1)


@pytest.fixture
def sources(monkeypatch):
    """Replaces what is on disk: path -> runs, or the error of reading it."""

    def use(outputs, verdicts):
        def read(path):
            if isinstance(outputs[str(path)], BaseException):
                raise outputs[str(path)]
            return outputs[str(path)]

        monkeypatch.setattr(pipeline.sources, "discover", lambda paths, on_link: iter(paths))
        monkeypatch.setattr(fleet.sources, "read", read)
        monkeypatch.setattr(fleet, "judge", lambda rules, run: verdicts)
        return list(outputs)

    return use


def test_an_unreadable_output_stops_no_other(sources):
    bad = InputError("b", "it is empty", "rows", "Name another")
    paths = sources({"a": (Run("a"),), "b": bad, "c": (Run("c"),)}, (finding("PASS"),))
    report = audit(paths, ALL)
    assert [judged.run.source for judged in report.runs] == ["a", "c"]
    assert report.unreadable == (Unreadable("b", str(bad)),)
    assert report.exit_code == 1


def test_ctrl_c_reports_what_was_judged_until_then(sources):
    paths = sources({"a": (Run("a"),), "b": KeyboardInterrupt()}, (finding("PASS"),))
    report = audit(paths, ALL)
    assert len(report.runs) == 1
    assert report.exit_code == 2


def test_the_first_failure_ends_everything_when_asked(sources):
    verdicts = (finding("PASS"), finding("FAIL"), finding("FAIL", rule="loss/spikes"))
    paths = sources({"a": (Run("a"),), "b": (Run("b"),)}, verdicts)
    report = audit(paths, ALL, Terms(stop_at_first=True))
    assert len(report.runs) == 1
    assert [f.verdict.value for f in report.runs[0].findings] == ["PASS", "FAIL"]
    assert report.summary.failed == 1
    assert "1 more" in report.notes[0]


def test_a_report_of_thousands_of_runs_keeps_few_series(sources):
    import numpy as np

    def series(name, first, last):
        iterations = np.arange(first, last + 1, dtype=np.int64)
        return Series(name, iterations, np.ones(len(iterations)))

    whole = Run(
        "a",
        series={
            n: series(n, *bounds)
            for n, bounds in {
                "total_loss": (5, 9),
                "lr": (6, 8),
                "time": (1, 8),
                "bbox/AP": (6, 12),
                "x": (6, 8),
            }.items()
        },
    )
    (judged,) = audit(sources({"a": (whole,)}, (finding("PASS"),)), ALL).runs
    assert set(judged.run.series) == {"total_loss", "time", "bbox/AP"}
    assert judged.run.first_iteration == whole.first_iteration
    assert judged.run.last_iteration == whole.last_iteration


class Plan:
    """As much of a plan as the pipeline looks at."""

    command = ("python",)
    phases = ()
    early_end = True
    confirm = False
    verify = False

    def __init__(self, folder, **entry):
        self.folder = folder
        self.entry = {"config": str(folder / "config.yaml")} | entry


@pytest.fixture
def training(monkeypatch, tmp_path):
    """Runs the pipeline on a training that ends as told."""

    def use(ending, end=None, events=(), lines=(), phases=(), findings=(), **entry):
        def launch(plan, on_record, on_line, *, enough):
            on_record({"t": "begin"})
            for line in lines:
                on_line(line)
            if end:
                on_record({"t": "end", **end})
            return ending

        monkeypatch.setattr("d2check.training.launch", launch)
        monkeypatch.setattr(
            pipeline.sources, "read", lambda folder: (Run("out", ending=ending, events=events),)
        )
        monkeypatch.setattr(fleet, "judge", lambda rules, run: findings or (finding("PASS"),))
        monkeypatch.chdir(tmp_path)
        plan = Plan(tmp_path / "runs", **entry)
        plan.phases = phases
        return pipeline.run(plan, ())

    return use


def crashed(stage, error, message):
    return Ending(EndingKind.CRASHED, error=error, message=message, stage=stage)


def test_a_run_tells_how_to_replay_it_and_what_was_turned_off(training):
    off = Event("neutralised", "checkpoints: none are written")
    report = training(Ending(EndingKind.STOPPED), events=(off, off))
    assert report.replay == "d2check audit runs"
    assert report.neutralised == ("checkpoints: none are written",)
    assert report.exit_code == 0


def test_what_a_full_disk_has_kept_out_of_the_run_folder_is_in_the_report(training):
    lines = ("iter 1", "d2check: not written: ending.json: No space left on device")
    report = training(Ending(EndingKind.STOPPED), lines=lines)
    assert report.notes == ("not written: ending.json: No space left on device",)


@pytest.mark.parametrize(
    ("names", "iterations", "told"), [(None, 50, True), (None, None, False), (("ramp",), 50, False)]
)
def test_a_run_of_a_length_that_was_asked_for_says_that_it_tried_no_ramp(
    training, names, iterations, told
):
    report = training(Ending(EndingKind.STOPPED), phases=plan_phases(names, iterations, None))
    assert any("no ramp" in note and "--phases" in note for note in report.notes) is told


@pytest.mark.parametrize(
    ("kind", "proposed", "code"),
    [
        ("command", 0.0025, "cfg.SOLVER.BASE_LR = 0.0025"),
        ("command", (60, 80), "cfg.SOLVER.BASE_LR = (60, 80)"),
        ("command", "BN", "cfg.SOLVER.BASE_LR = 'BN'"),
        ("config", 0.0025, None),
    ],
)
def test_a_script_that_sets_its_config_in_code_is_told_how_a_fix_is_written_there(
    training, kind, proposed, code
):
    fix = Fix("the linear rule", overrides=(Override("SOLVER.BASE_LR", 0.02, proposed),))
    wrong = finding("WARN", fixes=(Fix("look", action="Look"), fix))
    report = training(Ending(EndingKind.STOPPED), kind=kind, findings=(wrong,))
    assert [note.rpartition("that is ")[2] for note in report.notes] == ([code] if code else [])


def test_an_interrupted_training_is_judged_and_is_exit_2(training):
    assert training(Ending(EndingKind.INTERRUPTED)).exit_code == 2


@pytest.mark.parametrize(
    ("wanted", "tried"),
    [("wants_confirmation", "confirm_ramp"), ("wants_lower_rate", "try_lower_rate")],
)
def test_ctrl_c_in_a_further_training_ends_the_whole_check(training, monkeypatch, wanted, tried):
    def ended(*_, **__):
        raise Interrupted

    monkeypatch.setattr(Plan, "verify", True)
    monkeypatch.setattr(verify, "prove", lambda *_, **__: pytest.fail("it went on"))
    monkeypatch.setattr(verify, "wants_lower_rate", lambda *_: False)
    monkeypatch.setattr(verify, wanted, lambda *_: True)
    monkeypatch.setattr(verify, tried, ended)
    report = training(Ending(EndingKind.STOPPED))
    assert report.exit_code == 2
    assert report.notes == ("interrupted while the ramp was tried once more",)


def test_an_unknown_key_names_the_nearest(training):
    ending = crashed("config", "KeyError", "Non-existent config key: SOLVER.BASE_LRR")
    with pytest.raises(InputError) as caught:
        training(ending, {"key": "SOLVER.BASE_LRR"})
    assert caught.value.where == "runs/config.yaml"
    assert "Did you mean SOLVER.BASE_LR?" in caught.value.todo


def test_an_unknown_key_without_a_likeness_still_says_what_to_do(training):
    with pytest.raises(InputError) as caught:
        training(crashed("config", "KeyError", "x"), {"key": "ZZZ.QQQQ"}, overrides=["ZZZ.QQQQ", 1])
    assert caught.value.where == "override"
    assert "None" not in str(caught.value)


@pytest.mark.parametrize("module", ["torch", "detectron2"])
def test_a_python_without_what_a_training_needs_says_how_to_name_another(training, module):
    ending = crashed("setup", "ModuleNotFoundError", f"No module named '{module}'")
    with pytest.raises(InputError) as caught:
        training(ending)
    assert f"has no {module}" in caught.value.found
    assert "--python" in caught.value.todo


def test_a_data_set_that_nobody_registered_says_how_to(training):
    ending = crashed("dataset", "KeyError", "Dataset 'mine' is not registered! Available are: a")
    with pytest.raises(UsageError, match="--setup FILE"):
        training(ending, {"registered": ["coco_2017_train"]})


@pytest.mark.parametrize(
    "ending",
    [
        crashed("setup", "ImportError", "cannot import name 'x' from 'my_project'"),
        crashed("setup", "ModuleNotFoundError", "No module named 'albumentations'"),
        crashed("setup", "ModuleNotFoundError", "No module named 'detectron2.projects'"),
        crashed("dataset", "FileNotFoundError", "annotations.json"),
        crashed("build", "AttributeError", "FOO"),
        crashed("train", "AssertionError", "x"),
        Ending(EndingKind.KILLED, error="SIGKILL"),
        Ending(EndingKind.HUNG),
    ],
)
def test_what_goes_wrong_in_the_users_own_code_is_a_finding(training, ending):
    report = training(ending, {}, setup=["my_project.data"])
    assert report.runs[0].run.ending == ending


def test_an_audit_of_rows_loads_neither_the_launcher_nor_other_readers(tmp_path):
    rows = (f'{{"iteration": {19 + 20 * n}, "total_loss": {3 - 0.01 * n}}}\n' for n in range(100))
    (tmp_path / "metrics.json").write_text("".join(rows))
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from d2check import fleet, pipeline\n"
        "report = pipeline.audit([Path(sys.argv[1])], fleet.RuleChoice())\n"
        "assert report.runs[0].findings\n"
        "rooms = ('d2check.harness', 'd2check.verify', 'd2check.sources.log_txt',"
        " 'd2check.sources.tfevents')\n"
        "print([name for name in sys.modules if name.startswith(rooms)])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "metrics.json")]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"
