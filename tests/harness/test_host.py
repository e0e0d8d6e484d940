from __future__ import annotations

import pytest

from d2check.harness import host


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A made-up /proc and cgroup tree; writes one of their files."""
    monkeypatch.setattr(host, "PROC", tmp_path / "proc")
    monkeypatch.setattr(host, "CGROUP", tmp_path / "cgroup")

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    write("proc/meminfo", "MemTotal: 1024000 kB\nMemAvailable: 512000 kB\n")
    write("proc/vmstat", "nr_free 1\noom_kill 3\n")
    write("proc/self/cgroup", "0::/job/7\n")
    write("cgroup/job/7/memory.events", "low 0\noom 1\noom_kill 1\n")
    write("cgroup/job/7/memory.max", str(512 << 20))
    return write


def test_quiet_machine_gives_no_evidence(machine):
    watch = host.MemoryWatch()
    watch.sample()
    assert watch.evidence() is None


def test_kill_in_the_cgroup_is_evidence_and_names_the_limit(machine):
    watch = host.MemoryWatch()
    machine("cgroup/job/7/memory.events", "oom 2\noom_kill 2\n")
    assert (
        watch.evidence()
        == "the container ran out of its memory of 512 MiB (its cgroup counted a kill)"
    )


def test_kill_in_a_cgroup_of_version_one_is_evidence(machine):
    machine("proc/self/cgroup", "5:cpu:/x\n4:memory:/job/8\n")
    machine("cgroup/memory/job/8/memory.oom_control", "oom_kill_disable 0\noom_kill 0\n")
    watch = host.MemoryWatch()
    machine("cgroup/memory/job/8/memory.oom_control", "oom_kill_disable 0\noom_kill 1\n")
    assert "cgroup counted a kill" in (watch.evidence() or "")


def test_kill_on_the_host_is_evidence(machine):
    watch = host.MemoryWatch()
    machine("proc/vmstat", "oom_kill 4\n")
    assert "the host ran out of memory" in (watch.evidence() or "")


def test_memory_that_was_nearly_full_makes_a_kill_likely(machine):
    watch = host.MemoryWatch()
    machine("proc/meminfo", "MemTotal: 1024000 kB\nMemAvailable: 20480 kB\n")
    watch.sample()
    machine("proc/meminfo", "MemTotal: 1024000 kB\nMemAvailable: 900000 kB\n")
    watch.sample()
    assert "nearly out of memory (2% available)" in (watch.evidence() or "")


def test_machine_without_proc_has_no_evidence_and_still_says_what_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "PROC", tmp_path / "none")
    monkeypatch.setattr(host, "CGROUP", tmp_path / "none")
    watch = host.MemoryWatch()
    watch.sample()
    assert watch.evidence() is None
    facts = host.facts()
    assert facts["memory_mib"] is None
    assert facts["system"]


def test_facts_tell_memory_and_its_limit(machine):
    facts = host.facts()
    assert (facts["memory_mib"], facts["memory_limit_mib"]) == (1000, 512)
