"""One training, told by its rows, its log or its folder, gets no verdicts that contradict."""

import importlib.util
import itertools
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from d2check import sources
from d2check.errors import InputError
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


def test_lines_torn_out_of_a_log_prove_no_more_than_the_same_rows(tmp_path):
    run = curves.make("healthy", curves.LEVELS[0], "long", 700)
    folder = written.write(run, tmp_path / "out")
    torn = tmp_path / "piece.log"
    lines = written.write_log(run, tmp_path / "log.txt").read_text().splitlines()
    torn.write_text("\n".join([line for line in lines if "total_loss:" in line][:40]))
    rows = tmp_path / "metrics.json"
    rows.write_bytes(b"".join((folder / "metrics.json").read_bytes().splitlines(True)[:40]))
    for path in (torn, rows):
        (told,) = verdicts(path)
        assert told["loss/non-finite"].verdict is Verdict.SKIP
        assert "is a number" in told["loss/non-finite"].reason


@pytest.mark.parametrize("folder", RUNS, ids=lambda path: path.name)
def test_the_rows_of_a_real_training_agree_with_its_folder(folder):
    told = [verdicts(path) for path in (folder / "metrics.json", folder)]
    assert contradictions(told) == []


# ------------------------------------------------------------ whole real outputs, where they are

CORPUS = Path(os.environ.get("D2CHECK_CORPUS") or "/nonexistent")
needs_corpus = pytest.mark.skipif(
    not CORPUS.is_dir(),
    reason="needs the real outputs, which are not part of the project: set D2CHECK_CORPUS to them",
)
OF_THE_FILES = {"ending/runs-mixed"}  # tells of what else a file holds, not of the training


def judged(path):
    """(run, rule -> finding) of each training; none of a file that cannot be read alone."""
    try:
        runs = sources.read(path)
    except InputError:
        return []
    rules = choose(RuleChoice()).rules
    return [(run, {f.rule: f for f in judge_run(rules, run).findings}) for run in runs]


def is_same(one, other):
    """Whether two sources show most losses of one training alike, in the digits of a console."""
    mine, theirs = (run.series.get("total_loss") for run in (one, other))
    if not mine or not theirs:
        return False
    for shift in (0, 1, -1):  # some loops print the number of iterations done
        at, i, j = np.intersect1d(mine.iterations, theirs.iterations + shift, return_indices=True)
        alike = np.isclose(mine.values[i], theirs.values[j], rtol=2e-3, atol=6e-4)
        if len(at) >= max(1, 0.5 * min(len(mine), len(theirs))) and alike.mean() > 0.8:
            return True
    return False


@needs_corpus
def test_no_source_of_a_whole_real_output_fails_what_another_one_passes():
    told, pairs = [], 0
    for line in (CORPUS / "index.jsonl").read_text().splitlines():
        folder = CORPUS / json.loads(line)["id"]
        by_source = {path.name: judged(path) for path in (folder, *sorted(folder.iterdir()))}
        for (name, mine), (other, theirs) in itertools.permutations(by_source.items(), 2):
            for (run, one), (same, two) in itertools.product(mine, theirs):
                if not is_same(run, same):
                    continue
                pairs += 1
                told += [
                    f"{folder.name}: {rule} of {name} {run.segment} and {other} {same.segment}: "
                    f"{one[rule].message} / {two[rule].message}"
                    for rule in one.keys() - OF_THE_FILES
                    if one[rule].verdict is Verdict.PASS and two[rule].verdict is Verdict.FAIL
                ]
    assert told == []
    assert pairs > 200
