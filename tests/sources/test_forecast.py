"""What a run folder tells of the memory of batches to come."""

from __future__ import annotations

import json

import numpy as np
import pytest

from d2check.probe import wire
from d2check.rules.judge import judge_rule
from d2check.rules.load import load_rules, shipped_rules
from d2check.sources.run_folder import read_run_folder

WEIGHTS = (900.0, 40.0, 900.0, 6.0, 4.0)
AREA = 800 * 1344


def need_mib(images, pixels, objects, most):
    terms = (1, images, images * pixels / 1e6, objects * pixels / 1e6, most * pixels / 1e6)
    return sum(w * t for w, t in zip(WEIGHTS, terms, strict=True))


def iteration(i, rng):
    width, objects = int(rng.integers(27, 43)) * 32, int(rng.integers(12, 40))
    most = min(objects, 15)
    peak = need_mib(4, 800 * width, objects, most)
    memory = {"allocated_mib": 900, "reserved_mib": peak + 200, "peak_allocated_mib": peak,
              "peak_reserved_mib": peak + 200}  # fmt: skip
    batch = {"images": 4, "instances": objects, "most_instances": most, "max_height": 800,
             "max_width": width, "padded_pixels": 800 * width}  # fmt: skip
    return {"t": "iter", "i": i, "clock": 1e9 + i, "scalars": {"lr": 0.01}, "memory": memory,
            "batch": batch}  # fmt: skip


def trial(images, share, usual, most, available):
    objects = most + (images - 1) * usual
    told = {"t": "trial", "images": images, "instances": objects, "most_instances": most,
            "max_height": 800, "max_width": 1344, "padded_pixels": int(share * AREA)}  # fmt: skip
    peak = need_mib(images, share * AREA, objects, most)
    if peak > available:
        return {**told, "held_mib": 900.0, "oom": True}
    peaks = {"held_mib": 900.0, "peak_allocated_mib": peak, "peak_reserved_mib": peak + 50}
    return {**told, **peaks}


def write(folder, *, total=4600.0, heavy=60, max_iter=90_000, tried=True, note=None, **data):
    """A folder of a training on a GPU with so much memory."""
    rng = np.random.default_rng(0)
    facts = {"device": "cuda", "gpu_total_mib": total, "gpu_other_mib": 300.0, "max_iter": max_iter,
             "images_per_batch": 8}  # fmt: skip
    records = [
        {
            "t": "begin",
            "schema": 1,
            "rank": 0,
            "world_size": 2,
            "facts": {**facts, "start_iter": 0},
        },
        {"t": "phase", "name": "as-configured", "first_iteration": 0},
        *(iteration(i, rng) for i in range(120)),
    ]
    if tried:
        there = total - 300
        sizes = [(4, 0.24, 7, 7), (2, 1, 7, 7), (4, 0.49, 7, 7), (4, 0.49, 7, heavy), (4, 1, 7, 7),
                 (4, 1, 7, heavy), (4, 1, heavy, heavy)]  # fmt: skip
        records += [trial(*one, there) for one in sizes]
        worst = records[-1]
        outcome = (
            {"worst_batch_oom": True}
            if worst.get("oom")
            else {"worst_batch_mib": worst["peak_reserved_mib"]}
        )
        size = {"worst_batch_height": 800, "worst_batch_width": 1344, "worst_batch_objects": heavy}
        records.append({"t": "facts", "facts": {**size, **outcome}})
    if note:
        records.append(
            {"t": "note", "kind": "phase-skipped", "message": note, "phase": "worst-batch"}
        )
    records.append({"t": "end", "kind": "stopped", "i": 119, "reason": "iterations", "clock": 2e9})
    folder.mkdir(exist_ok=True)
    (folder / wire.RECORDS).write_text("".join(map(wire.encode, records)))
    count = 500
    objects = rng.poisson(7, count)
    objects[44] = heavy
    told = {
        "schema": 1, "images": count, "listed": count, "sampler": "TrainingSampler",
        "sampler_known": True, "grouping": True, "divisibility": 32,
        "transforms": [{"kind": "shortest", "lengths": [800], "range": False, "longest": 1333}],
        "height": rng.integers(400, 500, count).tolist(), "width": [640] * count,
        "objects": objects.tolist(), "weight": [1.0] * count, "named": {"44": "crowd.jpg"},
        **data,
    }  # fmt: skip
    (folder / wire.DATA_SET).write_text(json.dumps(told))
    (folder / wire.CONFIG).write_text("SOLVER: {IMS_PER_BATCH: 8, BASE_LR: 0.01}\n")
    return folder


