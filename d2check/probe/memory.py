"""Memory of the training process: what it holds, and the peak of each iteration."""

from __future__ import annotations

import os
from typing import Any

MIB = 2.0**20


class HostMemory:
    """Resident memory of this process (its loader workers not counted), MiB."""

    def __init__(self) -> None:
        """Keep /proc/self/statm open where there is one; `resource` serves elsewhere."""
        self._page = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
        try:
            self._file: int | None = os.open("/proc/self/statm", os.O_RDONLY)
        except OSError:
            self._file = None

    def rss_mib(self) -> float | None:
        """Resident memory now; its peak where the system tells no more (macOS); None on Windows."""
        if self._file is not None:
            pages = int(os.pread(self._file, 128, 0).split()[1])
            return round(pages * self._page / MIB, 2)
        try:
            import resource
        except ImportError:
            return None
        return float(round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB, 2))


class Untold(Exception):
    """Why an allocator tells nothing of its memory, to complete `not recorded: ...`."""


def cuda_meter(cuda: Any, device: Any) -> CudaMeter:
    """The meter of a GPU that holds a model. Raises Untold."""
    try:
        meter = CudaMeter(cuda, device)
        held_mib = meter.take()["allocated_mib"]
    except RuntimeError as problem:  # of torch.cuda.memory.CUDAPluggableAllocator
        raise Untold("the allocator keeps no statistics: %s" % str(problem)[:200]) from problem
    if not held_mib:
        raise Untold("PyTorch's caching allocator is off (PYTORCH_NO_CUDA_MEMORY_CACHING)")
    return meter


class CudaMeter:
    """The allocator of one GPU: what it holds, and the peaks since it was last asked.

    For peaks of single iterations the allocator's are reset after each. What the training itself
    asks torch for (Detectron2's `max_mem`, TorchMemoryStats) stays the maximum since it began, or
    since its own last reset: all of those questions end in `memory_stats_as_nested_dict`, which
    answers with the maxima that are kept here.
    """

    def __init__(self, cuda: Any, device: Any) -> None:
        """`cuda`: torch.cuda. `device`: the GPU, with its index or the current one."""
        self._cuda = cuda
        self._device = device
        self._index = cuda.current_device() if device.index is None else device.index
        # Bound here: `torch.cuda` shows the training others of these names, see `begin`.
        self._read = cuda.memory_stats_as_nested_dict
        self._reset = cuda.reset_peak_memory_stats
        self._kept: dict[tuple[str, str], int] = {}  # highest peaks before the latest reset
        earlier = getattr(self._read, "__self__", None)
        if isinstance(earlier, CudaMeter):  # of a training that this process recorded before
            self._read, self._reset = earlier._read, earlier._reset
            self._kept = earlier._kept if earlier._index == self._index else {}
        self._before_own_reset = (0, 0)  # allocated, reserved: where the training reset them itself

    def begin(self) -> None:
        """Show the training its own maxima from now on, and forget the peaks of its building."""
        for module in (self._cuda, self._cuda.memory):
            module.memory_stats_as_nested_dict = self._shown
            module.reset_peak_memory_stats = self._reset_by_training
        self.take()

    def take(self) -> dict[str, Any]:
        """The `memory` of an iteration's record, MiB; peaks are those since the last call.

        The nested form of the statistics: flattening them, as `memory_stats` does, takes ten times
        longer than asking for them. They are the allocator's own and need no synchronisation.
        """
        stats = self._read(device=self._device)
        self._keep(stats)
        self._reset(self._device)
        own_allocated, own_reserved = self._before_own_reset
        self._before_own_reset = (0, 0)
        allocated, reserved = stats["allocated_bytes"]["all"], stats["reserved_bytes"]["all"]
        return {
            "allocated_mib": round(allocated["current"] / MIB, 2),
            "reserved_mib": round(reserved["current"] / MIB, 2),
            "peak_allocated_mib": round(max(allocated["peak"], own_allocated) / MIB, 2),
            "peak_reserved_mib": round(max(reserved["peak"], own_reserved) / MIB, 2),
            "retries": stats["num_alloc_retries"],
            "ooms": stats["num_ooms"],
        }

    def begin_trial(self) -> None:
        """Give back what is only cached, and forget the peaks: something is tried."""
        self._cuda.empty_cache()
        self._keep(self._read(device=self._device))
        self._reset(self._device)

    def take_trial(self) -> dict[str, float]:
        """As `take`, of what was tried; the training's maxima know nothing of it."""
        self._cuda.synchronize(self._device)
        stats = self._read(device=self._device)
        return {
            "peak_allocated_mib": round(stats["allocated_bytes"]["all"]["peak"] / MIB, 2),
            "peak_reserved_mib": round(stats["reserved_bytes"]["all"]["peak"] / MIB, 2),
        }

    def end_trial(self) -> float:
        """Give back what the trial has taken, and forget its peaks. What stays held, MiB."""
        self._cuda.empty_cache()
        self._reset(self._device)
        stats = self._read(device=self._device)
        return round(float(stats["allocated_bytes"]["all"]["current"] / MIB), 2)

    def capacity(self) -> dict[str, float]:
        """Facts: `gpu_total_mib`, and `gpu_other_mib`, which is not this allocator's.

        The latter: CUDA's own context, NCCL, other processes. Absent before torch 1.11.
        """
        if not hasattr(self._cuda, "mem_get_info"):
            return {}
        free, total = self._cuda.mem_get_info(self._device)
        reserved = self._read(device=self._device)["reserved_bytes"]["all"]["current"]
        return {
            "gpu_total_mib": round(total / MIB, 1),
            "gpu_other_mib": round(max(0, total - free - reserved) / MIB, 1),
        }

    def _keep(self, stats: dict[str, Any]) -> None:
        kept = self._kept
        for name, pools in stats.items():
            if type(pools) is not dict:
                continue
            for pool, numbers in pools.items():
                if type(numbers) is dict and numbers.get("peak", 0) > kept.get((name, pool), 0):
                    kept[name, pool] = numbers["peak"]

    def _shown(self, device: Any = None) -> Any:
        stats = self._read(device=device)
        if self._is_ours(device):
            for (name, pool), peak in self._kept.items():
                numbers = stats.get(name, {}).get(pool, {})
                numbers["peak"] = max(peak, numbers.get("peak", 0))
        return stats

    def _reset_by_training(self, device: Any = None) -> Any:
        if self._is_ours(device):
            stats = self._read(device=self._device)
            peaks = (stats[name]["all"]["peak"] for name in ("allocated_bytes", "reserved_bytes"))
            before = self._before_own_reset
            allocated, reserved = map(max, zip(before, peaks))
            self._before_own_reset = allocated, reserved
            self._kept.clear()
        return self._reset(device)

    def _is_ours(self, device: Any) -> bool:
        if isinstance(device, str):
            device = int(device.rpartition(":")[2]) if ":" in device else None
        index = getattr(device, "index", device)
        return bool((self._cuda.current_device() if index is None else index) == self._index)


