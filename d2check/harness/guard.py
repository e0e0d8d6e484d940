"""Stands between d2check and the training, so that no process of it outlives either of them.

Run as `PYTHON -I -S guard.py STATUS_FD COMMAND ...`, POSIX only, standard library only. The guard
starts the command as the leader of a session of its own. On Linux it adopts every orphan among the
command's descendants (PR_SET_CHILD_SUBREAPER), so that loader workers are found even after they
moved to other sessions. PR_SET_PDEATHSIG would not do: it reaches the direct child only, a child
that is stuck in native code never acts on SIGTERM, and macOS has nothing like it.

Its standard input is the lifeline: commands come in as lines, and end-of-file means that d2check
is gone, by whatever signal. Reports go out over STATUS_FD as JSON lines: {"pid": 12}, then
{"exit": 0} or {"signal": 9}, and {"left": [13]} for processes that nothing could end.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
GRACE_S = 5.0  # for a training that was asked to leave
WORKERS_GRACE_S = 2.0  # for what is left when the training itself is gone
GIVE_UP_S = 10.0  # a process in uninterruptible sleep ignores even SIGKILL


def main() -> int:
    """Start the command, carry out what the lifeline says, leave nothing behind."""
    status_fd, command = int(sys.argv[1]), sys.argv[2:]
    adopt_orphans()
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    # Handlers, not SIG_IGN: the command would inherit an ignored signal.
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    try:
        # The guard reaps by itself; Popen is used for its careful fork and its error report.
        pid = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True).pid
    except OSError as error:
        report(status_fd, {"error": f"{error.strerror or error}"})
        return 1
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    report(status_fd, {"pid": pid})
    serve(pid, status_fd, wake_read)
    left = end_descendants(pid)
    if left:
        report(status_fd, {"left": left})
    return 0


def serve(pid: int, status_fd: int, wake_fd: int) -> None:
    """Obey the lifeline until the command has ended."""
    commands = b""
    deadline = None
    listening = [0, wake_fd]
    while True:
        select.select(listening, [], [], deadline and max(0.0, deadline - time.monotonic()))
        status = reap(pid)
        if status is not None:
            report(status_fd, status)
            return
        if deadline is not None and time.monotonic() >= deadline:
            send(pid, signal.SIGKILL)
            deadline = time.monotonic() + 1.0
        if select.select([wake_fd], [], [], 0)[0]:
            # Whoever ends the guard means the training.
            if signal.SIGTERM in os.read(wake_fd, 4096) and deadline is None:
                deadline = ask_to_leave(pid)
        if 0 in listening and select.select([0], [], [], 0)[0]:
            chunk = os.read(0, 4096)
            commands += chunk or b"end\n"
            if not chunk:
                listening.remove(0)
            *lines, commands = commands.split(b"\n")
            for line in lines:
                if line == b"end" and deadline is None:
                    deadline = ask_to_leave(pid)
                elif line == b"kill":
                    deadline = time.monotonic()
                elif line == b"stacks":
                    dump_stacks(pid)
                    deadline = time.monotonic() + 1.0


def ask_to_leave(pid: int) -> float:
    """SIGTERM to the training alone: loader workers that die first make it report their death."""
    send(pid, signal.SIGTERM)
    return time.monotonic() + GRACE_S


def dump_stacks(pid: int) -> None:
    """Have the training, then its workers, print their stacks and die.

    SIGABRT, because `faulthandler` (switched on by PYTHONFAULTHANDLER) answers it from native code
    too, and because its default action is what comes next anyway. Users' own handlers on SIGUSR1
    (requeue on a cluster) are left alone.
    """
    others = [other for other in descendants(os.getpid()) if other != pid]
    for each, pause_s in [(pid, 0.5)] + [(other, 0.05) for other in others[:8]]:
        forbid_core(each)
        send(each, signal.SIGABRT)
        time.sleep(pause_s)


def forbid_core(pid: int) -> None:
    """An abort must not leave a core file of many GiB in the user's folder."""
    if sys.platform == "linux":
        import resource

        with contextlib.suppress(ProcessLookupError, PermissionError):
            _, hard = resource.prlimit(pid, resource.RLIMIT_CORE)
            resource.prlimit(pid, resource.RLIMIT_CORE, (0, hard))


def end_descendants(pid: int) -> list[int]:
    """SIGTERM, then SIGKILL, to all that the training left. Returns what would not end."""
    number, start_s = signal.SIGTERM, time.monotonic()
    signalled: set[int] = set()
    while True:
        reap(None)
        left = descendants(os.getpid())
        elapsed_s = time.monotonic() - start_s
        if (not left and not group_exists(pid)) or elapsed_s > GIVE_UP_S:
            return left
        if elapsed_s > WORKERS_GRACE_S and number != signal.SIGKILL:
            number = signal.SIGKILL
            signalled.clear()
        if pid not in signalled:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, number)
        for other in left:
            if other not in signalled:
                send(other, number)
        signalled.update(left, [pid] if number == signal.SIGTERM else [])
        time.sleep(0.02)


def adopt_orphans() -> None:
    """Linux: orphaned descendants become this process's children instead of init's."""
    if sys.platform != "linux":
        return
    # A Python built without libffi lacks ctypes: then only the training's own group is found.
    with contextlib.suppress(ImportError):
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(root: int) -> list[int]:
    """Living processes below `root`, by /proc; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The command name may hold spaces and brackets; the fields after it do not.
            fields = entry.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if fields and fields[0] != "Z":
            children.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    found: list[int] = []
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def group_exists(pgid: int) -> bool:
    """Whether any process of the group is left."""
    try:
        os.killpg(pgid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS says so for a group of zombies
        return False
    return True


def reap(pid: int | None) -> dict[str, int] | None:
    """Collect ended children. Returns how `pid` ended when it is among them."""
    ended = None
    while True:
        try:
            each, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if each == 0:
            return ended
        if each == pid:
            code = os.waitstatus_to_exitcode(status)
            ended = {"exit": code} if code >= 0 else {"signal": -code}


def send(pid: int, number: int) -> None:
    """Signal a process that may be gone already."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def report(fd: int, message: Mapping[str, object]) -> None:
    """Tell d2check, if it is still there."""
    with contextlib.suppress(BrokenPipeError):
        os.write(fd, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
