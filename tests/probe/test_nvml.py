"""The GPU as its driver tells it, against stand-ins for the driver's libraries."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from d2check.probe import nvml

MIB = 2**20
OWN, OTHER, THIRD = os.getpid(), 900_001, 900_002


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The stand-ins, compiled."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler, which the stand-in for the driver needs")
    library = tmp_path_factory.mktemp("driver") / "libfake.so"
    source = Path(__file__).with_name("fake_nvml.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return library


class Driver:
    """Sets what the stand-ins answer."""

    def __init__(self, path):
        self.path = str(path)
        self._library = ctypes.CDLL(self.path)

    def set(self, **values):
        """Whole numbers, by their names in the source."""
        for name, value in values.items():
            wide = name in ("used", "reasons")
            kind = ctypes.c_ulonglong if wide else ctypes.c_uint
            kind.in_dll(self._library, name).value = value

    def processes(self, *held):
        """(id, bytes) of each process that computes on the GPU."""
        rows = (nvml._Process * 8).in_dll(self._library, "processes")
        for row, (pid, used_bytes) in zip(rows, held, strict=False):
            row.pid, row.used_bytes = pid, used_bytes
        self.set(n_processes=len(held))

    def uses(self, *seen):
        """(id, time stamp, per cent) of what kernels ran."""
        rows = (nvml._ProcessUse * 8).in_dll(self._library, "uses")
        for row, (pid, stamp, percent) in zip(rows, seen, strict=False):
            row.pid, row.timestamp_us, row.sm = pid, stamp, percent
        self.set(n_uses=len(seen))

    @property
    def asked_for(self):
        """The address of the GPU that was looked for."""
        return (ctypes.c_char * 32).in_dll(self._library, "asked_for").value

    def sample(self, own_mib=1000.0):
        """One look at it."""
        return nvml.Gpu(b"0000:17:00.0", self.path).sample(own_mib)


@pytest.fixture
def driver(built):
    fake = Driver(built)
    fake.set(cuda_status=0, init_status=0, list_status=0, use_status=0, mig_status=3, mig=0)
    fake.set(busy=0, used=0, reasons=0)
    fake.processes()
    fake.uses()
    return fake


def test_the_gpu_is_the_one_that_cuda_calls_by_the_number(driver):
    nvml.Gpu(nvml.pci_address(1, driver.path), driver.path)
    assert driver.asked_for == b"0000:65:00.0"


def test_a_training_alone_on_its_gpu(driver):
    driver.set(busy=87, used=5000 * MIB)
    driver.processes((OWN, 4900 * MIB))
    driver.uses((OWN, 10, 80))
    assert driver.sample() == {
        "gpu_busy": 0.87,
        "gpu_slowed": 0,
        "gpu_others": 0,
        "gpu_others_mib": 0,
        "gpu_others_busy": 0.0,
    }


def test_another_process_is_told_by_its_memory_and_its_kernels(driver):
    driver.processes((OWN, 4900 * MIB), (OTHER, 3000 * MIB), (THIRD, 500 * MIB))
    driver.uses((OWN, 10, 50), (OTHER, 10, 40), (OTHER, 11, 45), (THIRD, 11, 0))
    told = driver.sample()
    assert (told["gpu_others"], told["gpu_others_mib"]) == (2, 3500)
    assert told["gpu_others_busy"] == 0.45


def test_a_process_that_only_holds_memory_keeps_nobody_waiting(driver):
    driver.processes((OWN, 4900 * MIB), (OTHER, 3000 * MIB))
    driver.uses((OWN, 10, 90))
    told = driver.sample()
    assert (told["gpu_others_mib"], told["gpu_others_busy"]) == (3000, 0.0)


def test_only_what_has_happened_since_the_last_look_counts(driver):
    driver.processes((OWN, 4900 * MIB), (OTHER, 3000 * MIB))
    driver.uses((OWN, 10, 50), (OTHER, 10, 90))
    gpu = nvml.Gpu(b"0000:17:00.0", driver.path)
    assert gpu.sample(1000.0)["gpu_others_busy"] == 0.9
    driver.uses((OWN, 20, 50), (OTHER, 10, 90))
    assert gpu.sample(1000.0)["gpu_others_busy"] == 0.0


def test_in_a_container_only_what_is_sure_is_told(driver):
    """The ids are the host's: which process is this one, only its memory may tell."""
    driver.processes((THIRD, 6000 * MIB), (OTHER, 3000 * MIB))
    driver.uses((THIRD, 10, 30), (OTHER, 10, 70))
    told = driver.sample(own_mib=2000.0)
    assert (told["gpu_others"], told["gpu_others_mib"]) == (1, 3000)  # or 6000: at least
    assert told["gpu_others_busy"] == 0.3
    told = driver.sample(own_mib=4000.0)
    assert told["gpu_others_mib"] == 3000


def test_a_container_that_sees_no_process_tells_what_torch_cannot_hold(driver):
    driver.set(used=9000 * MIB)
    told = driver.sample(own_mib=4000.0)
    assert told["gpu_others_mib"] == 9000 - 4000 - nvml.BESIDE_TORCH_MIB
    assert "gpu_others" not in told
    assert "gpu_others_busy" not in told
    driver.set(used=5000 * MIB)
    assert driver.sample(own_mib=4000.0)["gpu_others_mib"] == 0


def test_memory_that_the_driver_does_not_know_is_not_taken_for_a_number(driver):
    driver.set(used=7000 * MIB)
    driver.processes((OWN, 2**64 - 1), (OTHER, 2**64 - 1))
    told = driver.sample(own_mib=1000.0)
    assert (told["gpu_others"], told["gpu_others_mib"]) == (1, 7000 - 1000 - nvml.BESIDE_TORCH_MIB)


def test_a_driver_that_tells_little_is_no_error(driver):
    driver.set(list_status=3, use_status=3, busy=50)
    assert driver.sample(0.0) == {"gpu_busy": 0.5, "gpu_slowed": 0, "gpu_others_mib": 0}


@pytest.mark.parametrize(("reasons", "slowed"), [(0, 0), (0x1, 0), (0x4, 0), (0x40, 1), (0x24, 1)])
def test_clocks_count_as_slowed_by_heat_and_power_faults_only(driver, reasons, slowed):
    """Idle clocks (1) and the usual power cap (4) are how a GPU works."""
    driver.set(reasons=reasons)
    assert driver.sample()["gpu_slowed"] == slowed


def test_a_divided_gpu_is_not_judged(driver):
    driver.set(mig_status=0, mig=1)
    with pytest.raises(nvml.Unavailable, match="MIG"):
        driver.sample()
    driver.set(mig=0)
    assert "gpu_busy" in driver.sample()


def test_why_a_gpu_cannot_be_watched_is_told(driver):
    with pytest.raises(nvml.Unavailable, match="libmissing is not to be had"):
        nvml.Gpu(b"", "libmissing")
    driver.set(init_status=9)
    with pytest.raises(nvml.Unavailable, match=r"nvmlInit_v2 .* answers 9"):
        driver.sample()
    driver.set(cuda_status=101)
    with pytest.raises(nvml.Unavailable, match="does not know GPU 3"):
        nvml.pci_address(3, driver.path)
