"""What is looked at now and then: the GPU's driver, and the memory of the training's processes.

A look takes from one to a hundred milliseconds, so the next one waits `RARELY` times as long.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any, Callable

from . import nvml
from .host import HostMemoryLeft, WorkersMemory
from .memory import MIB
from .stopping import LoopEnded

if TYPE_CHECKING:
    from .session import Session

RARELY = 2000  # a look costs at most one part in so many of the time
AT_LEAST_S = 1.0  # the driver's own figures are of up to a second
FAMILY_AFTER = 20  # iterations, by which the loader's workers have filled their queues
TOLD_MIB = 64.0  # a change of what others hold that is worth a record


class Now:
    """When to look again, by what the last look took."""

    def __init__(self, cost_s: Callable[[], float] | None = None) -> None:
        """The first look is due at once. `cost_s`: a clock for what a look takes; else all time."""
        self._next_s = 0.0
        self._cost_s = cost_s

    def due(self) -> bool:
        """Whether it is time."""
        return time.perf_counter() >= self._next_s

    def look(self, at: Callable[[], dict[str, float]]) -> dict[str, float]:
        """What `at` tells. Sets the time of the next look."""
        clock_s = self._cost_s or time.perf_counter
        began_s = clock_s()
        told = at()
        took_s = clock_s() - began_s
        self._next_s = time.perf_counter() + max(AT_LEAST_S, RARELY * took_s)
        return told


class Machine:
    """Looks at the GPU and at the host, rarely enough to cost nothing."""

    def __init__(self, session: Session, cuda: Any = None, device: Any = None) -> None:
        """`cuda` (the module torch.cuda) is None where the model is on the processor."""
        self._session = session
        self._cuda, self._device = cuda, device
        self._gpu: nvml.Gpu | None = None
        self._host = HostMemoryLeft()
        self._workers = WorkersMemory()
        self._of_gpu, self._of_host, self._of_family = Now(), Now(), Now()
        # On a busy machine the wall clock would make it too rare to tell a leak in a short run.
        self._of_workers = Now(time.thread_time)
        self._others_mib: float | None = None
        self._calls = 0
        # Of the first look at the family: who it was, at which call, and what they shared.
        self._shared: tuple[set[int], int, float] | None = None

    def begin(self) -> None:
        """Find the GPU, or tell why it cannot be watched; look before the first iteration."""
        seen = self._host.look()
        if seen is not None:
            self._tell({"host_total_mib": seen[1]})
        if self._cuda is None:
            return
        try:
            self._gpu = nvml.Gpu(nvml.pci_address(ordinal_of(self._cuda, self._device)))
            if not self._own_mib():  # what is the training's own would be taken for others'
                self._gpu = None
                raise nvml.Unavailable("PyTorch's allocator does not tell what it holds")
        except nvml.Unavailable as why:
            self._tell({"gpu_unwatched": str(why)})
            return
        self._look_at_gpu()

    def take(self) -> dict[str, float]:
        """The `machine` of an iteration's record; nearly always empty."""
        self._calls += 1
        told: dict[str, float] = {}
        if self._gpu is not None and self._of_gpu.due():
            told.update(self._look_at_gpu())
        if self._of_host.due():
            told.update(self._of_host.look(self._look_at_host))
        if self._calls >= FAMILY_AFTER and self._of_family.due():
            told.update(self._of_family.look(self._look_at_family))
        if self._calls >= FAMILY_AFTER and self._of_workers.due():
            told.update(self._of_workers.look(self._look_at_workers))
        return told

    def end(self) -> None:
        """A last look: who held the GPU when its memory ran out, and what workers have copied."""
        self._tell_copied()
        if self._gpu is not None:
            held = self._look_at_gpu().get("gpu_others_mib")
            if held is not None:
                self._tell({"gpu_held_by_others_mib": held})

    def _look_at_host(self) -> dict[str, float]:
        seen = self._host.look()
        return {} if seen is None else {"host_free_mib": seen[0]}

    def _look_at_family(self) -> dict[str, float]:
        told = family_memory()
        if self._shared is None and "family_shared_mib" in told:
            self._shared = set(descendants(os.getpid())), self._calls, told["family_shared_mib"]
        return told

    def _tell_copied(self) -> None:
        """What the workers share less than at the first look: they have copied it.

        The look is as long as the first one was, and no iteration waits for it. A training that
        breaks is left alone: its error is to be told before other ranks end it.
        """
        error = sys.exc_info()[1]
        if self._shared is None or not isinstance(error, (LoopEnded, type(None))):
            return
        family, calls, shared_mib = self._shared
        if len(family) < 2 or set(descendants(os.getpid())) != family:
            return
        left_mib = family_memory().get("family_shared_mib")
        if left_mib is not None:
            self._tell(
                {
                    "workers_copied_mib": round(shared_mib - left_mib, 1),
                    "workers_copied_iterations": self._calls - calls,
                    "workers_shared_mib": left_mib,
                }
            )

    def _look_at_workers(self) -> dict[str, float]:
        try:
            return self._workers.look(descendants(os.getpid())[1:])
        except OSError:  # another system
            return {}

    def _look_at_gpu(self) -> dict[str, float]:
        gpu = self._gpu
        assert gpu is not None
        own_mib = self._own_mib()
        told = self._of_gpu.look(lambda: gpu.sample(own_mib))
        held, most = told.get("gpu_others_mib"), self._others_mib
        if held is not None and (most is None or held > most + TOLD_MIB):
            self._others_mib = held
            self._tell({"gpu_held_by_others_mib": held})
        return told

    def _own_mib(self) -> float:
        """What PyTorch has reserved; 0 where a user's own allocator keeps no statistics."""
        try:
            return float(self._cuda.memory_reserved(self._device) / MIB)
        except RuntimeError:
            return 0.0

    def _tell(self, facts: dict[str, Any]) -> None:
        self._session.recorder.write({"t": "facts", "facts": facts})