def judged(folder):
    (run,) = read_run_folder(folder)
    rules = load_rules([shipped_rules()], shipped_examples=False)
    (rule,) = [one for one in rules if one.id == "memory/worst-batch"]
    return run, judge_rule(rule, run).finding


def test_a_largest_batch_that_fits_needs_no_draws(tmp_path):
    run, finding = judged(write(tmp_path / "run", total=24_000.0))
    assert run.facts["overflow_probability"] == 0
    assert finding.verdict.value == "PASS"


def test_batches_that_will_not_fit_fail_with_what_would(tmp_path):
    run, finding = judged(write(tmp_path / "run", total=4600.0))
    assert run.facts["overflow_probability_low"] > 0.99
    assert finding.verdict.value == "FAIL"
    assert "likely" in finding.message
    proposed = {o.key: o.proposed for fix in finding.fixes for o in fix.overrides}
    assert proposed["SOLVER.IMS_PER_BATCH"] == 2 * run.facts["images_per_gpu_that_fit"] < 8


def test_a_crowd_that_never_comes_together_is_a_warning_with_its_chance(tmp_path):
    """Every image with 200 objects is too much; one among others is not."""
    run, finding = judged(write(tmp_path / "run", total=8_000.0, heavy=200))
    assert run.facts["worst_batch_oom"] is True
    assert run.facts["overflow_probability"] < 0.01
    assert finding.verdict.value == "WARN"
    assert "hardly any planned batch" in finding.message or "crowd.jpg" in finding.message
    assert not any(fix.overrides for fix in finding.fixes if "AMP" not in str(fix.overrides))


def test_a_sampler_that_is_not_known_fails_nothing(tmp_path):
    run, finding = judged(write(tmp_path / "run", sampler_known=False))
    assert run.facts["overflow_probability_low"] == 0
    assert finding.verdict.value == "WARN"


def test_iterations_of_several_batches_are_no_measure_of_one(tmp_path):
    folder = write(tmp_path / "run")
    lines = (folder / wire.RECORDS).read_text().splitlines(keepends=True)
    gathered = [x.replace('"images":4', '"images":8') if '"t":"iter"' in x else x for x in lines]
    (folder / wire.RECORDS).write_text("".join(gathered))
    run, finding = judged(folder)
    assert run.facts["overflow_probability_low"] == 0
    assert run.facts["overflow_probability"] > 0.99
    assert finding.verdict.value == "WARN"


def test_the_reason_why_nothing_was_tried_is_told(tmp_path):
    note = "worst-batch: SyncBN makes the GPUs wait for each other"
    folder = write(tmp_path / "run", total=90_000.0, tried=False, note=note)
    (folder / wire.DATA_SET).unlink()
    _, finding = judged(folder)
    assert finding.verdict.value == "SKIP"
    assert "SyncBN" in finding.reason


def test_without_trials_what_the_rows_foretell_may_fail(tmp_path):
    run, finding = judged(write(tmp_path / "run", tried=False, total=4600.0))
    assert run.facts["overflow_probability_low"] > 0.9
    assert finding.verdict.value == "FAIL"


@pytest.mark.parametrize(
    "broken",
    [
        {"height": "tall"},
        {"weight": [1.0]},
        {"weight": [float("nan")] * 500},
        {"objects": [-1] * 500},
        {"named": ["a.jpg"]},
        {"divisibility": None},
        {"transforms": [{"kind": "rotation"}]},
        {"transforms": [{"kind": "shortest"}]},
        {"transforms": 5},
    ],
)
def test_a_broken_file_says_nothing_and_breaks_nothing(tmp_path, broken):
    run, finding = judged(write(tmp_path / "run", **broken))
    assert "overflow_probability" not in run.facts
    assert finding.verdict.value == "WARN"


def test_records_of_an_older_probe_have_no_most_instances(tmp_path):
    folder = write(tmp_path / "run")
    text = (folder / wire.RECORDS).read_text().replace('"most_instances"', '"later"')
    (folder / wire.RECORDS).write_text(text)
    run, _ = judged(folder)
    assert "overflow_probability" not in run.facts
