"""Marks become phases that add up; with CUDA the GPU's own times count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2check.probe import clocks

WHOLE = [
    clocks.ITERATION,
    clocks.RUN,
    clocks.FETCH,
    clocks.FETCHED,
    clocks.FORWARD,
    clocks.FORWARD_DONE,
    clocks.METRICS,
    clocks.OPTIMIZER,
    clocks.OPTIMIZER_DONE,
    clocks.AFTER_RUN,
    clocks.DONE,
]


def lap(marks, *, fetches_seen=True):
    """A lap of (code, seconds) marks on the processor's clock."""
    made = clocks.Lap((*marks[0], None), fetches_seen=fetches_seen)
    for code, time_s in marks[1:]:
        made.marks.append((code, time_s, None))
    return made


def test_each_phase_gets_the_time_after_its_mark():
    split = lap([(code, float(k)) for k, code in enumerate(WHOLE)]).split()
    assert split == {
        "hooks_s": 2.0,  # before and after the run
        "data_s": 1.0,
        "forward_s": 1.0,
        "backward_s": 1.0,
        "optimizer_s": 1.0,
        "other_s": 4.0,
        "total_s": 10.0,
    }


def test_without_a_loader_to_watch_all_until_the_forward_pass_is_data():
    marks = [(clocks.RUN, 0.0), (clocks.FORWARD, 3.0), (clocks.FORWARD_DONE, 4.0)]
    assert lap(marks, fetches_seen=False).split()["data_s"] == 3.0
    assert "data_s" not in lap(marks).split()


def test_phases_that_happen_twice_are_added():
    codes = [clocks.FORWARD, clocks.FORWARD_DONE] * 2 + [clocks.OPTIMIZER]
    split = lap([(code, float(k)) for k, code in enumerate(codes)]).split()
    assert (split["forward_s"], split["backward_s"]) == (2.0, 2.0)


@given(st.lists(st.tuples(st.sampled_from(WHOLE), st.floats(0, 10)), min_size=2, max_size=40))
def test_phases_add_up_whatever_was_marked(steps):
    now_s, marks = 0.0, []
    for code, seconds in steps:
        now_s += seconds
        marks.append((code, now_s))
    split = lap(marks).split()
    total_s = split.pop("total_s")
    assert sum(split.values()) == pytest.approx(total_s, abs=1e-6)
    assert total_s == pytest.approx(marks[-1][1] - marks[0][1], abs=1e-5)


class FakeCuda:
    """torch.cuda with a GPU whose clock and progress the test sets."""

    def __init__(self):
        self.now_ms = 0.0
        self.done_ms = 0.0
        self.made = 0

    def Event(self, enable_timing):
        assert enable_timing
        self.made += 1
        return FakeEvent(self)

    def current_stream(self, device):
        return ("stream of", device)


class FakeEvent:
    def __init__(self, cuda):
        self.cuda = cuda

    def record(self, stream):
        self.stream = stream
        self.at_ms = self.cuda.now_ms

    def query(self):
        return self.at_ms <= self.cuda.done_ms

    def elapsed_time(self, later):
        assert later.query(), "reading an event that the GPU has not passed would raise"
        return later.at_ms - self.at_ms


def test_on_a_gpu_a_lap_waits_for_its_last_event_and_tells_the_gpus_times():
    cuda = FakeCuda()
    watch = clocks.Stopwatch(cuda)
    watch.mark(clocks.FORWARD)
    cuda.now_ms = 40.0
    watch.mark(clocks.FORWARD_DONE)
    cuda.now_ms = 100.0
    lap = watch.finish()
    assert not lap.passed()
    cuda.done_ms = 100.0
    assert lap.passed()
    split = lap.split()
    assert (split["forward_s"], split["backward_s"]) == pytest.approx((0.04, 0.06))
    assert split["total_s"] == pytest.approx(0.1)
    assert lap.split(by_events=False)["total_s"] < 0.1  # the processor's own marks


def test_events_are_used_again_and_the_last_one_is_kept_for_the_next_lap():
    cuda = FakeCuda()
    watch = clocks.Stopwatch(cuda)
    cuda.done_ms = 1e9
    for iteration in range(50):
        for code in WHOLE[:-1]:
            cuda.now_ms += 1.0
            watch.mark(code)
        cuda.now_ms += 1.0
        lap = watch.finish()
        # The first lap has no gap before its first mark.
        assert lap.split()["total_s"] == pytest.approx(0.010 if iteration == 0 else 0.011)
        watch.reuse(lap)
    assert cuda.made <= 2 * len(WHOLE)


def test_events_are_those_of_the_models_gpu_and_not_of_the_current_one():
    """With MODEL.DEVICE cuda:1 torch's current GPU is still the first one: it is idle."""
    cuda = FakeCuda()
    watch = clocks.Stopwatch(cuda, "cuda:1")
    watch.mark(clocks.FORWARD)
    events = [event for _, _, event in watch.finish().marks]
    assert {event.stream for event in events} == {("stream of", "cuda:1")}


def test_a_lap_waits_for_its_marks_in_other_streams():
    """Reading an event that the GPU has not passed would end the training with an error."""
    cuda = FakeCuda()
    watch = clocks.Stopwatch(cuda)
    cuda.now_ms = 500.0  # of a stream that is far behind
    watch.mark(clocks.FORWARD)
    cuda.now_ms = 20.0
    lap = watch.finish()
    cuda.done_ms = 100.0
    assert not lap.passed()
    cuda.done_ms = 500.0
    assert lap.passed()


def test_marks_in_streams_beside_each_other_are_told_by_the_processor():
    cuda = FakeCuda()
    watch = clocks.Stopwatch(cuda)
    cuda.now_ms = 500.0
    watch.mark(clocks.FORWARD)
    cuda.now_ms = 20.0
    lap = watch.finish()
    cuda.done_ms = 500.0
    split = lap.split()
    assert split == lap.split(by_events=False)
    assert split["forward_s"] >= 0


def test_nothing_is_marked_while_a_cuda_graph_is_captured():
    cuda = FakeCuda()
    captured = []
    cuda.is_current_stream_capturing = lambda: bool(captured)
    watch = clocks.Stopwatch(cuda)
    watch.mark(clocks.FETCHED)
    captured.append(True)
    watch.mark(clocks.FORWARD)
    captured.clear()
    watch.mark(clocks.METRICS)
    assert [code for code, _, _ in watch.finish().marks] == [
        clocks.FETCHED,
        clocks.METRICS,
        clocks.DONE,
    ]
