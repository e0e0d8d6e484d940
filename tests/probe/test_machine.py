"""What is looked at now and then, and how rarely."""

from __future__ import annotations

import os
import subprocess
import sys
import types

import pytest

from d2check.model import Verdict
from d2check.probe import machine, nvml, wire
from d2check.probe.machine import RARELY, Machine, Now
from d2check.probe.stopping import LoopEnded
from d2check.rules.judge import judge
from d2check.rules.load import load_rules
from d2check.sources.run_folder import read_run_folder


@pytest.fixture
def clock(monkeypatch):
    """Seconds, which only the test lets pass."""
    now = types.SimpleNamespace(s=100.0)
    monkeypatch.setattr(machine.time, "perf_counter", lambda: now.s)
    return now


def test_a_costly_look_is_a_rare_one(clock):
    def look_for(seconds):
        clock.s += seconds
        return {"seen": 1.0}

    now = Now()
    assert now.due()
    assert now.look(lambda: look_for(0.05)) == {"seen": 1.0}
    clock.s += RARELY * 0.05 - 0.1
    assert not now.due()
    clock.s += 0.2
    assert now.due()


def test_a_cheap_look_is_taken_once_a_second(clock):
    now = Now()
    now.look(dict)
    clock.s += 0.9
    assert not now.due()
    clock.s += 0.2
    assert now.due()


def test_time_that_another_program_took_makes_no_look_a_rare_one(clock):
    used = types.SimpleNamespace(s=0.0)

    def interrupted():
        clock.s += 30.0
        used.s += 0.001
        return {"seen": 1.0}

    now = Now(lambda: used.s)
    now.look(interrupted)
    clock.s += RARELY * 0.001 + 0.1
    assert now.due()


class Gpu:
    """A GPU whose other users come and go."""

    def __init__(self):
        self.others_mib = [100.0, 120.0, 5000.0, 200.0]
        self.asked_with = []

    def sample(self, own_mib):
        self.asked_with.append(own_mib)
        return {"gpu_busy": 0.9, "gpu_others_mib": self.others_mib.pop(0)}


@pytest.fixture(autouse=True)
def host(monkeypatch):
    """A host that does not tell of its memory, unless a test says what it has."""
    free = types.SimpleNamespace(mib=None)
    look = lambda self: free.mib and (free.mib, 64000.0)  # noqa: E731
    monkeypatch.setattr(machine.HostMemoryLeft, "look", look)
    return free


@pytest.fixture
def told(monkeypatch):
    """What the machine records; no memory of processes is looked up."""
    monkeypatch.setattr(machine, "family_memory", dict)
    monkeypatch.setattr(machine, "descendants", lambda pid: [pid])
    return []


@pytest.fixture
def watched(told, monkeypatch):
    gpu = Gpu()
    monkeypatch.setattr(nvml, "pci_address", lambda ordinal: b"0000:17:00.%d" % ordinal)
    monkeypatch.setattr(nvml, "Gpu", lambda address: gpu)
    cuda = types.SimpleNamespace(memory_reserved=lambda device: 3 * 2**20)
    session = types.SimpleNamespace(recorder=types.SimpleNamespace(write=told.append))
    return Machine(session, cuda, types.SimpleNamespace(index=0)), gpu


def test_who_holds_the_gpu_is_known_before_the_first_and_after_the_last_iteration(
    watched, told, clock
):
    """Memory may run out before any iteration is over, and because others have just taken it."""
    looked, gpu = watched
    looked.begin()
    assert told == [{"t": "facts", "facts": {"gpu_held_by_others_mib": 100.0}}]
    assert looked.take() == {}  # less than a second later
    clock.s += 2
    assert looked.take() == {"gpu_busy": 0.9, "gpu_others_mib": 120.0}
    assert len(told) == 1  # hardly more
    clock.s += 2
    looked.take()
    assert told[-1]["facts"] == {"gpu_held_by_others_mib": 5000.0}
    looked.end()
    assert told[-1]["facts"] == {"gpu_held_by_others_mib": 200.0}  # they have left meanwhile
    assert gpu.asked_with == [3.0, 3.0, 3.0, 3.0]


def test_with_an_allocator_that_does_not_tell_what_is_ones_own_nobody_is_blamed(watched, told):
    looked, _ = watched

    def refuse(device):
        raise RuntimeError("CUDAPluggableAllocator does not yet support getDeviceStats.")

    looked._cuda.memory_reserved = refuse
    looked.begin()
    looked.end()
    why = "PyTorch's allocator does not tell what it holds"
    assert told == [{"t": "facts", "facts": {"gpu_unwatched": why}}]


