"""How a run ended, and how its evaluations went."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2check.checks.ending import (
    ended_as,
    ended_badly,
    held_by_others,
    missing_share,
    out_of_memory,
    runs_mixed,
)
from d2check.checks.evaluation import ap_lost, best_ap
from d2check.model import Ending, EndingKind, Event
from tests.checks.curves import power_law, series


@pytest.mark.parametrize("kind", [EndingKind.CRASHED, EndingKind.KILLED, EndingKind.HUNG])
def test_an_error_or_a_signal_is_a_bad_end(kind):
    assert ended_badly(Ending(kind, 12, "KeyError")).value == 1
    assert ended_as(Ending(kind), kind.value).value == 1


@pytest.mark.parametrize("kind", [EndingKind.FINISHED, EndingKind.STOPPED])
def test_a_planned_end_is_none(kind):
    assert ended_badly(Ending(kind)).value == 0


@pytest.mark.parametrize(
    ("message", "refused"),
    [
        # fvcore's MultiStepParamScheduler, with MAX_ITER itself among SOLVER.STEPS.
        (
            "Milestone must be smaller than total number of updates: num_updates=9, milestone=9",
            "steps",
        ),
        ("Total batch size (6) must be divisible by the number of gpus (4).", "batch"),
        ("Cannot find field 'gt_masks' in the given Instances!", "masks"),
        ("Torch not compiled with CUDA enabled", "cpu"),
        ("cuda is not available. Please check your installation.", "gpu"),
        ("[AMPTrainer] CUDA is required for AMP training!", "gpu"),
        ("module 'numpy' has no attribute 'int'.\n`np.int` was a deprecated alias", "numpy-1.24"),
        ("module 'numpy' has no attribute 'shapes'", "nothing"),
        ("`np.float_` was removed in the NumPy 2.0 release.", "numpy-2"),
        ("module 'PIL.Image' has no attribute 'LINEAR'", "pillow"),
        ("No module named 'shapes'", "nothing"),
        (None, "nothing"),
    ],
)
def test_what_the_start_refuses_is_told_by_its_words(message, refused):
    ending = Ending(EndingKind.CRASHED, error="ValueError", message=message)
    assert ended_badly(ending).extras["refused"] == refused


def test_no_trace_of_an_ending_is_undecided():
    assert ended_badly(Ending()).undecided


def test_an_oom_that_detectron2_got_round_is_half_of_one():
    event = Event("oom", "Attempting to copy inputs to CPU", 120)
    found = out_of_memory(Ending(EndingKind.FINISHED), (event,), images_per_batch=8)
    assert found.value == 0.5
    assert found.extras["at"] == 120
    assert found.extras["half_batch"] == 4


def test_a_short_run_that_was_stopped_misses_nothing():
    assert missing_share(Ending(EndingKind.STOPPED), 90_000, 299).undecided
    assert missing_share(Ending(EndingKind.FINISHED), 300, 279).value == 0
    found = missing_share(Ending(EndingKind.TRUNCATED), 1000, 249)
    assert found.value == pytest.approx(0.75)


def test_minus_one_and_nan_are_no_results():
    ap = series([-1.0, np.nan, 12.0, 30.0], "bbox/AP", every=500)
    found = best_ap(ap)
    assert found.value == 30
    assert found.extras["evaluations"] == 2
    assert best_ap(series([-1.0, np.nan], "bbox/AP")).undecided


def test_points_lost_since_the_best_evaluation_while_the_loss_falls():
    ap = series([10.0, 30.0, 28.0, 22.0], "bbox/AP", every=100)
    found = ap_lost(ap, series(power_law(2.0, 400)))
    assert found.value == 8
    assert found.extras["worse"] == 2
    assert found.extras["loss_falling"] == "yes"


def test_a_resume_at_the_first_rows_counts_only_where_rows_stand_before_them():
    resume = (Event("resume", "the rows begin at iteration 102", 102),)
    assert runs_mixed(resume, 102).value == 0
    found = runs_mixed(resume, 102, segment=1)
    assert found.value == 1
    assert found.extras["kinds"] == "earlier rows"


GIB = 1024.0
# As they stand in users' reports: PyTorch 2.1, 2.4 with four processes, in a container, 1.12.
ALONE = (
    "CUDA out of memory. Tried to allocate 32.00 MiB. GPU 0 has a total capacty of 4.00 GiB of "
    "which 41.56 MiB is free. Including non-PyTorch memory, this process has 3.44 GiB memory in "
    "use. Of the allocated memory 2.58 GiB is allocated by PyTorch, and 1.90 MiB is reserved"
)
AMONG_OTHERS = (
    "CUDA out of memory. Tried to allocate 572.00 MiB. GPU 0 has a total capacity of 39.49 GiB of "
    "which 321.31 MiB is free. Process 3721648 has 414.00 MiB memory in use. Including non-PyTorch "
    "memory, this process has 27.46 GiB memory in use. Process 1374765 has 10.00 GiB memory in use."
    " Of the allocated memory 26.04 GiB is allocated by PyTorch, and 321.37 MiB is reserved"
)
IN_A_CONTAINER = (
    "CUDA out of memory. Tried to allocate 496.00 MiB. GPU 0 has a total capacty of 14.75 GiB of "
    "which 235.06 MiB is free. Process 20398 has 14.52 GiB memory in use. Of the allocated memory "
    "14.06 GiB is allocated by PyTorch, and 330.42 MiB is reserved by PyTorch but unallocated."
)
OLD = (
    "CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 23.70 GiB total capacity; 1.20 GiB "
    "already allocated; 2.88 MiB free; 1.25 GiB reserved in total by PyTorch)"
)
UNKNOWN = (
    "CUDA out of memory. GPU 0 has a total capacity of 8.00 GiB of which 0 bytes is free. Process "
    "812 has 17179869184.00 GiB memory in use. Of the allocated memory 6.79 GiB is allocated by"
)


@pytest.mark.parametrize(
    ("message", "held_mib"),
    [
        (ALONE, 0.0),
        (AMONG_OTHERS, 414 + 10 * GIB),
        (IN_A_CONTAINER, 0.0),
        (IN_A_CONTAINER.replace(" Of the", " Process 7 has 2.00 GiB memory in use. Of the"), 2048),
        (OLD, (23.70 - 1.25 - 2) * GIB - 2.88),
        (OLD.replace("1.25 GiB reserved", "21.90 GiB reserved"), 0.0),
        (UNKNOWN, None),
        ("CUDA error: out of memory", None),
        (None, None),
    ],
)
def test_what_others_hold_is_read_from_the_words_of_the_error(message, held_mib):
    assert held_by_others(message) == (None if held_mib is None else pytest.approx(held_mib))


@given(st.text("Process 0123456789.has GiBMmemoryinuse(;)totlcapyf", max_size=120))
def test_any_other_words_are_no_error(text):
    held = held_by_others(text)
    assert held is None or held >= 0


def test_an_out_of_memory_beside_others_says_what_they_held():
    told = out_of_memory(Ending(EndingKind.OUT_OF_MEMORY, 0, message=AMONG_OTHERS))
    assert told.extras["others_gib"] == pytest.approx(10.4, abs=0.01)
    assert (
        out_of_memory(Ending(EndingKind.OUT_OF_MEMORY, message=ALONE)).extras["others_gib"] is None
    )
    seen = out_of_memory(Ending(EndingKind.OUT_OF_MEMORY, message=ALONE), others_mib=4096.0)
    assert seen.extras["others_gib"] == 4


def test_rows_from_the_middle_may_be_an_excerpt():
    cut = Ending(EndingKind.TRUNCATED, 4999)
    excerpt = missing_share(cut, 90_000, 4999, 4019)
    assert excerpt.undecided and "4,019" in excerpt.undecided
    assert missing_share(cut, 90_000, 4999, 19).undecided is None
    resumed = (Event("resume", "resumed at iteration 4000", 4000),)
    assert missing_share(cut, 90_000, 4999, 4019, resumed).undecided is None
    guessed = (Event("resume", "the rows begin at iteration 4019, not at the start", 4019),)
    assert missing_share(cut, 90_000, 4999, 4019, guessed).undecided
