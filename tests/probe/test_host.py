"""What the kernel tells of the memory that is left, of the host and of a container."""

from __future__ import annotations

import pytest

from d2check.probe import host
from d2check.probe.host import HostMemoryLeft

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