def ordinal_of(cuda: Any, device: Any) -> int:
    """The number of a device among those that CUDA shows to this process."""
    index = getattr(device, "index", None)
    return int(cuda.current_device() if index is None else index)


def family_memory() -> dict[str, float]:
    """Memory of this process and all below it, MiB, and their number; empty but on Linux.

    The proportional set size: what processes share, as forked workers do, counts once. Walking the
    page tables for it takes some 60 ms for each GiB. `family_shared_mib`: what copies of shared
    pages would take more, were each process to have its own; Linux 5.3 and newer tell it.
    """
    try:
        family = descendants(os.getpid())
        found = [_rollup(pid) for pid in family]
    except OSError:  # another system, or a kernel built without it
        return {}
    told: dict[str, float] = {
        "family_mib": round(sum(one.get("Pss", 0.0) for one in found), 1),
        "family_processes": len(family),
    }
    if "Pss_Anon" in found[0]:
        shared = sum(one.get("Anonymous", 0.0) - one.get("Pss_Anon", 0.0) for one in found)
        told["family_shared_mib"] = round(shared, 1)
    return told


def descendants(pid: int) -> list[int]:
    """A process and all that it and they have started. Raises OSError where the system has no such
    files.

    Processes end while this looks, and so do threads of this one, those of a loader say.
    """
    family = [pid]
    for member in family:  # grows while it is walked
        told, missing = False, None
        try:
            threads = os.listdir("/proc/%d/task" % member)
        except OSError:
            if member == pid:
                raise
            continue
        for thread in threads:
            try:
                with open("/proc/%d/task/%s/children" % (member, thread)) as file:
                    family.extend(map(int, file.read().split()))
                told = True
            except OSError as problem:
                missing = problem
        if missing is not None and not told and member == pid:
            raise missing
    return family


def _rollup(pid: int) -> dict[str, float]:
    """What the kernel adds up over all pages of a process, MiB; nothing of one that is gone."""
    try:
        with open("/proc/%d/smaps_rollup" % pid) as file:
            words = [line.split() for line in file]
    except OSError:
        if pid == os.getpid():
            raise
        return {}
    return {line[0][:-1]: int(line[1]) / 1024.0 for line in words if line[2:] == ["kB"]}