def test_a_machine_without_the_drivers_library_says_so(told):
    session = types.SimpleNamespace(recorder=types.SimpleNamespace(write=told.append))
    cuda = types.SimpleNamespace(current_device=lambda: 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nvml, "pci_address", lambda _: nvml._load("libmissing.so.1"))
        looked = Machine(session, cuda, types.SimpleNamespace(index=None))
        looked.begin()
    looked.end()
    assert looked.take() == {}
    assert told == [{"t": "facts", "facts": {"gpu_unwatched": "libmissing.so.1 is not to be had"}}]


def test_the_hosts_free_memory_is_looked_at_once_a_second(told, host, clock):
    host.mib = 9000.0
    session = types.SimpleNamespace(recorder=types.SimpleNamespace(write=told.append))
    looked = Machine(session)
    looked.begin()
    assert told == [{"t": "facts", "facts": {"host_total_mib": 64000.0}}]
    assert looked.take() == {"host_free_mib": 9000.0}
    assert looked.take() == {}
    clock.s += 1.5
    host.mib = 500.0
    assert looked.take() == {"host_free_mib": 500.0}


def test_processes_are_added_up_once_the_workers_have_filled_their_queues(monkeypatch, clock):
    monkeypatch.setattr(machine, "family_memory", lambda: {"family_mib": 900.0})
    monkeypatch.setattr(machine, "descendants", lambda pid: [pid])
    looked = Machine(None)
    looked.begin()
    seen = [looked.take() for _ in range(machine.FAMILY_AFTER + 5)]
    assert [n for n, one in enumerate(seen) if one] == [machine.FAMILY_AFTER - 1]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_counts_all_processes_and_what_they_share_once():
    alone = machine.family_memory()
    if not alone:
        pytest.skip("this kernel does not tell the memory of processes in proportion")
    worker = "import time; kept = bytearray(80 << 20); print(flush=True); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {worker!r}])"
    child = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE)
    try:
        child.stdout.readline()
        family = machine.descendants(os.getpid())
        together = machine.family_memory()
    finally:
        for pid in machine.descendants(child.pid)[::-1]:
            os.kill(pid, 9)
        child.wait()
        child.stdout.close()
    assert len(family) >= 3  # the worker is a child of a child
    assert together["family_mib"] - alone["family_mib"] > 80
    assert together["family_processes"] == alone["family_processes"] + 2


FORKED = """
import os, sys, time
inherited = bytearray(b"x") * (60 << 20)
child = os.fork()
if not child:
    sys.stdin.readline()
    if sys.argv[1] == "copy":
        for at in range(0, len(inherited), 4096):
            inherited[at] = 1
    else:
        kept = b"y" * (50 << 20)
    print(flush=True)
    time.sleep(60)
print(flush=True)
os.wait()
"""


@pytest.fixture
def forked():
    """Starts a process that forks one, which takes memory or copies what it inherited."""
    started = []

    def start(what):
        process = subprocess.Popen(
            [sys.executable, "-c", FORKED, what], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        started.append(process)
        process.stdout.readline()
        return process

    def go_on():
        started[0].stdin.write(b"\n")
        started[0].stdin.flush()
        started[0].stdout.readline()

    yield start, go_on
    for process in started:
        for pid in machine.descendants(process.pid)[::-1]:
            os.kill(pid, 9)
        process.wait()
        process.stdin.close()
        process.stdout.close()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("does", "grown_mib"), [("take", 50), ("copy", 0)])
def test_what_a_worker_comes_to_hold_is_seen_and_what_it_inherited_is_not(forked, does, grown_mib):
    start, go_on = forked
    start(does)
    looked = machine.WorkersMemory()
    looked.look(machine.descendants(os.getpid())[1:])
    before = looked.look(machine.descendants(os.getpid())[1:])
    go_on()
    after = looked.look(machine.descendants(os.getpid())[1:])
    assert before["worker_set"] == after["worker_set"]
    assert before["workers_mib"] > 120  # both hold what one has inherited
    assert after["workers_mib"] - before["workers_mib"] == pytest.approx(grown_mib, abs=3)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_thread_that_ends_while_it_is_looked_at_breaks_nothing(monkeypatch):
    gone = str(2**30)  # above any id that Linux gives
    listdir = os.listdir
    monkeypatch.setattr(machine.os, "listdir", lambda path: [*listdir(path), gone])
    assert machine.descendants(os.getpid())[0] == os.getpid()
    monkeypatch.setattr(machine.os, "listdir", lambda path: [gone])
    with pytest.raises(OSError, match=gone):
        machine.descendants(os.getpid())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("does", "copied_mib"), [("take", 0), ("copy", 60)])
