"""What CUDA's caching allocator of PyTorch reserves for a sequence of requests and releases.

Written from the behaviour that c10/cuda/CUDACachingAllocator.cpp documents (its defaults, one
stream, no expandable segments): requests are rounded to 512 B; up to 1 MiB they come out of
segments of 2 MiB, below 10 MiB out of segments of 20 MiB, else out of segments of their own,
rounded to 2 MiB. The smallest free block that is large enough is taken; what is left over becomes a
block of its own where it has 512 B (small) or more than 1 MiB (large). Freed blocks join free
neighbours of their segment. Where the GPU has no more, segments without any block in use are given
back, and the request is tried again.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field

MIB = 1 << 20
SMALL = MIB
SMALL_SEGMENT = 2 * MIB
LARGE_SEGMENT = 20 * MIB
OWN_SEGMENT = 10 * MIB
ROUND = 512


class OutOfMemory(Exception):
    """The GPU has no room for a request."""


@dataclass(eq=False)
class Block:
    """A stretch of a segment, in use or free."""

    size: int
    segment: int
    at: int
    small: bool
    free: bool = False
    before: Block | None = None
    after: Block | None = None

    @property
    def key(self) -> tuple[int, int, int]:
        return self.size, self.segment, self.at


@dataclass
class Pool:
    """Free blocks of one kind, the smallest first."""

    keys: list[tuple[int, int, int]] = field(default_factory=list)
    blocks: dict[tuple[int, int, int], Block] = field(default_factory=dict)

    def add(self, block: Block) -> None:
        bisect.insort(self.keys, block.key)
        self.blocks[block.key] = block

    def remove(self, block: Block) -> None:
        del self.keys[bisect.bisect_left(self.keys, block.key)]
        del self.blocks[block.key]

    def best(self, size: int) -> Block | None:
        at = bisect.bisect_left(self.keys, (size, -1, -1))
        return self.blocks[self.keys[at]] if at < len(self.keys) else None


class CachingAllocator:
    """Bytes allocated and reserved, now and at their highest since the last `reset_peaks`."""

    def __init__(self, capacity: int | None = None) -> None:
        """`capacity`: bytes that there are; None for no end of them."""
        self.capacity = capacity
        self.allocated = self.reserved = self.retries = 0
        self.peak_allocated = self.peak_reserved = 0
        self._pools = {True: Pool(), False: Pool()}
        self._used: dict[int, Block] = {}
        self._segments = 0

    def allocate(self, name: int, size: int) -> None:
        """Raises OutOfMemory."""
        if not size:
            return
        size = -(-size // ROUND) * ROUND
        small = size <= SMALL
        block = self._pools[small].best(size)
        if block is None:
            block = self._new_segment(size, small)
        else:
            self._pools[small].remove(block)
        left = block.size - size
        if left >= ROUND if small else left > SMALL:
            rest = Block(left, block.segment, block.at + size, small, True, block, block.after)
            if block.after is not None:
                block.after.before = rest
            block.after = rest
            block.size = size
            self._pools[small].add(rest)
        block.free = False
        self._used[name] = block
        self.allocated += block.size
        self.peak_allocated = max(self.peak_allocated, self.allocated)

    def release(self, name: int) -> None:
        block = self._used.pop(name, None)
        if block is None:  # of no bytes
            return
        self.allocated -= block.size
        pool = self._pools[block.small]
        before, after = block.before, block.after
        if before is not None and before.free:
            pool.remove(before)
            before.size += block.size
            before.after = after
            if after is not None:
                after.before = before
            block = before
        if after is not None and after.free:
            pool.remove(after)
            block.size += after.size
            block.after = after.after
            if after.after is not None:
                after.after.before = block
        block.free = True
        pool.add(block)

    def empty_cache(self) -> None:
        for pool in self._pools.values():
            for key in list(pool.keys):
                block = pool.blocks[key]
                if block.before is None and block.after is None:
                    pool.remove(block)
                    self.reserved -= block.size

    def reset_peaks(self) -> None:
        self.peak_allocated, self.peak_reserved = self.allocated, self.reserved

    def replay(self, events: list[tuple[int, int]]) -> None:
        """Events as `Recording` keeps them. Raises OutOfMemory."""
        for name, size in events:
            if size < 0:
                self.release(name)
            else:
                self.allocate(name, size)

    def _new_segment(self, size: int, small: bool) -> Block:
        if small:
            length = SMALL_SEGMENT
        elif size < OWN_SEGMENT:
            length = LARGE_SEGMENT
        else:
            length = -(-size // SMALL_SEGMENT) * SMALL_SEGMENT
        if self.capacity is not None and self.reserved + length > self.capacity:
            self.retries += 1
            self.empty_cache()
            if self.reserved + length > self.capacity:
                raise OutOfMemory(f"{length} bytes more than {self.reserved} of {self.capacity}")
        self._segments += 1
        self.reserved += length
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        return Block(length, self._segments, 0, small)


class Recording(CachingAllocator):
    """The same, and what was asked of it: (name, bytes), with -1 bytes for a release."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[int, int]] = []

    def allocate(self, name: int, size: int) -> None:
        self.events.append((name, size))
        super().allocate(name, size)

    def release(self, name: int) -> None:
        self.events.append((name, -1))
        super().release(name)


def least_capacity(events: list[tuple[int, int]], low: int, high: int) -> int:
    """Bytes of the smallest GPU that these events fit into, to 1/2 % of `high`.

    low, high: bytes, too few and enough.
    """
    while high - low > high // 200:
        middle = (low + high) // 2
        try:
            CachingAllocator(middle).replay(events)
            high = middle
        except OutOfMemory:
            low = middle
    return high
