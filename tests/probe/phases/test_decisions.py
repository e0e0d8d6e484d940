"""Which phases follow each other, without a training."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from d2check.probe.phases.course import Course  # noqa: E402  (imports torch)
from d2check.probe.plan import Plan  # noqa: E402

PHASES = [
    {"name": "loader"},
    {"name": "as-configured", "iterations": 120},
    {"name": "worst-batch"},
    {"name": "ramp", "iterations": 40, "climb": 10},
]


class Recorder:
    def __init__(self):
        self.records = []

    def write(self, record):
        self.records.append(record)

    def note(self, kind, message, **more):
        self.records.append({"t": "note", "kind": kind, "message": message, **more})

    def skipped(self):
        return [r["message"] for r in self.records if r.get("kind") == "phase-skipped"]

    def phases(self):
        return [(r["name"], r["first_iteration"]) for r in self.records if r["t"] == "phase"]


def course_of(phases, lr=0.1, initial_lr=None):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=lr)
    if initial_lr is not None:
        optimizer.param_groups[0]["initial_lr"] = initial_lr
    session = SimpleNamespace(plan=Plan({"folder": "", "phases": phases}), recorder=Recorder())
    inner = SimpleNamespace(optimizer=optimizer, data_loader=None)
    return Course(session, SimpleNamespace(), inner, cost=object), session.recorder


def go(course, iterations):
    course.begin(0)
    return [course.advance(i, {"total_loss": 1.0}) for i in range(iterations)]


def test_a_rate_that_never_changes_needs_no_ramp():
    course, recorder = course_of(PHASES)
    assert go(course, 120)[-1] == "iterations"
    assert recorder.phases() == [("as-configured", 0)]
    assert any("near its peak for 100 iterations" in told for told in recorder.skipped())


def test_that_no_ramp_will_come_is_told_as_soon_as_it_is_known():
    course, recorder = course_of(PHASES)
    go(course, 99)
    assert not any("ramp" in told for told in recorder.skipped())
    course.advance(99, {"total_loss": 1.0})
    assert any("ramp" in told for told in recorder.skipped())


def test_a_run_that_ends_early_tells_why_and_what_it_leaves_out():
    course, recorder = course_of(PHASES, lr=0.001, initial_lr=0.1)
    go(course, 49)
    course.finish_as_configured()
    course.note_early_end({"i": 47, "done": 48, "why": "loss/diverges was certain"})
    (note,) = [r for r in recorder.records if r.get("kind") == "ended-early"]
    assert note["message"] == "at iteration 48 of 120: loss/diverges was certain"
    assert note["i"] == 47
    told = recorder.skipped()
    assert "worst-batch: the training runs on the CPU" in told  # it was tried all the same
    assert "ramp: the run ended early, as loss/diverges was certain" in told


def test_a_run_of_unknown_length_that_ends_early_names_no_length():
    course, recorder = course_of([{"name": "as-configured", "iterations": None}])
    go(course, 49)
    course.note_early_end({"i": 47, "done": 48, "why": "loss/diverges was certain"})
    assert recorder.records[-1]["message"] == "at iteration 48: loss/diverges was certain"


def test_a_run_that_is_ended_within_its_ramp_has_none():
    course, recorder = course_of(PHASES, lr=0.001, initial_lr=0.1)
    go(course, 122)
    assert course.in_ramp
    course.note_early_end({"i": 118, "done": 119, "why": "loss/diverges was certain"})
    assert "ramp: the run ended early, as loss/diverges was certain" in recorder.skipped()


def test_at_a_share_of_the_rates_every_phase_and_the_peak_are_at_it():
    phases = [
        {"name": "as-configured", "iterations": 120, "rate_share": 0.1},
        {"name": "ramp", "iterations": 80, "climb": 1, "rate_share": 0.1},
    ]
    course, recorder = course_of(phases, lr=0.001, initial_lr=0.1)
    go(course, 1)
    course.rates.set_rates()
    assert course.rates.lr_used == pytest.approx(0.0001)
    course.rates.restore_rates()
    assert not course.in_ramp
    for i in range(1, 120):
        course.advance(i, {"total_loss": 1.0})
    course.rates.set_rates()
    assert (course.in_ramp, course.rates.lr_used) == (True, pytest.approx(0.01))
    peaks = [r["facts"]["lr_peak"] for r in recorder.records if "lr_peak" in r.get("facts", {})]
    assert peaks == [pytest.approx(0.01)]


def test_a_trainer_that_hides_its_optimizer_gets_no_ramp():
    course, recorder = course_of(PHASES)
    course._optimizer = None
    assert go(course, 120)[-1] == "iterations"
    assert "ramp: the trainer keeps its optimizer to itself" in recorder.skipped()


def test_what_was_not_done_is_told():
    course, recorder = course_of(PHASES, lr=0.001, initial_lr=0.1)
    go(course, 130)
    assert recorder.phases() == [("as-configured", 0), ("ramp", 120)]
    told = " ".join(recorder.skipped())
    assert "loader: " in told
    assert "worst-batch: the training runs on the CPU" in told


def test_the_worst_batch_is_tried_once_and_before_the_ramp():
    course, recorder = course_of(PHASES, lr=0.001, initial_lr=0.1)
    tried = []

    def attempt():
        tried.append(course.in_ramp)
        return {"worst_batch_mib": 7.0}

    course.try_worst_batch = attempt
    go(course, 160)
    course.finish_as_configured()
    assert tried == [False]
    assert {"t": "facts", "facts": {"worst_batch_mib": 7.0}} in recorder.records


def test_a_batch_that_does_not_suit_the_model_ends_nothing():
    course, recorder = course_of(PHASES[1:3])

    def attempt():
        raise KeyError("sem_seg")

    course.try_worst_batch = attempt
    go(course, 120)
    assert recorder.skipped() == ["worst-batch: 'sem_seg'"]


def test_a_worst_batch_that_was_never_come_to_is_told():
    course, recorder = course_of(PHASES, lr=0.001, initial_lr=0.1)
    course.try_worst_batch = dict
    go(course, 50)
    course.end()
    course.end()
    assert recorder.skipped()[-1] == "worst-batch: the training ended before its turn"
    assert len([told for told in recorder.skipped() if told.startswith("worst-batch")]) == 1


def test_a_plan_without_phases_is_one_as_configured():
    course, recorder = course_of([])
    assert go(course, 10) == [None] * 10  # only the stop rule ends it
    assert recorder.phases() == [("as-configured", 0)]
