from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from d2check.errors import LaunchError
from d2check.harness import manifest, output
from d2check.harness.launch import launch
from d2check.model import EndingKind

from .conftest import QUICK, alive, wait_until

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and process groups")
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and child subreapers")


def ending_of(plan):
    return json.loads((plan.folder / "ending.json").read_text())


def manifest_of(plan):
    return json.loads((plan.folder / "manifest.json").read_text())


def test_child_that_stops_as_asked_leaves_a_complete_folder(plan_for):
    plan = plan_for("""
        begin(torch="2.0", gpu_name="H100")
        record("note", kind="neutralised", message="OUTPUT_DIR moved")
        iterate(0, 10)
        record("facts", facts={"load_s_per_image": 0.01})
        record("end", kind="stopped", i=9, reason="iterations")
        print("to stdout"); print("to stderr", file=sys.stderr)
    """)
    records, lines = [], []
    ending = launch(plan, records.append, lines.append)

    assert (ending.kind, ending.iteration, ending.message) == (EndingKind.STOPPED, 9, None)
    assert [r["t"] for r in records] == ["begin", "note", *["iter"] * 10, "facts", "end"]
    assert sorted(lines) == ["to stderr", "to stdout"]
    written = ending_of(plan)
    assert (written["kind"], written["exit_status"], written["signal"]) == ("stopped", 0, None)
    assert written["recording_failed"] is None
    manifest = manifest_of(plan)
    assert manifest["facts"] == {"torch": "2.0", "gpu_name": "H100", "load_s_per_image": 0.01}
    assert manifest["neutralised"] == ["OUTPUT_DIR moved"]
    assert manifest["trackers"]["WANDB_MODE"] == "disabled"
    assert (plan.folder / "stdout.log").read_text() == "to stdout\n"
    assert (plan.folder / "stderr.log").read_text() == "to stderr\n"
    assert not list(plan.folder.glob("*.partial"))


def test_child_sees_the_users_environment_and_folder_with_trackers_off(plan_for, monkeypatch):
    monkeypatch.setenv("MY_DATA", "/data")
    monkeypatch.setenv("WANDB_MODE", "online")
    plan = plan_for("print(os.environ['MY_DATA'], os.environ['WANDB_MODE'], os.getcwd())")
    lines = []
    launch(plan, on_line=lines.append)
    assert lines == [f"/data disabled {plan.cwd}"]


