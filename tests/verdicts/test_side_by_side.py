"""What the benchmark says of several doctors must itself be right."""

from __future__ import annotations

import json
import sys

import curves
import ensemble
import numpy as np
import pytest
import rivals
import shapes
from scipy import stats
from side_by_side import Said, show_confusion, show_doctors, wilson


@pytest.mark.parametrize(("hits", "runs"), [(0, 40), (3, 150), (150, 150)])
def test_the_interval_is_wilsons(hits, runs):
    known = stats.binomtest(hits, runs).proportion_ci(method="wilson")
    assert wilson(hits, runs) == pytest.approx((known.low, known.high), abs=1e-4)


def said(cls, level, expected, **flags):
    return Said(cls, level, frozenset(expected), {d: frozenset(f) for d, f in flags.items()})


RUNS = [
    said("healthy", "easy", (), ours=(), theirs=("spikes",)),
    said("healthy", "easy", (), ours=(), theirs=()),
    said("leap", "easy", ("divergence",), ours=("divergence",), theirs=("spikes",)),
    said("leap", "hard", ("divergence",), ours=(), theirs=("divergence",)),
    said("leap", "hard", ("divergence",), ours=("divergence",)),
]


def test_a_doctor_is_judged_on_the_runs_that_it_saw(capsys):
    show_doctors(RUNS, ["ours", "theirs"], ["easy", "hard"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["healthy", "0.0", "50.0"] in lines
    assert ["leap", "67", "/", "67", "100", "/", "50"] in lines
    assert ["100", "50", "0", "100"] in lines
    assert ["runs", "5", "4"] in lines


def test_the_confusion_shows_what_was_called_what(capsys):
    show_confusion(RUNS, "theirs")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["healthy,", "easy", "2", "50", ".", "50"] in lines
    assert ["leap,", "hard", "1", "0", "100", "."] in lines


def test_the_ensemble_is_tuned_on_development_runs_and_finds_what_is_plain(monkeypatch):
    monkeypatch.setitem(ensemble.RUNS, "short", 2)
    with np.errstate(all="ignore"):
        chosen = ensemble.tune(curves, "short")
    assert {one.flag for one in chosen} >= {"not_decreasing", "divergence", "spikes"}
    rows = np.arange(300)
    noise = np.exp(0.05 * np.random.default_rng(0).standard_normal(300))
    flat, falling = 2.0 * noise, 2.0 * noise * (1 + rows / 60) ** -0.7
    assert "not_decreasing" in ensemble.flags(chosen, flat, 1)
    assert "divergence" in ensemble.flags(chosen, falling * np.where(rows > 200, 5.0, 1.0), 1)
    assert "not_decreasing" not in ensemble.flags(chosen, falling, 1)
    assert ensemble.flags(chosen, np.full(300, np.nan), 1) == {"nan"}


def test_rivals_get_the_names_that_they_know(tmp_path):
    run = curves.make("leap", "easy", "short", 1)
    rows = rivals.write_plain(run, tmp_path / "run.jsonl").read_text().splitlines()
    first = json.loads(rows[0])
    assert len(rows) == len(run["it"])
    assert first["loss"] == run["m"]["total_loss"][0]
    assert {"step", "step_time", "data_time", "lr", "max_memory_allocated"} <= first.keys()


def test_a_rival_that_is_not_there_has_no_version(tmp_path):
    assert rivals.version_in(sys.executable, "no_such_doctor") is None
    assert rivals.version_in(str(tmp_path / "no-python"), "trainproof") is None


def test_findings_of_a_rival_are_read_file_by_file(tmp_path, monkeypatch):
    package = tmp_path / "trainproof"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "epoch.py").write_text(
        "def check_epoch(path):\n"
        "    sick = 'sick' in path\n"
        "    return {'findings': [{'id': 'TP-DIVERGE' if sick else 'TP-PASS',\n"
        "                          'level': 'FAIL' if sick else 'PASS'}]}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    files = [tmp_path / "sick.jsonl", tmp_path / "sound.jsonl"]
    found = rivals.judge_files(sys.executable, "trainproof", files)
    levels = rivals.RIVALS["trainproof"][1]
    assert [rivals.flags_of(f, levels) for f in found] == [{"divergence"}, set()]


def test_a_rival_that_stops_is_not_scored(tmp_path):
    with pytest.raises(SystemExit, match="no_such_doctor stopped"):
        rivals.judge_files(sys.executable, "no_such_doctor", [tmp_path / "run.jsonl"])


@pytest.mark.parametrize("cls", shapes.CLASSES)
def test_every_shape_is_made_from_its_seed(cls):
    run, again = (shapes.make(cls, "medium", "long", 3) for _ in range(2))
    total = run["m"]["total_loss"]
    assert np.isfinite(total).all()
    assert (total > 0).all()
    assert np.array_equal(total, again["m"]["total_loss"])
    assert len(run["it"]) == len(total)
    assert set(np.diff(run["it"])) <= {20, 100}


def test_shapes_come_in_every_world():
    runs = [shapes.make("healthy", "easy", "short", seed)["truth"]["world"] for seed in range(60)]
    assert {world.model for world in runs} == set(shapes.MODELS)
    assert {world.noise for world in runs} == {0.6, 1.0, 1.5}
    assert len({world.phi for world in runs}) == 4
