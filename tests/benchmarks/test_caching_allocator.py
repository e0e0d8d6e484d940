"""The stand-in for CUDA's caching allocator, by the behaviour that PyTorch documents."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "memory"))

from caching_allocator import CachingAllocator, OutOfMemory, Recording, least_capacity

MIB = 1 << 20


def test_small_requests_share_a_segment_of_two_mib():
    heap = CachingAllocator()
    heap.allocate(1, 100)
    heap.allocate(2, MIB)
    assert (heap.allocated, heap.reserved) == (512 + MIB, 2 * MIB)


def test_requests_below_ten_mib_share_a_segment_of_twenty():
    heap = CachingAllocator()
    heap.allocate(1, 9 * MIB)
    heap.allocate(2, 9 * MIB)
    assert (heap.allocated, heap.reserved) == (18 * MIB, 20 * MIB)


def test_a_large_request_has_a_segment_of_its_own_rounded_to_two_mib():
    heap = CachingAllocator()
    heap.allocate(1, 11 * MIB)
    assert heap.reserved == 12 * MIB
    assert heap.allocated == 12 * MIB  # what is left over, 1 MiB, is too little to be split off


def test_the_smallest_block_that_is_large_enough_is_taken():
    heap = CachingAllocator()
    for name, size in ((1, 40), (2, 30), (3, 50)):
        heap.allocate(name, size * MIB)
    for name in (1, 2, 3):
        heap.release(name)
    heap.allocate(4, 30 * MIB)
    heap.allocate(5, 40 * MIB)
    heap.allocate(6, 50 * MIB)
    assert heap.reserved == 120 * MIB


def test_what_is_cached_in_pieces_does_not_serve_a_larger_request():
    heap = CachingAllocator()
    for name in (1, 2):
        heap.allocate(name, 30 * MIB)
    for name in (1, 2):
        heap.release(name)
    heap.allocate(3, 60 * MIB)
    assert (heap.allocated, heap.reserved) == (60 * MIB, 120 * MIB)


def test_released_neighbours_join():
    heap = CachingAllocator()
    heap.allocate(1, 100 * MIB)
    heap.release(1)
    for name in (2, 3):
        heap.allocate(name, 50 * MIB)
    assert heap.reserved == 100 * MIB
    for name in (3, 2):
        heap.release(name)
    heap.allocate(4, 100 * MIB)
    assert heap.reserved == 100 * MIB


def test_a_full_gpu_gives_back_its_cache_before_it_fails():
    heap = CachingAllocator(capacity=100 * MIB)
    heap.allocate(1, 60 * MIB)
    heap.release(1)
    heap.allocate(2, 80 * MIB)
    assert (heap.reserved, heap.retries) == (80 * MIB, 1)
    with pytest.raises(OutOfMemory):
        heap.allocate(3, 40 * MIB)


def test_a_segment_with_one_block_in_use_is_not_given_back():
    heap = CachingAllocator()
    heap.allocate(1, 5 * MIB)
    heap.allocate(2, 5 * MIB)
    heap.release(1)
    heap.empty_cache()
    assert heap.reserved == 20 * MIB
    heap.release(2)
    heap.empty_cache()
    assert heap.reserved == 0


def test_the_least_capacity_is_what_a_sequence_survives_on():
    heap = Recording()
    for name in (1, 2):
        heap.allocate(name, 30 * MIB)
    for name in (1, 2):
        heap.release(name)
    heap.allocate(3, 60 * MIB)
    assert heap.peak_reserved == 120 * MIB
    needed = least_capacity(heap.events, 0, heap.peak_reserved)
    assert needed == pytest.approx(60 * MIB, rel=0.02)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 40 * MIB)), max_size=60))
def test_whatever_is_asked_for_reserved_holds_allocated(requests):
    heap, live = CachingAllocator(), {}
    for name, size in requests:
        if name in live:
            heap.release(name)
            del live[name]
        else:
            heap.allocate(name, size)
            live[name] = size
        assert sum(live.values()) <= heap.allocated <= heap.reserved <= heap.peak_reserved
        assert heap.allocated <= sum(live.values()) + len(live) * MIB + 512 * len(live)
    for name in live:
        heap.release(name)
    heap.empty_cache()
    assert (heap.allocated, heap.reserved) == (0, 0)
