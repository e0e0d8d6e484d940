"""A run folder becomes one Run, whenever and however its training ended."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2check import sources
from d2check.errors import InputError
from d2check.model import EndingKind, Run
from d2check.probe import wire
from d2check.sources.run_folder import is_run_folder, read_run_folder

PHASE_TIMES = ("data_s", "forward_s", "backward_s", "optimizer_s", "hooks_s", "other_s")


def begin(**more: Any) -> dict[str, Any]:
    facts = {"images": 200, "images_per_batch": 4, "device": "cpu"}
    return {"t": "begin", "schema": 1, "rank": 0, "world_size": 1, "facts": facts, **more}


def iteration(i: int, **more: Any) -> dict[str, Any]:
    times = dict.fromkeys(PHASE_TIMES, 0.01)
    scalars = {"total_loss": 2.0 / (i + 1), "lr": 0.001 * i}
    return {"t": "iter", "i": i, "clock": 100.0 + 0.06 * i, "scalars": scalars, "total_s": 0.06,
            **times, "rss_mib": 800.0, **more}  # fmt: skip


def folder_of(
    path: Path, records: Iterable[dict[str, Any]] = (), *, ending: dict[str, Any] | None = None
) -> Path:
    path.mkdir(exist_ok=True)
    plan = {"schema": 1, "iterations": 200, "phases": [{"name": "as-configured"}]}
    (path / wire.PLAN).write_text(json.dumps(plan))
    (path / wire.RECORDS).write_text("".join(map(wire.encode, records)))
    if ending is not None:
        (path / wire.ENDING).write_text(json.dumps({"schema": 1, **ending}))
    return path


def only(path: Path) -> Run:
    (run,) = read_run_folder(path)
    return run


def test_scalars_phases_memory_and_batch_become_raw_series(tmp_path):
    more = {
        "memory": {"allocated_mib": 1.0, "peak_reserved_mib": 4.0, "retries": 0},
        "batch": {"images": 4, "instances": 11, "max_height": 128, "padded_pixels": 16384},
    }
    run = only(folder_of(tmp_path, [begin(), *(iteration(i, **more) for i in range(5))]))
    assert run.series["total_loss"].values.tolist() == [2.0 / (i + 1) for i in range(5)]
    assert run.series["peak_reserved_mib"].values.tolist() == [4.0] * 5
    assert run.series["batch_instances"].values.tolist() == [11.0] * 5
    assert {"rss_mib", "retries", "batch_images", "batch_max_height", "padded_pixels", *PHASE_TIMES
            } <= run.series.keys()  # fmt: skip
    assert {(s.statistic, s.window, s.every) for s in run.series.values()} == {("raw", 1, 1)}
    assert run.rows == 5


def test_sampled_values_keep_their_own_iterations(tmp_path):
    records = [iteration(i, **({"grad_norm": 1.0 + i} if i % 10 == 0 else {})) for i in range(25)]
    series = only(folder_of(tmp_path, [begin(), *records])).series["grad_norm"]
    assert series.iterations.tolist() == [0, 10, 20]
    assert series.every == 10


def test_time_and_data_time_keep_detectron2s_meaning(tmp_path):
    series = only(folder_of(tmp_path, [begin(), iteration(0), iteration(1)])).series
    assert series["data_time"].values.tolist() == [0.01, 0.01]
    np.testing.assert_allclose(series["time"].values, 0.05)  # without hooks


def test_a_storage_that_has_time_of_its_own_is_believed(tmp_path):
    scalars = {"total_loss": 1.0, "time": 0.5, "data_time": 0.25}
    series = only(folder_of(tmp_path, [begin(), iteration(0, scalars=scalars)])).series
    assert series["time"].values.tolist() == [0.5]
    assert series["data_time"].values.tolist() == [0.25]


def test_wall_time_counts_from_the_start_of_the_first_iteration(tmp_path):
    series = only(folder_of(tmp_path, [begin(), *map(iteration, range(3))])).series
    np.testing.assert_allclose(series["wall_s"].values, [0.06, 0.12, 0.18])


def test_words_for_nan_and_infinities_are_turned_back(tmp_path):
    records = [iteration(0, scalars={"total_loss": math.nan, "a": math.inf, "b": -math.inf})]
    series = only(folder_of(tmp_path, [begin(), *records])).series
    assert math.isnan(series["total_loss"].values[0])
    assert (series["a"].values[0], series["b"].values[0]) == (math.inf, -math.inf)


def test_later_facts_win_and_notes_become_events(tmp_path):
    note = {"t": "note", "kind": "skipped-weights", "message": "3 weights have another shape"}
    run = only(folder_of(tmp_path, [begin(), {"t": "facts", "facts": {"images": 180}}, note]))
    assert run.facts["images"] == 180
    assert [(e.kind, e.read_from) for e in run.events] == [("skipped-weights", "records.jsonl:3")]


def test_one_class_alone_is_why_no_class_is_the_rarest(tmp_path):
    note = {"t": "note", "kind": "dataset", "message": "9 images", "instances": {"person": 24}}
    run = only(folder_of(tmp_path, [begin(), note, iteration(0)]))
    assert "instances_fewest" not in run.facts
    assert "fewer than two classes" in run.absent["instances_fewest"]


def test_phases_end_where_the_next_begins(tmp_path):
    records = [begin(), {"t": "phase", "name": "as-configured", "first_iteration": 0}]
    records += [iteration(i) for i in range(3)]
    records += [{"t": "phase", "name": "ramp", "first_iteration": 3}, iteration(3), iteration(4)]
    phases = only(folder_of(tmp_path, records)).phases
    assert [(p.name, p.first_iteration, p.last_iteration) for p in phases] == [
        ("as-configured", 0, 2),
        ("ramp", 3, 4),
    ]


def test_the_plan_tells_the_one_phase_when_no_record_does(tmp_path):
    phases = only(folder_of(tmp_path, [begin(), iteration(0), iteration(1)])).phases
    assert [(p.name, p.last_iteration) for p in phases] == [("as-configured", 1)]


@pytest.mark.parametrize("kind", [kind.value for kind in EndingKind])
def test_the_checkers_word_on_the_ending_counts(tmp_path, kind):
    ending = {
        "kind": kind,
        "iteration": 7,
        "error": "ValueError",
        "message": "no",
        "stage": "train",
    }
    found = only(folder_of(tmp_path, [begin(), iteration(0)], ending=ending)).ending
    assert (found.kind.value, found.iteration, found.error) == (kind, 7, "ValueError")
    assert (found.message, found.stage, found.read_from) == ("no", "train", "ending.json")


@pytest.mark.parametrize(
    ("error", "message", "kind"),
    [
        ("OutOfMemoryError", "CUDA out of memory. Tried to allocate", EndingKind.OUT_OF_MEMORY),
        ("RuntimeError", "CUDA out of memory. Tried to allocate", EndingKind.OUT_OF_MEMORY),
        ("FloatingPointError", "Loss became infinite or NaN", EndingKind.NON_FINITE),
        ("AssertionError", "Predicted boxes contain Inf/NaN!", EndingKind.CRASHED),
        ("RuntimeError", "Predicted boxes or scores contain Inf/NaN", EndingKind.NON_FINITE),
        ("KeyboardInterrupt", "", EndingKind.INTERRUPTED),
        ("ValueError", "no", EndingKind.CRASHED),
    ],
)
def test_without_it_the_probes_last_record_tells(tmp_path, error, message, kind):
    if error == "AssertionError":
        kind = EndingKind.NON_FINITE
    frames = [["/home/me/train.py", 12, "main", "trainer.train()"]]
    end = {"t": "end", "kind": "crashed", "i": 3, "error": error, "message": message,
           "traceback": frames, "stage": "train"}  # fmt: skip
    ending = only(folder_of(tmp_path, [begin(), iteration(2), end])).ending
    assert (ending.kind, ending.iteration, ending.error) == (kind, 3, error)
    assert ending.traceback == ("/home/me/train.py:12 in main: trainer.train()",)
    assert ending.read_from == "records.jsonl:3"


def test_a_killed_checker_leaves_a_folder_that_says_so(tmp_path):
    ending = only(folder_of(tmp_path, [begin(), iteration(0), iteration(1)])).ending
    assert (ending.kind, ending.iteration) == (EndingKind.UNKNOWN, 1)
    assert ending.message


def test_a_cut_last_line_is_counted_and_the_rest_is_there(tmp_path):
    folder = folder_of(tmp_path, [begin(), iteration(0), iteration(1)])
    with (folder / wire.RECORDS).open("a") as stream:
        stream.write('{"t": "iter", "i": 2, "clo')
    run = only(folder)
    assert (run.rows, run.malformed_lines) == (2, 1)


@pytest.mark.parametrize(
    "line",
    [
        "\0\0\0", "[]", '{"no": "type"}', '{"t": "iter"}', '{"t": "iter", "i": "x"}',
        '{"t": "iter", "i": 0, "scalars": {"a": "big"}}', '{"t": "begin", "world_size": "many"}',
        '{"t": "iter", "i": 0}', '{"t": "phase"}', '{"t": "note"}', "[" * 100_000,
    ],
)  # fmt: skip
def test_a_garbled_line_is_counted_and_adds_nothing(tmp_path, line):
    folder = folder_of(tmp_path, [begin(), iteration(0)])
    with (folder / wire.RECORDS).open("a") as stream:
        stream.write(line + "\n" + wire.encode(iteration(1)))
    run = only(folder)
    assert run.malformed_lines == 1
    assert {len(series) for series in run.series.values()} == {2}


def test_unknown_types_and_keys_are_no_loss(tmp_path):
    records = [begin(), {"t": "gpu", "utilisation": 3}, iteration(0, later=["x"], flag=True)]
    run = only(folder_of(tmp_path, records))
    assert (run.rows, run.malformed_lines) == (1, 0)


def test_other_ranks_have_series_of_their_own(tmp_path):
    folder = folder_of(tmp_path, [begin(world_size=2), iteration(0), iteration(1)])
    other = [begin(rank=1), {**iteration(0), "scalars": {}, "data_s": 0.5}]
    (folder / wire.records_name(1)).write_text("".join(map(wire.encode, other)))
    run = only(folder)
    assert run.series["rank1/data_s"].values.tolist() == [0.5]
    assert run.facts["world_size"] == 2
    assert [e.kind for e in run.events] == ["ranks-differ"]


def test_a_full_disk_is_told(tmp_path):
    ending = {"kind": "stopped", "recording_failed": "No space left on device"}
    run = only(folder_of(tmp_path, [begin(), iteration(0)], ending=ending))
    assert [(e.kind, e.message) for e in run.events] == [
        ("recording-failed", "No space left on device")
    ]


def test_a_training_that_never_began_still_has_its_ending(tmp_path):
    end = {"t": "end", "kind": "crashed", "error": "ImportError", "message": "x", "stage": "setup"}
    run = only(folder_of(tmp_path, [end]))
    assert (run.ending.kind, run.ending.stage, run.rows) == (EndingKind.CRASHED, "setup", 0)
    assert run.absent["config"]


def test_an_empty_folder_with_a_plan_reads_as_nothing_yet(tmp_path):
    folder = folder_of(tmp_path)
    (folder / wire.RECORDS).unlink()
    assert is_run_folder(folder)
    assert only(folder).ending.kind is EndingKind.UNKNOWN


def test_any_other_folder_is_refused(tmp_path):
    assert not is_run_folder(tmp_path)
    with pytest.raises(InputError, match=r"records\.jsonl"):
        read_run_folder(tmp_path)


def test_the_config_in_the_folder_is_that_of_the_rows(tmp_path):
    folder = folder_of(tmp_path, [begin(), *map(iteration, range(4))])
    (folder / wire.CONFIG).write_text(
        "VERSION: 2\nSOLVER: {BASE_LR: 0.004, MAX_ITER: 2000, WARMUP_ITERS: 4, WARMUP_FACTOR: 0.0,"
        " IMS_PER_BATCH: 4, STEPS: []}\n"
    )
    (run,) = sources.read(folder)
    assert run.config is not None
    assert run.config.matches_run is True
    assert run.planned_iterations == 2000
    np.testing.assert_allclose(run.series["planned_lr"].values, [0, 0.001, 0.002, 0.003])
    assert run.facts["epochs_planned"] == 40.0


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_in_the_records_read_without_an_exception(tmp_path_factory, data):
    folder = folder_of(tmp_path_factory.mktemp("run"), [begin(), iteration(0)])
    with (folder / wire.RECORDS).open("ab") as stream:
        stream.write(data)
    run = only(folder)
    filled = [line for line in data.split(b"\n") if line.strip()]
    assert run.malformed_lines == len(filled)
    assert run.rows == 1


@pytest.mark.training
def test_a_real_recording_reads_whole_and_its_phases_add_up(healthy):
    (run,) = sources.read(healthy.folder)
    assert (run.rows, run.malformed_lines) == (25, 0)
    assert run.series["total_loss"].iterations.tolist() == list(range(25))
    parts = sum(run.series[name].values for name in PHASE_TIMES)
    np.testing.assert_allclose(parts, run.series["total_s"].values, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(run.series["planned_lr"].values, run.series["lr"].values, rtol=1e-6)
    assert run.config is not None
    assert run.facts["images_per_batch"] == run.config.get("SOLVER.IMS_PER_BATCH")
    assert run.ending.kind is EndingKind.STOPPED


def test_what_came_after_the_verdict_that_ended_a_run_is_not_judged(tmp_path):
    lines = [
        {"t": "begin", "rank": 0, "world_size": 1, "facts": {}},
        {"t": "phase", "name": "as-configured", "first_iteration": 0},
        *({"t": "iter", "i": i, "scalars": {"total_loss": 2.0}} for i in range(90)),
        {"t": "note", "kind": "ended-early", "message": "at iteration 82 of 300: x", "i": 81},
        {"t": "end", "kind": "stopped", "i": 89, "reason": "verdict"},
    ]
    (tmp_path / wire.RECORDS).write_text("".join(map(wire.encode, lines)))
    (run,) = read_run_folder(tmp_path)
    assert run.last_iteration == run.phases[-1].last_iteration == 81
    assert len(run.series["total_loss"]) == 82
    assert run.rows == 90
    assert run.ending.iteration == 89
