"""d2check from Python: what is given, and what is refused with a reason."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import d2check
from d2check import api, given
from d2check.errors import InputError
from d2check.model import Verdict

RUNS = Path(__file__).parent / "runs"


def sources_of(report):
    return [Path(one.run.source).name for one in report.runs]


def test_an_audit_takes_a_path_or_several_in_any_form(tmp_path):
    row = '{{"iteration": {}, "total_loss": 1.0}}\n'
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        rows = "".join(row.format(20 * n + 19) for n in range(5))
        (tmp_path / name / "metrics.json").write_text(rows)
    a, b = tmp_path / "a", tmp_path / "b"
    assert len(d2check.audit(a).runs) == 1
    two = sources_of(d2check.audit(a, b))
    assert len(two) == 2
    for asked in ([a, b], (str(a), b), {a: 1, b: 2}.keys(), (path for path in (a, str(b)))):
        assert sources_of(d2check.audit(asked)) == two
    assert sources_of(d2check.audit([str(a)], b)) == two


@pytest.mark.parametrize("wrong", [7, b"out", None, [["a"]], ["a", 3], {"a": 1}])
def test_an_audit_of_what_is_no_path_is_refused(wrong):
    with pytest.raises(InputError, match=r"paths: .*Expected a path or several"):
        d2check.audit(wrong)


def test_an_audit_of_nothing_is_refused():
    with pytest.raises(InputError, match="Name a folder"):
        d2check.audit()
    with pytest.raises(InputError, match="Name a folder"):
        d2check.audit([])


def test_a_folder_of_rules_may_be_given_alone():
    choice = api._choice("mine", None, "loss/*")
    assert choice.folders == (Path("mine"),)
    assert api._choice([Path("a"), "b"], None, "").folders == (Path("a"), Path("b"))


@pytest.fixture
def planned(monkeypatch):
    """What the library would plan, without a training."""
    asked = {}

    def plan(*positional, **named):
        asked.update(named, positional=positional)
        raise StopIteration

    monkeypatch.setattr(api, "plan_run", plan)
    monkeypatch.setattr(api, "plan_command", plan)

    def call(function, *positional, **named):
        with pytest.raises(StopIteration):
            function(*positional, **named)
        return asked

    return call


def test_overrides_may_be_a_mapping_or_hold_numbers(planned):
    wanted = ["SOLVER.BASE_LR", "0.001", "SOLVER.STEPS", "(60, 80)", "MODEL.MASK_ON", "False"]
    mapping = {"SOLVER.BASE_LR": 0.001, "SOLVER.STEPS": (60, 80), "MODEL.MASK_ON": False}
    assert planned(api.run, "c.yaml", mapping)["positional"][1] == wanted
    flat = [each for pair in mapping.items() for each in pair]
    assert planned(api.run, "c.yaml", flat)["positional"][1] == wanted
    assert planned(api.run, "c.yaml", wanted)["positional"][1] == wanted


def test_overrides_of_a_lazy_config_are_key_and_value_in_one(planned):
    asked = planned(api.run, "c.py", {"optimizer.lr": 1e-4, "train.init_checkpoint": ""})
    assert asked["positional"][1] == ["optimizer.lr=0.0001", "train.init_checkpoint="]


LAZY_VALUES = [
    (None, "null"),
    (False, "False"),
    ((1, 2.5), "[1, 2.5]"),
    ([("a b", None), []], "[['a b', null], []]"),
    ({"low": 1, "steps": (60, 80)}, "{low: 1, steps: [60, 80]}"),
    ([Path("a/b")], "['a/b']"),
]


@pytest.mark.parametrize(("value", "written"), LAZY_VALUES)
def test_values_of_a_lazy_config_are_written_as_hydra_reads_them(planned, value, written):
    assert planned(api.run, "c.py", {"key": value})["positional"][1] == [f"key={written}"]
    parser = pytest.importorskip("hydra.core.override_parser.overrides_parser")
    (read,) = parser.OverridesParser.create().parse_overrides([f"key={written}"])
    assert read.value() == json.loads(json.dumps(value, default=str))


def test_one_setup_and_one_phase_need_no_list(planned):
    asked = planned(api.run, Path("c.yaml"), setup="data.py", phases="loader, ramp")
    assert asked["setup"] == ["data.py"]
    assert asked["phases"] == ["loader", "ramp"]


def test_the_words_of_a_command_may_be_paths_and_numbers(planned):
    asked = planned(api.run_command, ["python", Path("t.py"), "--num-gpus", 2])
    assert asked["positional"][0] == ["python", "t.py", "--num-gpus", "2"]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: api.run(["c.yaml"]), "config: ['c.yaml'] (list). Expected one path"),
        (lambda: api.run("c.yaml", "SOLVER.BASE_LR 1"), "overrides: 'SOLVER.BASE_LR 1' (str)"),
        (lambda: api.run("c.yaml", setup=[3, None]), "setup: None (NoneType)"),
        (lambda: api.run("c.yaml", iterations="100"), "iterations: '100' (str). Expected a whole"),
        (lambda: api.run("c.yaml", num_gpus=True), "num_gpus: True (bool). Expected a whole"),
        (lambda: api.run("c.yaml", budget_s="5m"), "budget_s: '5m' (str). Expected a number of"),
        (lambda: api.run("c.yaml", phases=3), "phases: 3 (int). Expected a name or several"),
        (lambda: api.run("c.yaml", device=0), "device: 0 (int). Expected one text"),
        (lambda: api.run("c.yaml", rules=5), "rules: 5 (int). Expected a path or several"),
        (lambda: api.run_command("python t.py"), "command: 'python t.py' (str). Expected a list"),
    ],
)
def test_what_is_meant_otherwise_is_refused_with_what_was_expected(call, says, monkeypatch):
    monkeypatch.setattr(api, "plan_run", lambda *a, **k: None)
    monkeypatch.setattr(api, "replace", lambda plan, **k: plan)
    with pytest.raises(InputError, match=re.escape(says)):
        call()


def test_a_long_value_is_cut_in_the_words():
    with pytest.raises(InputError, match=r"'x+\.\.\. \(str\)"):
        given.words("command", "x" * 500)


def test_an_audit_of_one_of_our_runs_says_something():
    report = d2check.audit([RUNS / "crash-then-fresh-start"])
    assert any(f.verdict is not Verdict.SKIP for one in report.runs for f in one.findings)
