"""The GPU as its driver sees it: how busy it is, and who else uses it.

By NVIDIA's management library (NVML), which comes with the driver; docs.nvidia.com/deploy/nvml-api
has the calls and the structures. Nothing needs to be installed, and nothing is changed.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

from .memory import MIB

NVML_LIBRARY = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"
CUDA_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
# What a process may hold beside PyTorch's own blocks: context, kernels, cuBLAS, cuDNN, NCCL. A few
# hundred MiB each; more than this is another process's.
BESIDE_TORCH_MIB = 2048.0

_SUCCESS, _NOT_SUPPORTED, _INSUFFICIENT_SIZE = 0, 3, 7
_UNKNOWN_BYTES = 2**64 - 1  # where the driver cannot tell a process's memory, as on Windows
_MOST_PROCESSES = 256
# nvmlClocksThrottleReason...: HwSlowdown, SwThermalSlowdown, HwThermalSlowdown, HwPowerBrake.
_SLOWED = 0x8 | 0x20 | 0x40 | 0x80


class Unavailable(Exception):
    """Why the GPU cannot be watched, to complete `not judged, because ...`."""


class _Utilisation(ctypes.Structure):
    _fields_ = [("gpu", ctypes.c_uint), ("memory", ctypes.c_uint)]


class _Memory(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]


class _Process(ctypes.Structure):  # nvmlProcessInfo_v2_t, of the functions ending in _v2 and _v3
    _fields_ = [
        ("pid", ctypes.c_uint),
        ("used_bytes", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    ]


class _ProcessUse(ctypes.Structure):  # nvmlProcessUtilizationSample_t
    _fields_ = [
        ("pid", ctypes.c_uint),
        ("timestamp_us", ctypes.c_ulonglong),
        ("sm", ctypes.c_uint),
        ("memory", ctypes.c_uint),
        ("encoder", ctypes.c_uint),
        ("decoder", ctypes.c_uint),
    ]


def pci_address(ordinal: int, library: str = CUDA_LIBRARY) -> bytes:
    """The bus address of the GPU that CUDA calls by this number, `CUDA_VISIBLE_DEVICES` heeded.

    CUDA's numbers and NVML's are in different orders. Raises Unavailable.
    """
    cuda = _load(library)
    device, address = ctypes.c_int(), ctypes.create_string_buffer(32)
    cuda.cuInit(0)
    if cuda.cuDeviceGet(ctypes.byref(device), ordinal) != _SUCCESS:
        raise Unavailable("CUDA's driver does not know GPU %d" % ordinal)
    if cuda.cuDeviceGetPCIBusId(address, len(address), device) != _SUCCESS:
        raise Unavailable("CUDA's driver does not tell where GPU %d is" % ordinal)
    return address.value


class Gpu:
    """One GPU that can be asked. Asking takes about a millisecond: now and then, not always."""

    def __init__(self, address: bytes, library: str = NVML_LIBRARY) -> None:
        """Find the GPU by its bus address. Raises Unavailable."""
        self._nvml = _load(library)
        self._call("nvmlInit_v2")
        self._device = ctypes.c_void_p()
        self._call("nvmlDeviceGetHandleByPciBusId_v2", address, ctypes.byref(self._device))
        mode, pending = ctypes.c_uint(), ctypes.c_uint()
        asked = self._try("nvmlDeviceGetMigMode", self._device, _at(mode), _at(pending))
        if asked == _SUCCESS and mode.value == 1:
            # Its figures would be those of the whole card, with everyone who has a part of it.
            raise Unavailable("the GPU is divided into instances (MIG)")
        self._last_seen_us = 0

    def sample(self, own_mib: float) -> dict[str, float]:
        """What is seen now; what the driver does not tell is absent.

        own_mib: what PyTorch has reserved in this process. gpu_busy: share of the last moment (up
        to a second) in which any kernel ran. gpu_others: other processes that compute on it.
        gpu_others_mib: what they hold, at least. gpu_others_busy: share of the last seconds in
        which the busiest of them had kernels there. gpu_slowed: 1 where heat or power hold its
        clocks down.
        """
        told: dict[str, float] = {}
        use, memory = _Utilisation(), _Memory()
        if self._try("nvmlDeviceGetUtilizationRates", self._device, _at(use)) == _SUCCESS:
            told["gpu_busy"] = use.gpu / 100.0
        reasons = ctypes.c_ulonglong()
        throttled = "nvmlDeviceGetCurrentClocksThrottleReasons"
        if self._try(throttled, self._device, _at(reasons)) == _SUCCESS:
            told["gpu_slowed"] = int(bool(reasons.value & _SLOWED))
        used_mib = None
        if self._try("nvmlDeviceGetMemoryInfo", self._device, _at(memory)) == _SUCCESS:
            used_mib = memory.used / MIB
        told.update(_others(self._processes(), own_mib, used_mib))
        busy = _others_busy(self._process_use(), told.get("gpu_others"))
        if busy is not None:
            told["gpu_others_busy"] = busy
        return told

    def _processes(self) -> list[tuple[int, float | None]]:
        """(id, MiB or None) of the processes that compute on the GPU; empty where none is told."""
        for name in (
            "nvmlDeviceGetComputeRunningProcesses_v3",
            "nvmlDeviceGetComputeRunningProcesses_v2",
        ):
            count = ctypes.c_uint(_MOST_PROCESSES)
            found = (_Process * _MOST_PROCESSES)()
            if self._try(name, self._device, _at(count), found) == _SUCCESS:
                return [
                    (p.pid, None if p.used_bytes == _UNKNOWN_BYTES else p.used_bytes / MIB)
                    for p in found[: count.value]
                ]
        return []

    def _process_use(self) -> dict[int, float]:
        """Share of the time since the last call in which a process had kernels on the GPU."""
        samples = (_ProcessUse * _MOST_PROCESSES)()
        count = ctypes.c_uint(_MOST_PROCESSES)
        since = ctypes.c_ulonglong(self._last_seen_us)
        name = "nvmlDeviceGetProcessUtilization"
        if self._try(name, self._device, samples, _at(count), since) != _SUCCESS:
            return {}  # also where no process has run since
        seen: dict[int, float] = {}
        for use in samples[: count.value]:
            if use.pid and use.timestamp_us > self._last_seen_us and use.sm <= 100:
                seen[use.pid] = max(seen.get(use.pid, 0.0), use.sm / 100.0)
        stamps = [use.timestamp_us for use in samples[: count.value]]
        self._last_seen_us = max([self._last_seen_us, *stamps])
        return seen

    def _call(self, name: str, *arguments: Any) -> None:
        status = self._try(name, *arguments)
        if status != _SUCCESS:
            raise Unavailable("%s of NVIDIA's management library answers %d" % (name, status))

    def _try(self, name: str, *arguments: Any) -> int:
        function = getattr(self._nvml, name, None)  # an older driver may lack it
        return _NOT_SUPPORTED if function is None else int(function(*arguments))


def _others(
    processes: list[tuple[int, float | None]], own_mib: float, used_mib: float | None
) -> dict[str, float]:
    """How many processes beside this one compute on the GPU, and what they hold at least.

    A container may see no process, only how much of the GPU is used.
    """
    others = [mib for pid, mib in processes if pid != os.getpid()]
    if others and len(others) == len(processes):
        # In a container the ids are those of the host: this process is one of them. The largest
        # that it can be leaves the least to the others, which is what is sure.
        candidates = [mib for mib in others if mib is not None and mib >= own_mib]
        others.remove(max(candidates, default=others[0]))
    told: dict[str, float] = {}
    if processes:
        told["gpu_others"] = len(others)
    known = [mib for mib in others if mib is not None]
    if processes and len(known) == len(others):
        told["gpu_others_mib"] = round(sum(known), 1)
    elif used_mib is not None:
        told["gpu_others_mib"] = round(max(0.0, used_mib - own_mib - BESIDE_TORCH_MIB), 1)
    return told


def _others_busy(by_process: dict[int, float], others: float | None) -> float | None:
    """How busy the busiest other process keeps the GPU; None where that is not known."""
    if others == 0:
        return 0.0
    uses = dict(by_process)
    if os.getpid() not in uses and uses:  # a container: the busiest is taken for this process
        uses.pop(max(uses, key=lambda pid: uses[pid]))
    uses.pop(os.getpid(), None)
    return max(uses.values(), default=0.0) if by_process else None


def _load(library: str) -> Any:
    try:
        return ctypes.CDLL(library)
    except OSError as problem:
        raise Unavailable("%s is not to be had" % library) from problem


def _at(value: Any) -> Any:
    return ctypes.byref(value)