def test_what_workers_copy_of_what_they_share_is_told_at_the_end(forked, does, copied_mib):
    start, go_on = forked
    start(does)
    if "family_shared_mib" not in machine.family_memory():
        pytest.skip("this kernel does not tell what is shared")
    told = []
    looked = Machine(types.SimpleNamespace(recorder=types.SimpleNamespace(write=told.append)))
    for _ in range(machine.FAMILY_AFTER):
        looked.take()
    go_on()
    looked.take()
    looked.end()
    facts = told[-1]["facts"]
    assert facts["workers_copied_mib"] == pytest.approx(copied_mib, abs=3)
    assert facts["workers_copied_iterations"] == 1
    assert facts["workers_shared_mib"] >= 0


def test_a_training_that_breaks_waits_for_no_look(monkeypatch, clock):
    told, looks = [], []
    monkeypatch.setattr(
        machine, "family_memory", lambda: looks.append(1) or {"family_shared_mib": 500.0}
    )
    monkeypatch.setattr(machine, "descendants", lambda pid: [1, 2])
    looked = Machine(types.SimpleNamespace(recorder=types.SimpleNamespace(write=told.append)))
    for _ in range(machine.FAMILY_AFTER):
        looked.take()
    for error, times in ((ValueError("broken"), 1), (LoopEnded("iterations"), 2)):
        try:
            raise error
        except (ValueError, LoopEnded):
            looked.end()
        assert len(looks) == times
    assert told[0]["facts"]["workers_shared_mib"] == 500.0


def test_nothing_is_told_of_other_workers_than_those_of_the_first_look(monkeypatch, clock):
    told, family = [], [1, 2, 3]
    monkeypatch.setattr(machine, "family_memory", lambda: {"family_shared_mib": 500.0})
    monkeypatch.setattr(machine, "descendants", lambda pid: list(family))
    looked = Machine(types.SimpleNamespace(recorder=types.SimpleNamespace(write=told.append)))
    for _ in range(machine.FAMILY_AFTER):
        looked.take()
    family[1:] = [4, 5]
    looked.end()
    assert told == []


def test_looks_are_series_of_the_run_and_judged(tmp_path):
    """As the probe writes them: in one record of some."""
    lines = [{"t": "begin", "rank": 0, "world_size": 1, "facts": {"device": "cuda"}}]
    for i in range(60):
        looked = {"machine": {"gpu_busy": 0.9, "gpu_others_busy": 0.6}} if i % 5 == 0 else {}
        lines.append({"t": "iter", "i": i, "clock": 100.0 + i, "scalars": {}, **looked})
    (tmp_path / wire.RECORDS).write_text("".join(map(wire.encode, lines)))
    (run,) = read_run_folder(tmp_path)
    assert list(run.series["gpu_busy"].iterations) == list(range(0, 60, 5))
    (rule,) = [rule for rule in load_rules() if rule.id == "time/shared-gpu"]
    finding = judge([rule], run)[0]
    assert finding.verdict is Verdict.WARN
    assert "100% of 12 looks, 60% of the time" in (finding.message or "")


def test_a_look_is_no_part_of_any_iterations_time(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    train_loop = pytest.importorskip("detectron2.engine.train_loop")
    from detectron2.utils.events import EventStorage

    from d2check.probe import clocks
    from d2check.probe.iteration import IterationProbe, make_hooks
    from d2check.probe.plan import Plan
    from d2check.probe.recorder import Recorder
    from d2check.probe.session import Session
    from d2check.probe.stopping import StopRule

    now = types.SimpleNamespace(s=0.0)

    def pass_by(seconds):
        now.s += seconds
        return {"family_mib": 900.0}

    class Model(torch.nn.Linear):
        def forward(self, batch):
            pass_by(1.0)
            return {"loss": self.weight.sum()}

    monkeypatch.setattr(clocks, "_now_s", lambda: now.s)
    monkeypatch.setattr(Machine, "take", lambda self: pass_by(100.0))
    model = Model(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = train_loop.SimpleTrainer(model, [[]] * 9, optimizer)
    session = Session(Plan({"folder": str(tmp_path)}), Recorder(str(tmp_path)))
    session.recorder.open(0)
    with EventStorage(0) as trainer.storage:
        probe = IterationProbe(session, trainer, StopRule(str(tmp_path / "stop"), None, None))
        trainer.register_hooks(make_hooks(train_loop.HookBase, probe, lambda reason: None))
        probe.attach()
        for trainer.iter in range(3):
            trainer.before_step()
            trainer.run_step()
            trainer.after_step()
        probe.flush()
        probe.detach()
    records = map(wire.decode, (tmp_path / wire.RECORDS).read_text().splitlines())
    assert [record["total_s"] for record in records if record["t"] == "iter"] == [1.0, 1.0, 1.0]
