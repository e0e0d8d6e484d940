"""Storages are followed one by one, and features by their size come to the same."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("detectron2")

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "memory"))

from caching_allocator import CachingAllocator, Recording  # noqa: E402
from tracing import Allocations, Sizes  # noqa: E402

pytestmark = pytest.mark.training
MIB = 1 << 20


def test_a_view_is_no_memory_and_what_is_let_go_is_given_back():
    heap = CachingAllocator()
    with Allocations(heap):
        kept = torch.empty(4 * MIB)  # 16 MiB
        view = kept.view(2, -1)[1]
        assert heap.allocated == 16 * MIB
        other = kept + 1
        assert heap.allocated == 32 * MIB
        del other
        assert heap.allocated == 16 * MIB
        del kept
        assert heap.allocated == 16 * MIB  # the view holds it
        del view
        assert heap.allocated == 0
    assert heap.peak_allocated == 32 * MIB


def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1),
        torch.nn.ReLU(inplace=True),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(16, 32, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(32, 1, 1),
    )


def peaks(mode, bce=False):
    heap = Recording()
    with mode(heap):
        model = net()
        out = model(torch.zeros(2, 3, 512, 512))
        target = torch.ones_like(out)
        if bce:
            loss = torch.nn.functional.binary_cross_entropy_with_logits(out, target)
        else:
            loss = (out - target).abs().sum()
        loss.backward()
    return [size for _, size in heap.events], heap.peak_allocated


def test_features_by_their_size_ask_for_the_same_in_the_same_order():
    assert peaks(Allocations) == peaks(Sizes)


def test_what_an_operator_makes_inside_is_counted():
    plain, with_logs = peaks(Allocations)[0], peaks(Allocations, bce=True)[0]
    assert len(with_logs) > len(plain)


def test_the_processors_own_allocator_tells_the_same_peak():
    """torch's profiler hears each request for memory. oneDNN, off here, has copies of its own."""
    with torch.backends.mkldnn.flags(enabled=False):
        torch.manual_seed(0)
        value = torch.randn(512, 1024)
        layer = torch.nn.Sequential(
            torch.nn.Linear(1024, 2048), torch.nn.ReLU(), torch.nn.Linear(2048, 64)
        )

        def work():
            layer(value).square().sum().backward()
            layer.zero_grad(set_to_none=True)

        work()
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
        ) as profile:
            work()
        heap = CachingAllocator()
        with Allocations(heap):
            work()
            assert heap.allocated == 0  # of the weights, made outside, not even views are counted
    held = highest = 0
    events = profile.profiler.kineto_results.events()
    told = [event for event in events if event.name() == "[memory]"]
    for event in sorted(told, key=lambda event: event.start_ns()):
        held += event.nbytes()
        highest = max(highest, held)
    assert heap.peak_allocated == pytest.approx(highest, rel=0.01)
