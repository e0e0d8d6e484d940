"""The peaks of single iterations, and what the training itself sees of the maxima."""

from __future__ import annotations

import sys
import types

import pytest

from d2check.probe.memory import CudaMeter, HostMeter, Untold, cuda_meter

MIB = 2**20
NAMES = ("allocated_bytes", "reserved_bytes", "active_bytes")


class Allocator(types.ModuleType):
    """torch.cuda and torch.cuda.memory of one GPU, without a GPU.

    As in torch, what is asked for maxima ends in a function of the module's own namespace.
    """

    def __init__(self):
        super().__init__("cuda")
        self.current = dict.fromkeys(NAMES, 0)
        self.peak = dict.fromkeys(NAMES, 0)
        self.retries = 0
        self.emptied = 0
        self.memory = self

        def memory_stats_as_nested_dict(device=None):
            if device == "cuda:1":
                return {name: {"all": {"current": 1, "peak": 1}} for name in NAMES}
            of = {n: {"all": {"current": self.current[n], "peak": self.peak[n]}} for n in NAMES}
            return {**of, "num_alloc_retries": self.retries, "num_ooms": 0}

        def reset_peak_memory_stats(device=None):
            self.peak = dict(self.current)

        self.memory_stats_as_nested_dict = memory_stats_as_nested_dict
        self.reset_peak_memory_stats = reset_peak_memory_stats

    def current_device(self):
        return 0

    def max_memory_allocated(self, device=None):
        return self.memory_stats_as_nested_dict(device=device)["allocated_bytes"]["all"]["peak"]

    def max_memory_reserved(self, device=None):
        return self.memory_stats_as_nested_dict(device=device)["reserved_bytes"]["all"]["peak"]

    def empty_cache(self):
        self.emptied += 1
        self.current["reserved_bytes"] = self.current["allocated_bytes"]

    def synchronize(self, device=None):
        pass

    def mem_get_info(self, device=None):
        return 600 * MIB, 1000 * MIB

    def take(self, mib):
        """Hold so much for a moment."""
        for name in NAMES:
            self.peak[name] = max(self.peak[name], self.current[name] + mib * MIB)

    def hold(self, mib):
        """Hold so much from now on."""
        for name in NAMES:
            self.current[name] += mib * MIB
        self.take(0)


@pytest.fixture
def cuda():
    return Allocator()


def metered(cuda):
    meter = CudaMeter(cuda, types.SimpleNamespace(index=0))
    meter.begin()
    return meter


def test_each_iteration_has_its_own_peak(cuda):
    cuda.hold(100)
    meter = metered(cuda)
    peaks = []
    for mib in (50, 300, 20):
        cuda.take(mib)
        peaks.append(meter.take()["peak_allocated_mib"])
    assert peaks == [150, 400, 120]


def test_the_training_still_sees_its_highest_peak(cuda):
    cuda.take(900)  # while the model was built
    meter = metered(cuda)
    assert cuda.max_memory_allocated() == 900 * MIB
    cuda.take(50)
    meter.take()
    assert cuda.max_memory_allocated() == 900 * MIB
    cuda.take(1000)
    assert cuda.max_memory_allocated() == 1000 * MIB
    meter.take()
    assert cuda.max_memory_reserved() == 1000 * MIB
    assert cuda.max_memory_allocated("cuda:0") == 1000 * MIB


def test_another_gpu_is_told_as_it_is(cuda):
    meter = metered(cuda)
    cuda.take(500)
    meter.take()
    assert cuda.max_memory_allocated("cuda:1") == 1


def test_a_reset_by_the_training_forgets_its_maximum_but_not_ours(cuda):
    meter = metered(cuda)
    cuda.take(700)
    meter.take()
    cuda.take(400)
    cuda.reset_peak_memory_stats()  # as TorchMemoryStats does
    assert cuda.max_memory_allocated() == 0
    cuda.take(10)
    assert cuda.max_memory_allocated() == 10 * MIB
    assert meter.take()["peak_allocated_mib"] == 400
    assert cuda.max_memory_allocated() == 10 * MIB


def test_what_is_tried_is_no_peak_of_the_training(cuda):
    cuda.hold(100)
    meter = metered(cuda)
    cuda.take(200)
    meter.take()
    meter.begin_trial()
    cuda.take(5000)
    assert meter.take_trial()["peak_reserved_mib"] == 5100
    assert meter.end_trial() == 100
    assert cuda.emptied == 2
    assert cuda.max_memory_allocated() == 300 * MIB
    cuda.take(30)
    assert meter.take()["peak_allocated_mib"] == 130


def test_a_second_recording_in_the_process_goes_on_from_the_first(cuda):
    first = metered(cuda)
    cuda.take(800)
    first.take()
    second = metered(cuda)
    cuda.take(60)
    assert second.take()["peak_allocated_mib"] == 60
    assert cuda.max_memory_allocated() == 800 * MIB


def test_what_others_have_of_the_gpu_is_told(cuda):
    cuda.hold(150)
    assert metered(cuda).capacity() == {"gpu_total_mib": 1000.0, "gpu_other_mib": 250.0}


def test_torch_itself_asks_in_the_way_that_is_relied_on():
    """All questions for maxima reach the allocator by these two names of their module."""
    memory = pytest.importorskip("torch").cuda.memory
    asked = memory.memory_stats.__globals__
    assert asked is vars(memory)
    assert "memory_stats_as_nested_dict" in memory.memory_stats.__code__.co_names
    assert "memory_stats" in memory.max_memory_allocated.__code__.co_names
    assert "memory_stats" in memory.max_memory_reserved.__code__.co_names
    assert "reset_peak_memory_stats" in memory.reset_max_memory_allocated.__code__.co_names


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own peak is Linux's")
def test_the_host_tells_the_peak_of_each_stretch():
    meter = HostMeter(capacity_mib=500.0)
    meter.begin()
    held = bytearray(b"1") * (64 * MIB)
    del held
    peak = meter.take()
    assert peak["peak_allocated_mib"] - peak["allocated_mib"] == pytest.approx(64, abs=4)
    calm = meter.take()
    assert calm["peak_allocated_mib"] - calm["allocated_mib"] < 4
    assert meter.capacity()["gpu_total_mib"] == 500.0


def test_an_allocator_without_statistics_is_told_and_ends_no_training(cuda):
    """A user's own: torch.cuda.memory.change_current_allocator."""

    def refuse(device=None):
        raise RuntimeError("CUDAPluggableAllocator does not yet support getDeviceStats.")

    cuda.memory_stats_as_nested_dict = refuse
    with pytest.raises(Untold, match="keeps no statistics: CUDAPluggableAllocator"):
        cuda_meter(cuda, types.SimpleNamespace(index=0))


def test_memory_that_is_not_counted_is_not_told_as_none(cuda):
    with pytest.raises(Untold, match="PYTORCH_NO_CUDA_MEMORY_CACHING"):
        cuda_meter(cuda, types.SimpleNamespace(index=0))
    cuda.hold(100)
    assert cuda_meter(cuda, types.SimpleNamespace(index=0)).take()["allocated_mib"] == 100