class HostMeter:
    """The same for the memory of this process, on a machine without a GPU. Linux only.

    Resident memory stands for what is allocated and for what is reserved. Its peak is the kernel's
    (VmHWM), which a process may reset for itself.
    """

    def __init__(self, capacity_mib: float | None = None) -> None:
        """`capacity_mib`: of the GPU that the host stands for. Raises OSError off Linux."""
        self._status = os.open("/proc/self/status", os.O_RDONLY)
        self._clear = os.open("/proc/self/clear_refs", os.O_WRONLY)
        self._capacity_mib = capacity_mib

    def begin(self) -> None:
        """Forget the peak of what was before."""
        self._reset()

    def take(self) -> dict[str, float]:
        """The `memory` of an iteration's record, MiB; peaks are those since the last call."""
        peak_mib, held_mib = self._figures()
        self._reset()
        return {
            "allocated_mib": held_mib,
            "reserved_mib": held_mib,
            "peak_allocated_mib": peak_mib,
            "peak_reserved_mib": peak_mib,
        }

    def begin_trial(self) -> None:
        """Give back what the C library only keeps, and forget the peak."""
        self._trim()
        self._reset()

    def take_trial(self) -> dict[str, float]:
        """As `take`, of what was tried."""
        peak_mib, _ = self._figures()
        return {"peak_allocated_mib": peak_mib, "peak_reserved_mib": peak_mib}

    def end_trial(self) -> float:
        """Give back what the trial has taken. What stays held, MiB."""
        self.begin_trial()
        return self._figures()[1]

    def capacity(self) -> dict[str, float]:
        """Facts: what stands for the GPU's memory."""
        if self._capacity_mib is None:
            return {}
        return {"gpu_total_mib": self._capacity_mib, "gpu_other_mib": 0.0}

    def _figures(self) -> tuple[float, float]:
        told = os.pread(self._status, 4096, 0)
        found = []
        for name in (b"VmHWM:", b"VmRSS:"):
            at = told.index(name) + len(name)
            found.append(round(int(told[at : told.index(b"kB", at)]) / 1024.0, 2))
        return found[0], found[1]

    def _reset(self) -> None:
        os.pwrite(self._clear, b"5", 0)  # proc(5): the peak becomes what is resident now

    @staticmethod
    def _trim() -> None:
        import ctypes

        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        if trim is not None:
            trim(0)
