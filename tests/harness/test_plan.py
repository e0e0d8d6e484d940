from __future__ import annotations

import contextlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2check.errors import InputError, UsageError
from d2check.harness import validate
from d2check.harness.phases import DEFAULT_ITERATIONS, QUICK_RAMP
from d2check.harness.plan import parse_duration_s, plan_command, plan_run


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mask rcnn.yaml"
    path.write_text("_BASE_: base.yaml\nSOLVER:\n  STEPS: !!python/tuple [1, 2]\n")
    return path


def refused(call, *args, **kwargs):
    with pytest.raises(UsageError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


def test_default_plan_runs_a_fixed_number_of_iterations_as_configured(config, tmp_path):
    plan = plan_run(config)
    assert plan.budget_s is None
    assert [(p.name, p.iterations) for p in plan.phases] == [
        ("loader", 0),
        ("as-configured", DEFAULT_ITERATIONS),
        ("worst-batch", 0),
        ("ramp", QUICK_RAMP.iterations),
    ]
    assert plan.iterations == DEFAULT_ITERATIONS + QUICK_RAMP.iterations
    assert plan.folder.parent == tmp_path / "d2check-runs"
    assert plan.folder.name.endswith("Z-mask-rcnn")
    assert plan.folder.is_dir()
    assert not any(plan.folder.iterdir())
    assert plan.command[1:] == ("-u", plan.command[2])
    assert plan.command[2].endswith(os.path.join("d2check", "probe", "main.py"))
    assert plan.cwd == tmp_path


def test_plan_file_holds_what_the_probe_is_documented_to_read(config, tmp_path):
    setup = tmp_path / "register.py"
    setup.write_text("")
    plan = plan_run(
        config,
        ["SOLVER.BASE_LR", "0.01"],
        setup=["register.py", "my_project.data"],
        trainer="my_project.train:Trainer",
        iterations=20,
        budget_s=300.0,
        phases=["ramp", "as-configured"],
        seed=1,
        device="cpu",
    )
    plain = plan.to_plain()
    assert plain.pop("folder") == str(plan.folder)
    assert plain == {
        "schema": 1,
        "iterations": 20 + QUICK_RAMP.iterations,
        "budget_s": 300.0,
        "phases": [
            {"name": "as-configured", "iterations": 20},
            {"name": "ramp", "iterations": QUICK_RAMP.iterations, "climb": QUICK_RAMP.climb},
        ],
        "grad_norm_every": 10,
        "neutralise": True,
        "entry": {
            "kind": "config",
            "config": str(config),
            "overrides": ["SOLVER.BASE_LR", "0.01"],
            "setup": [str(setup), "my_project.data"],
            "trainer": "my_project.train:Trainer",
            "seed": 1,
            "device": "cpu",
            "num_gpus": 1,
            "configured_for": None,
        },
    }


def test_who_says_how_long_to_train_gets_no_ramp_unasked(config):
    plan = plan_run(config, iterations=20)
    assert plan.iterations == 20
    assert "ramp" not in [phase.name for phase in plan.phases]


@pytest.mark.parametrize("phases", [["warmup"], ["loader"], [""], []])
def test_phases_that_are_none_or_train_nothing_are_refused(config, phases):
    with pytest.raises(UsageError, match="--phases"):
        plan_run(config, phases=phases)


def test_budget_alone_sets_no_number_of_iterations(config):
    assert plan_run(config, budget_s=60.0).iterations is None


def test_runs_started_in_the_same_second_get_folders_of_their_own(config):
    with ThreadPoolExecutor(8) as pool:
        folders = [plan.folder for plan in pool.map(lambda _: plan_run(config), range(16))]
    assert len(set(folders)) == 16


def test_named_folder_may_be_new_or_empty(config, tmp_path):
    assert plan_run(config, output=Path("a/b")).folder == tmp_path / "a" / "b"
    (tmp_path / "empty").mkdir()
    assert plan_run(config, output=Path("empty")).folder == tmp_path / "empty"


def test_named_folder_with_content_is_refused_and_left_alone(config, tmp_path):
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    (earlier / "plan.json").write_text("{}")
    assert "holds an earlier run" in refused(plan_run, config, output=earlier)
    (earlier / "plan.json").rename(earlier / "notes.txt")
    message = refused(plan_run, config, output=earlier)
    assert "holds 1 files or folders. Expected a new or an empty folder" in message
    assert "--output" in message
    assert [p.name for p in earlier.iterdir()] == ["notes.txt"]


def test_file_in_place_of_the_run_folder_is_refused(config, tmp_path):
    (tmp_path / "file").write_text("")
    assert "it is a file" in refused(plan_run, config, output=tmp_path / "file")
    (tmp_path / "d2check-runs").write_text("")
    assert "it is a file" in refused(plan_run, config)


def test_folder_without_permission_is_refused(config, tmp_path, monkeypatch):
    # Not by the file's mode: the super-user may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK | os.X_OK)
    assert "no permission to write in it" in refused(plan_run, config, output=tmp_path / "locked")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"iterations": 0}, "--iterations 0"),
        ({"budget_s": 0.0}, "--budget 0"),
        ({"budget_s": float("nan")}, "--budget nan"),
        ({"trainer": "Trainer"}, "expected module:Class"),
        ({"device": "GPU 0"}, "expected cpu, cuda or cuda:N"),
        ({"seed": -1}, "--seed -1"),
        ({"setup": ["missing.py"]}, "there is no such file"),
        ({"setup": ["."]}, "it is a folder"),
        ({"setup": ["not a module"]}, "there is no such file"),
        ({"interpreter": "no-such-python"}, "there is no such program"),
        ({"interpreter": "./no/python"}, "there is no such program"),
        ({"interpreter": "."}, "--python .: it is a folder"),
        ({"overrides": ["SOLVER.BASE_LR"]}, "Write SOLVER.BASE_LR VALUE"),
        ({"overrides": ["SOLVER.BASE_LR=0.1"]}, "Write SOLVER.BASE_LR 0.1"),
        ({"overrides": ["--lr", "0.1"]}, "expected a config key"),
    ],
)
def test_mistake_is_told_and_leaves_no_folder_behind(config, tmp_path, options, words):
    assert words in refused(plan_run, config, **options)
    assert not (tmp_path / "d2check-runs").exists()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "it is empty"),
        (b"  \n\n", "it is empty"),
        (b"# only a comment\n", "holds nothing but comments"),
        (b"\x89PNG\r\n\x1a\n\0\0", "it is not text"),
        (b"A: 1\0\n", "it is not text"),
        (b"- a\n- b\n", "holds a list"),
        (b"just words\n", "holds a single text"),
        (b"A: 1\nB: [1, 2\nC: 3\n", "c.yaml:3:2: not YAML"),
        (b"A: 1\n---\nB: 2\n", "not YAML"),
    ],
)
def test_what_cannot_be_a_config_is_refused_with_its_place(tmp_path, content, found):
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    message = refused(validate.check_config_file, path)
    assert message.startswith(f"{path}")
    assert found in message
    assert "Expected a Detectron2 config" in message


