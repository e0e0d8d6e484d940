"""What the kernel tells of the memory that is left, of the host and of a container."""

from __future__ import annotations

import os

import pytest

from d2check.probe import host
from d2check.probe.host import HostMemoryLeft, WorkersMemory

GIB_KIB = 2**20


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """A host of 64 GiB with 20 of them free, and a process in the group /jobs/mine."""
    monkeypatch.setattr(host, "PROC", str(tmp_path / "proc"))
    monkeypatch.setattr(host, "CGROUP", str(tmp_path / "cgroup"))
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(
        f"MemTotal: {64 * GIB_KIB} kB\nMemFree: 1 kB\nMemAvailable: {20 * GIB_KIB} kB\n"
    )
    (tmp_path / "proc/self/cgroup").write_text("0::/jobs/mine\n")
    (tmp_path / "cgroup/jobs/mine").mkdir(parents=True)
    return tmp_path


def limit(folder, gib, used_gib, caches_gib=0.0):
    (folder / "memory.max").write_text(f"{int(gib * 2**30)}\n")
    (folder / "memory.current").write_text(f"{int(used_gib * 2**30)}\n")
    half = int(caches_gib * 2**29)
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {half}\nactive_file {half}\n")


def test_a_host_without_limits(kernel):
    assert HostMemoryLeft().look() == (20 * 1024, 64 * 1024)


def test_a_container_with_less(kernel):
    """File caches are no use that the kernel would kill for."""
    limit(kernel / "cgroup/jobs/mine", 16, used_gib=15, caches_gib=6)
    assert HostMemoryLeft().look() == (7 * 1024, 16 * 1024)


def test_the_tightest_of_several_groups_counts(kernel):
    (kernel / "cgroup/jobs/mine/memory.max").write_text("max\n")
    limit(kernel / "cgroup/jobs", 32, used_gib=31)
    limit(kernel / "cgroup", 48, used_gib=33)
    assert HostMemoryLeft().look() == (1024, 32 * 1024)


def test_a_host_that_is_fuller_than_its_containers_limit(kernel):
    limit(kernel / "cgroup/jobs/mine", 60, used_gib=10)
    assert HostMemoryLeft().look() == (20 * 1024, 64 * 1024)


def test_another_system_tells_nothing(kernel):
    (kernel / "proc/meminfo").unlink()
    assert HostMemoryLeft().look() is None


@pytest.fixture
def holds(tmp_path, monkeypatch):
    """Processes by number, with the MiB that they hold of their own."""
    monkeypatch.setattr(host, "PROC", str(tmp_path))

    def hold(process, mib, shared=100):
        (tmp_path / str(process)).mkdir(exist_ok=True)
        pages = os.sysconf("SC_PAGE_SIZE") / 2**20
        resident, shared_pages = round((mib + shared) / pages), round(shared / pages)
        (tmp_path / str(process) / "statm").write_text(f"99 {resident} {shared_pages} 1 0 2 0\n")

    return hold


def test_workers_are_added_up_without_what_they_share(holds):
    looked = WorkersMemory()
    holds(7, 500)
    holds(8, 300, shared=4000)
    assert looked.look([7, 8]) == {}  # they may be gone in a moment
    told = looked.look([7, 8])
    assert told == {"workers_mib": 800.0, "worker_processes": 2, "worker_set": 1}


def test_other_workers_are_another_set(holds):
    looked = WorkersMemory()
    for process in (7, 8, 9):
        holds(process, 100)
    sets = [looked.look(now).get("worker_set") for now in ([7, 8], [7, 8], [9, 7], [9, 7], [9, 7])]
    assert sets == [None, 1, 2, 3, 3]


def test_a_program_that_is_called_for_a_moment_is_no_worker(holds):
    looked = WorkersMemory()
    for process in (7, 21, 22):
        holds(process, 100)
    told = [looked.look(now) for now in ([7], [7, 21], [7, 22], [7])][1:]
    assert told == [{"workers_mib": 100.0, "worker_processes": 1, "worker_set": 1}] * 3


def test_a_training_without_workers_tells_of_none(holds):
    looked = WorkersMemory()
    assert [looked.look([]), looked.look([])] == [{}, {}]
    holds(7, 100)
    looked.look([7])
    assert looked.look([7])["workers_mib"] == 100.0
    assert looked.look([]) == {}
