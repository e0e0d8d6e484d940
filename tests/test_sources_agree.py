"""One training, told by its rows, its log or its folder, gets no verdicts that contradict."""

import importlib.util
import itertools
import sys
from pathlib import Path

import pytest

from d2check import sources
from d2check.fleet import RuleChoice, choose, judge_run
from d2check.model import Verdict

ROOT = Path(__file__).parents[1]
RUNS = sorted(path for path in (ROOT / "tests/runs").iterdir() if (path / "metrics.json").is_file())


def load(name):
    path = ROOT / f"benchmarks/verdicts/{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


curves, written = load("curves"), load("written")

CLASSES = [
    "healthy", "healthy_dip", "healthy_restart", "healthy_decay", "flat", "late_plateau", "climb",
    "leap", "head_stuck", "loader_steady", "slows_down", "no_warmup", "other_rate",
    "unscaled_rate", "truncated",
]  # fmt: skip


def verdicts(path):
    """Of each training in a path: rule -> verdict."""
    rules = choose(RuleChoice()).rules
    return [{f.rule: f for f in judge_run(rules, run).findings} for run in sources.read(path)]


def contradictions(told):
    """Rules that one source passes and another one fails, of trainings in the same order."""
    return [
        f"{rule}: {one[rule].message} / {other[rule].message}"
        for first, second in itertools.permutations(told, 2)
        for one, other in zip(first, second, strict=True)
        for rule in one
        if one[rule].verdict is Verdict.PASS and other[rule].verdict is Verdict.FAIL
    ]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("cls", CLASSES)
def test_rows_log_and_folder_of_one_training_agree(tmp_path, cls, seed):
    run = curves.make(cls, curves.LEVELS[seed % 3], "long", 700 + seed)
    folder = written.write(run, tmp_path / "out")
    rows_alone = tmp_path / "metrics.json"
    rows_alone.write_bytes((folder / "metrics.json").read_bytes())
    log_alone = written.write_log(run, tmp_path / "log.txt")
    log = (folder / "log.txt").write_bytes(log_alone.read_bytes())
    assert log
    told = [verdicts(path) for path in (rows_alone, log_alone, folder)]
    assert [len(runs) for runs in told] == [1, 1, 1]
    assert contradictions(told) == []


@pytest.mark.parametrize("folder", RUNS, ids=lambda path: path.name)
def test_the_rows_of_a_real_training_agree_with_its_folder(folder):
    told = [verdicts(path) for path in (folder / "metrics.json", folder)]
    assert contradictions(told) == []