def test_config_that_is_missing_or_a_folder_is_refused(tmp_path):
    assert "no such file" in refused(validate.check_config_file, tmp_path / "none.yaml")
    assert "it is a folder" in refused(validate.check_config_file, tmp_path)
    assert "not a regular file" in refused(validate.check_config_file, Path(os.devnull))
    assert "null" in refused(validate.check_config_file, Path("a\0b.yaml"))


def test_config_with_byte_order_mark_and_python_tags_is_accepted(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xef\xbb\xbfA: !!python/object/apply:eval ['1 + 1']\n")
    validate.check_config_file(path)


def test_lazy_config_is_not_parsed_and_takes_key_value_overrides(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "c.py"
    path.write_text("train = dict(max_iter=10)\n")
    assert plan_run(path, ["train.max_iter=5"]).to_plain()["entry"]["config"] == str(path)
    assert "key=value" in refused(plan_run, path, ["train.max_iter", "5"])


def test_interpreter_keeps_its_link_because_an_environment_is_known_by_it(tmp_path):
    link = tmp_path / "python"
    link.symlink_to(sys.executable)
    assert validate.find_interpreter(str(link)) == str(link)


def test_interpreter_that_is_not_executable_is_refused(tmp_path):
    path = tmp_path / "python"
    path.write_text("")
    with pytest.raises(InputError, match="it is not executable"):
        validate.find_interpreter(str(path))


def test_active_environment_is_taken_when_this_python_cannot_train(tmp_path, monkeypatch):
    monkeypatch.setattr(validate.importlib.util, "find_spec", lambda name: None)
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    assert validate.default_interpreter({"VIRTUAL_ENV": str(tmp_path)}) == str(python)
    assert validate.default_interpreter({"PATH": str(python.parent)}) == str(python)
    assert validate.default_interpreter({"PATH": ""}) == sys.executable


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("5m", 300), ("1h30m", 5400), ("1.5h", 5400), ("300", 300), (" 2 M ", 120)],
)
def test_duration_is_read_in_seconds(text, seconds):
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0m", "-5m", "5 minutes", "m", "1m1h", "nan", "inf"])
def test_what_is_no_duration_is_refused(text):
    assert "Write 90s, 5m or 1h30m" in refused(parse_duration_s, text)


@given(st.integers(0, 99), st.integers(0, 99), st.integers(1, 99))
def test_duration_adds_its_parts(hours, minutes, seconds):
    assert (
        parse_duration_s(f"{hours}h{minutes}m{seconds}s") == (hours * 60 + minutes) * 60 + seconds
    )


@given(st.text(max_size=30))
def test_any_text_is_a_duration_above_zero_or_refused(text):
    with contextlib.suppress(UsageError):
        assert parse_duration_s(text) > 0


@pytest.mark.parametrize(
    ("choices", "word"),
    [
        ({"num_gpus": 0}, "--num-gpus 0"),
        ({"num_gpus": 2, "configured_for": 2}, "more GPUs than the 2"),
    ],
)
def test_numbers_of_gpus_that_make_no_sense_are_refused(config, choices, word):
    with pytest.raises(UsageError, match=word):
        plan_run(config, **choices)


def test_a_share_of_the_batch_is_not_driven_to_the_whole_ones_peak_rate(config):
    plan = plan_run(config, configured_for=8)
    assert [phase.name for phase in plan.phases] == ["loader", "as-configured", "worst-batch"]


def test_a_command_is_named_by_its_script_and_needs_no_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train_net.py").write_text("")
    plan = plan_command([sys.executable, "-u", "train_net.py", "--num-gpus", "2"], iterations=5)
    assert plan.folder.name.endswith("-train_net")
    assert plan.command == (sys.executable, "-u", "train_net.py", "--num-gpus", "2")
    assert plan.entry["kind"] == "command"
    module = plan_command([sys.executable, "-m", "tools.train"])
    assert module.folder.name.endswith("-train")