def test_trackers_stay_on_when_nothing_shall_be_neutralised(plan_for, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    plan = plan_for("print(os.environ['WANDB_MODE'])", neutralise=False)
    lines = []
    launch(plan, on_line=lines.append)
    assert lines == ["online"]


def test_crash_that_the_probe_recorded_keeps_its_words_stage_and_frames(plan_for):
    plan = plan_for("""
        begin()
        iterate(0, 4)
        record("end", kind="crashed", i=3, error="KeyError", message="'no data set x'",
               stage="dataset", registered=["coco"], traceback=[["/u/train.py", 3, "main", "go()"]])
        sys.exit(1)
    """)
    ending = launch(plan)
    assert ending.kind is EndingKind.CRASHED
    assert (ending.error, ending.iteration, ending.stage) == ("KeyError", 3, "dataset")
    assert ending.traceback == ("/u/train.py:3 in main: go()",)
    written = ending_of(plan)
    assert (written["exit_status"], written["registered"]) == (1, ["coco"])
    assert written["stage"] == "dataset"


def test_crash_before_the_probe_speaks_is_read_from_stderr(plan_for):
    plan = plan_for("import not_there_at_all")
    ending = launch(plan)
    assert (ending.kind, ending.error) == (EndingKind.CRASHED, "ModuleNotFoundError")
    assert ending.message == "No module named 'not_there_at_all'"
    assert ending.traceback[-1].endswith("in <module>: import not_there_at_all")


@posix
def test_sigkill_is_an_ending_that_names_the_signal(plan_for):
    plan = plan_for("begin(); iterate(0, 5); os.kill(os.getpid(), signal.SIGKILL)")
    ending = launch(plan)
    assert (ending.kind, ending.error, ending.iteration) == (EndingKind.KILLED, "SIGKILL", 4)
    assert "SIGKILL" in ending.message
    assert ending_of(plan)["signal"] == "SIGKILL"


@posix
def test_segfault_names_the_line_that_it_happened_in(plan_for):
    plan = plan_for("""
        begin()
        iterate(0, 2)
        def native():
            os.kill(os.getpid(), signal.SIGSEGV)
            time.sleep(60)
        native()
    """)
    ending = launch(plan)
    assert (ending.kind, ending.error) == (EndingKind.KILLED, "SIGSEGV")
    assert any(frame.endswith("in native") for frame in ending.traceback)


@linux
def test_workers_end_with_a_killed_child_even_in_sessions_of_their_own(plan_for):
    plan = plan_for("""
        begin()
        stubborn = "import signal,time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
        worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        apart = subprocess.Popen([sys.executable, "-c", stubborn], start_new_session=True)
        note_pid("worker", worker.pid); note_pid("apart", apart.pid)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    ending = launch(plan)
    assert ending.kind is EndingKind.KILLED
    pids = [int((plan.folder / name).read_text()) for name in ("worker", "apart")]
    assert [alive(pid) for pid in pids] == [False, False]


@posix
def test_child_that_hangs_while_iterating_is_ended_and_says_where(plan_for):
    plan = plan_for("""
        begin()
        iterate(0, 30)
        def waits_for_ever():
            while True:
                time.sleep(600)
        waits_for_ever()
    """)
    ending = launch(plan, limits=QUICK)
    assert (ending.kind, ending.iteration) == (EndingKind.HUNG, 29)
    assert "no iteration ended for" in ending.message
    assert "in waits_for_ever" in ending.message
    assert ending.traceback[-1].endswith("in waits_for_ever")
    assert ending_of(plan)["kind"] == "hung"


@linux
def test_hung_child_that_ignores_every_polite_signal_is_ended_with_its_worker(plan_for):
    plan = plan_for(
        """
        import faulthandler
        faulthandler.disable()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGABRT):
            signal.signal(number, signal.SIG_IGN)
        begin()
        iterate(0, 30)
        worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        note_pid("worker", worker.pid); note_pid("self", os.getpid())
        time.sleep(600)
        """
    )
    ending = launch(plan, limits=QUICK)
    assert ending.kind is EndingKind.HUNG
    for name in ("worker", "self"):
        assert not alive(int((plan.folder / name).read_text()))


def test_child_that_never_leaves_after_its_end_is_judged_by_its_training(plan_for):
    plan = plan_for("""
        begin(); iterate(0, 3)
        record("end", kind="stopped", i=2, reason="iterations")
        time.sleep(600)
    """)
    ending = launch(plan, limits=QUICK)
    assert (ending.kind, ending.iteration) == (EndingKind.STOPPED, 2)
    assert "did not leave" in ending.message


def test_child_is_told_why_no_further_iteration_is_needed(plan_for):
    plan = plan_for("""
        begin()
        iterate(0, 40)
        while not os.path.exists(os.path.join(FOLDER, "stop")):
            time.sleep(0.01)
        told = json.load(open(os.path.join(FOLDER, "stop"), encoding="utf-8"))
        record("note", kind="ended-early", message=told["why"])
        record("end", kind="stopped", i=39, reason="verdict")
    """)
    records, asked = [], []

    def enough(record):
        asked.append(record["t"])
        return {"why": "the loss rises"} if record.get("i", -1) >= 5 else None

    ending = launch(plan, records.append, enough=enough)
    assert (ending.kind, ending.iteration, ending.message) == (EndingKind.STOPPED, 39, None)
    assert {"t": "note", "kind": "ended-early", "message": "the loss rises"} in records
    assert "begin" in asked


def test_without_a_reason_no_stop_file_is_written(plan_for):
    plan = plan_for("""
        begin()
        iterate(0, 10)
        record("end", kind="stopped", i=9, reason="iterations")
    """)
    launch(plan, enough=lambda record: None)
    assert not (plan.folder / "stop").exists()


def test_child_past_its_budget_is_told_by_the_stop_file_first(plan_for):
    plan = plan_for(
        """
        begin()
        for i in range(100000):
            iterate(i, i + 1)
            time.sleep(0.02)
            if os.path.exists(os.path.join(FOLDER, "stop")):
                record("end", kind="stopped", i=i, reason="stop file")
                break
        """,
        iterations=None,
        budget_s=0.1,
    )
    ending = launch(plan, limits=QUICK)
    assert (ending.kind, ending.message) == (EndingKind.STOPPED, None)
    assert ending_of(plan)["exit_status"] == 0


def test_child_that_ignores_budget_and_stop_file_is_ended_from_outside(plan_for):
    plan = plan_for(
        """
        begin()
        for i in range(100000):
            iterate(i, i + 1)
            time.sleep(0.02)
        """,
        iterations=None,
        budget_s=0.1,
    )
    ending = launch(plan, limits=QUICK)
    assert (ending.kind, ending.message) == (
        EndingKind.STOPPED,
        "ended from outside, past its budget",
    )


PARENT = """
import sys
from pathlib import Path
sys.path.insert(0, {package!r})
from d2check.harness.launch import launch
from d2check.harness.plan import Plan
plan = Plan(folder=Path({folder!r}), command={command!r},
            entry={{"kind": "config", "overrides": []}}, cwd=Path({cwd!r}))
print(launch(plan).kind.value)
"""

ENDLESS = """
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    note_pid("worker", worker.pid)
    begin(); iterate(0, 5)
    note_pid("self", os.getpid())
    time.sleep(600)
"""


def start_parent(plan):
    """d2check in a process of its own, once its child is under way."""
    package = str(Path(output.__file__).parents[2])
    code = PARENT.format(
        package=package, folder=str(plan.folder), command=plan.command, cwd=str(plan.cwd)
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_until(lambda: (plan.folder / "self").exists())
    pids = [int((plan.folder / name).read_text()) for name in ("self", "worker")]
    return parent, pids


@linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupt_of_d2check_ends_child_and_workers_and_keeps_the_folder(plan_for, number):
    plan = plan_for(ENDLESS)
    parent, pids = start_parent(plan)
    parent.send_signal(number)
    said, _ = parent.communicate(timeout=60)
    assert said.strip() == "interrupted"
    assert (plan.folder / "stop").exists()
    assert not any(alive(pid) for pid in pids)
    assert ending_of(plan)["kind"] == "interrupted"
    assert ending_of(plan)["iteration"] == 4


@linux
def test_sigkill_of_d2check_ends_child_and_workers(plan_for):
    plan = plan_for(ENDLESS)
    parent, pids = start_parent(plan)
    parent.kill()
    parent.communicate()
    wait_until(lambda: not any(alive(pid) for pid in pids))
    assert len((plan.folder / "records.jsonl").read_text().splitlines()) == 6


@linux
def test_sigkill_of_the_guard_ends_the_child(plan_for):
    plan = plan_for(ENDLESS)
    parent, pids = start_parent(plan)
    guard = int(Path(f"/proc/{pids[0]}/stat").read_text().rpartition(")")[2].split()[1])
    assert guard != parent.pid
    os.kill(guard, signal.SIGKILL)
    said, _ = parent.communicate(timeout=60)
    assert said.strip() == "unknown"
    wait_until(lambda: not any(alive(pid) for pid in pids))


@linux
def test_an_interrupt_before_the_child_starts_leaves_no_secret_behind(plan_for, monkeypatch):
    gather = manifest.manifest

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return gather(*arguments)

    monkeypatch.setattr(manifest, "manifest", interrupted)
    entry = {"kind": "config", "config": "/c.yaml", "overrides": ["MY.API_KEY", "s3cr3t-of-mine"]}
    plan = plan_for("time.sleep(60)", entry=entry)
    assert launch(plan).kind is EndingKind.INTERRUPTED
    assert "s3cr3t-of-mine" not in (plan.folder / "plan.json").read_text()


@posix
def test_second_interrupt_does_not_wait_for_a_child_that_takes_its_time(plan_for):
    plan = plan_for("signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + textwrap.dedent(ENDLESS))
    parent, pids = start_parent(plan)
    parent.send_signal(signal.SIGINT)
    wait_until(lambda: (plan.folder / "stop").exists())
    parent.send_signal(signal.SIGINT)
    said, _ = parent.communicate(timeout=60)
    assert said.strip() == "interrupted"
    assert not any(alive(pid) for pid in pids)


def test_exception_of_a_callback_ends_the_child_and_is_raised_again(plan_for):
    plan = plan_for("note_pid('self', os.getpid()); begin(); iterate(0, 3); time.sleep(600)")

    def broken(record):
        raise BrokenPipeError("nobody reads")

    with pytest.raises(BrokenPipeError):
        launch(plan, broken)
    assert ending_of(plan)["kind"] == "interrupted"
    assert not alive(int((plan.folder / "self").read_text()))


def test_secrets_reach_no_file_of_the_folder(plan_for, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123")
    entry = {"kind": "config", "overrides": ["TRACKER.API_KEY", "override-secret-1"]}
    plan = plan_for(
        """
        begin()
        assert PLAN["entry"]["overrides"][1] == "override-secret-1"
        print("key is", os.environ["WANDB_API_KEY"])
        print("and", PLAN["entry"]["overrides"][1], file=sys.stderr)
        record("end", kind="stopped", i=0)
        """,
        entry=entry,
    )
    lines = []
    assert launch(plan, on_line=lines.append).kind is EndingKind.STOPPED
    texts = {path.name: path.read_text() for path in plan.folder.iterdir()}
    for name, text in [*texts.items(), ("lines", "\n".join(lines))]:
        assert "0123456789abcdef0123" not in text, name
        assert "override-secret-1" not in text, name
    assert texts["stdout.log"] == "key is ***\n"
    assert json.loads(texts["plan.json"])["entry"]["overrides"] == ["TRACKER.API_KEY", "***"]


def test_huge_lines_and_invalid_text_pass_in_bounded_memory(plan_for):
    plan = plan_for("""
        begin()
        for _ in range(64):
            sys.stdout.write("x" * 65536)
        sys.stdout.buffer.write(b"\\n\\xff\\xfe caf\\xc3")
        sys.stdout.flush()
        time.sleep(0.1)
        sys.stdout.buffer.write(b"\\xa9\\n")
        sys.stdout.flush()
        record("end", kind="stopped", i=0)
    """)
    lines = []
    ending = launch(plan, on_line=lines.append)
    assert ending.kind is EndingKind.STOPPED
    text = (plan.folder / "stdout.log").read_text()
    assert text == "x" * (64 * 65536) + "\n\ufffd\ufffd café\n"
    assert max(map(len, lines)) <= output.KEPT_LINE_CHARS
    assert lines[-1] == "\ufffd\ufffd café"


def test_partial_last_record_is_left_out_and_the_others_are_kept(plan_for):
    plan = plan_for("""
        begin(); iterate(0, 3)
        RECORDS.write('{"t": "iter", "i": 3, "sca')
        RECORDS.flush()
        os._exit(7)
    """)
    records = []
    ending = launch(plan, records.append)
    assert [r.get("i") for r in records] == [None, 0, 1, 2]
    assert (ending.kind, ending.iteration) == (EndingKind.CRASHED, 2)
    assert ending.message == "it left with status 7"


@posix
def test_recording_that_stopped_on_a_full_disk_is_reported(plan_for):
    plan = plan_for("""
        import resource
        begin(); iterate(0, 3)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        size = os.path.getsize(RECORDS.name)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        try:
            iterate(3, 6)
        except OSError as error:
            print("d2check: recording stopped: records.jsonl: %s" % error.strerror, file=sys.stderr)
        os._exit(0)
    """)
    ending = launch(plan)
    written = ending_of(plan)
    assert written["recording_failed"] == f"records.jsonl: {os.strerror(errno.EFBIG)}"
    assert (ending.kind, ending.iteration) == (EndingKind.TRUNCATED, 2)


def test_a_training_that_a_full_disk_keeps_from_recording_is_not_ended_as_hung(plan_for):
    plan = plan_for("""
        begin(); iterate(0, 3)
        print("d2check: recording stopped: No space left on device", file=sys.stderr, flush=True)
        time.sleep(3)
        print("trained to its end")
    """)
    lines = []
    ending = launch(plan, on_line=lines.append, limits=QUICK)
    assert ending.kind is EndingKind.TRUNCATED
    assert "trained to its end" in lines


def test_room_for_the_ending_is_kept_while_the_child_runs(plan_for):
    plan = plan_for("""
        begin()
        print(os.path.getsize(os.path.join(os.path.dirname(RECORDS.name), "spare")))
        record("end", kind="finished", i=0)
    """)
    lines = []
    launch(plan, on_line=lines.append)
    assert lines == [str(512 * 1024)]
    assert not (plan.folder / "spare").exists()


def test_a_disk_without_room_for_the_spare_stops_nothing(plan_for, monkeypatch):
    monkeypatch.setattr("d2check.harness.manifest.SPARE", "no/such/folder")
    assert launch(plan_for("begin(); record('end', kind='finished', i=0)")).kind is (
        EndingKind.FINISHED
    )


def test_full_disk_on_our_side_does_not_stop_the_child(plan_for, monkeypatch):
    def full(self, text):
        self.failed = "stdout.log: No space left on device"
        self._file = None

    monkeypatch.setattr(output.OutputCopy, "_write", full)
    plan = plan_for("""
        begin()
        for _ in range(20000):
            print("a line that nobody can store")
        record("end", kind="finished", i=0)
    """)
    ending = launch(plan)
    assert ending.kind is EndingKind.FINISHED
    assert ending_of(plan)["recording_failed"] == "stdout.log: No space left on device"


def test_command_that_cannot_be_started_is_a_clear_error(plan_for, tmp_path):
    plan = plan_for("", command=(str(tmp_path / "no-python"), "x"))
    with pytest.raises(LaunchError, match=r"no-python: could not be started: No such file"):
        launch(plan)
    assert ending_of(plan)["kind"] == "unknown"


def test_folder_serves_one_run_only(plan_for):
    plan = plan_for("begin(); record('end', kind='stopped', i=0)")
    launch(plan)
    with pytest.raises(LaunchError, match="another run is in this folder"):
        launch(plan)
    assert ending_of(plan)["kind"] == "stopped"


def test_handlers_of_signals_are_the_callers_again(plan_for):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    launch(plan_for("pass"))
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_two_runs_at_once_do_not_meet(plan_for, tmp_path):
    import dataclasses
    from concurrent.futures import ThreadPoolExecutor

    plan = plan_for("begin(pid=os.getpid()); iterate(0, 5); record('end', kind='stopped', i=4)")
    other = dataclasses.replace(plan, folder=tmp_path / "other")
    other.folder.mkdir()
    with ThreadPoolExecutor(2) as pool:
        kinds = [ending.kind for ending in pool.map(launch, [plan, other])]
    assert kinds == [EndingKind.STOPPED] * 2
    assert manifest_of(plan)["facts"]["pid"] != manifest_of(other)["facts"]["pid"]


def test_secrets_that_the_training_itself_writes_down_are_masked(plan_for):
    """default_setup copies the config into the output folder and the log."""
    plan = plan_for("""
        inside = os.path.join(FOLDER, "child-output")
        os.makedirs(os.path.join(inside, "kept-apart"))
        for name in ("config.yaml", "log.txt", "log.txt.rank1", "kept-apart/config.yaml"):
            with open(os.path.join(inside, name), "w") as file:
                file.write("TRACKER:\\n  API_KEY: written-secret-1\\nSOLVER:\\n  BASE_LR: 0.1\\n")
        begin()
        record("end", kind="stopped", i=0, reason="iterations")
    """)
    launch(plan, limits=QUICK)
    for name in ("config.yaml", "log.txt", "log.txt.rank1", "kept-apart/config.yaml"):
        text = (plan.folder / "child-output" / name).read_text()
        assert "written-secret-1" not in text
        assert "BASE_LR: 0.1" in text
    assert len(list((plan.folder / "child-output").iterdir())) == 4
