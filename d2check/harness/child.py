"""The training process as d2check sees it: starts it, learns how it ended, ends all of it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from d2check.errors import LaunchError

GUARD = Path(__file__).with_name("guard.py")


@dataclass(frozen=True)
class ExitStatus:
    """How a process ended: by an exit status, by a signal, or nobody saw it (both None)."""

    status: int | None = None
    signal: int | None = None

    @property
    def signal_name(self) -> str | None:
        """SIGKILL, SIGSEGV ..."""
        if self.signal is None:
            return None
        try:
            return signal.Signals(self.signal).name
        except ValueError:  # a real-time signal
            return f"signal {self.signal}"


class Child(Protocol):
    """What `launch` needs of a running training. left: processes that nothing could end.

    pid: of the training's first process, where that is known.
    """

    stdout: IO[bytes]
    stderr: IO[bytes]
    left: list[int]

    @property
    def pid(self) -> int | None:
        """Process id of the training."""

    @property
    def exit(self) -> ExitStatus | None:
        """How it ended; None while it runs."""

    def wait(self, seconds: float) -> ExitStatus | None:
        """Sleep until it ends, at most so long."""

    def ask_to_end(self) -> None:
        """Let it leave within some seconds, then kill it with its workers."""

    def dump_stacks(self) -> None:
        """Have it print its stacks where the platform allows, then kill it with its workers."""

    def kill(self) -> None:
        """Kill it with its workers, now."""

    def close(self) -> None:
        """Kill what is left and wait until it is gone."""


def start_child(command: Sequence[str], environment: Mapping[str, str], cwd: Path) -> Child:
    """Start a command in a session of its own. Raises LaunchError when that cannot be done."""
    if os.name == "posix":
        return GuardedChild(command, environment, cwd)
    return PlainChild(command, environment, cwd)


class GuardedChild:
    """A training behind the guard (see guard.py), which ends all of its processes with it."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], cwd: Path) -> None:
        """Start guard and training."""
        self._status, status_write = os.pipe()
        os.set_blocking(self._status, False)
        self._buffer = b""
        self.left: list[int] = []
        self._pid: int | None = None
        self._exit: ExitStatus | None = None
        self._error: str | None = None
        # -I and -S: neither the user's PYTHON* variables nor site-packages touch the guard.
        guard = [sys.executable, "-I", "-S", str(GUARD), str(status_write), *command]
        try:
            self._guard = subprocess.Popen(
                guard,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=dict(environment),
                cwd=cwd,
                pass_fds=[status_write],
                start_new_session=True,
            )
        except OSError as error:
            os.close(self._status)
            raise LaunchError(f"{command[0]}: could not be started: {error}") from error
        finally:
            os.close(status_write)
        assert self._guard.stdin and self._guard.stdout and self._guard.stderr
        self._lifeline = self._guard.stdin
        self.stdout = self._guard.stdout
        self.stderr = self._guard.stderr
        self._await_start(command)

    @property
    def pid(self) -> int | None:
        """Process and group id of the training."""
        return self._pid

    @property
    def exit(self) -> ExitStatus | None:
        """How the training ended; None while it runs."""
        return self._exit

    def wait(self, seconds: float) -> ExitStatus | None:
        """Sleep until the training ends, at most so long."""
        if self._exit is None and select.select([self._status], [], [], seconds)[0]:
            self._read_status()
        return self._exit

    def ask_to_end(self) -> None:
        """SIGTERM, and SIGKILL to all of its processes some seconds later."""
        self._command(b"end\n")

    def dump_stacks(self) -> None:
        """Stacks of the training and its workers to stderr, then the end of all of them."""
        self._command(b"stacks\n")

    def kill(self) -> None:
        """SIGKILL to all of its processes."""
        self._command(b"kill\n")

    def close(self) -> None:
        """Wait until guard, training and workers are gone."""
        if self._exit is None:
            self.kill()
        with contextlib.suppress(OSError):
            self._lifeline.close()
        try:
            self._guard.wait(timeout=15)
        except subprocess.TimeoutExpired:
            # A process in uninterruptible sleep. The guard stays, and ends it when it wakes.
            pass
        self._read_status()
        os.close(self._status)

    def _await_start(self, command: Sequence[str]) -> None:
        deadline = time.monotonic() + 60
        while self._pid is None and self._exit is None and time.monotonic() < deadline:
            select.select([self._status], [], [], 0.5)
            self._read_status()
        if self._pid is None:
            self.close()
            why = self._error or self.stderr.read().decode(errors="replace") or "no answer"
            raise LaunchError(
                f"{command[0]}: could not be started: {why}. "
                "Expected the Python interpreter of the training. Name it with --python."
            )

    def _command(self, line: bytes) -> None:
        try:
            self._lifeline.write(line)
            self._lifeline.flush()
        except OSError:  # the guard is gone, and with it whoever would have listened
            self._kill_group()

    def _read_status(self) -> None:
        while True:
            try:
                chunk = os.read(self._status, 4096)
            except BlockingIOError:
                return
            if not chunk:
                break
            self._buffer += chunk
            *lines, self._buffer = self._buffer.split(b"\n")
            for line in lines:
                self._take(json.loads(line))
        if self._exit is None:
            # The guard ended without a word: somebody killed it. Nothing may outlive it.
            self._kill_group()
            self._exit = ExitStatus()

    def _take(self, message: dict[str, Any]) -> None:
        self._pid = message.get("pid", self._pid)
        self._error = message.get("error", self._error)
        self.left = message.get("left", self.left)
        if "exit" in message or "signal" in message:
            self._exit = ExitStatus(message.get("exit"), message.get("signal"))

    def _kill_group(self) -> None:
        if self._pid is not None and self._exit is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, signal.SIGKILL)


class PlainChild:
    """A training without a guard, for Windows, where there are neither groups nor adoption."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], cwd: Path) -> None:
        """Start the training."""
        self.left: list[int] = []
        flags: int = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=dict(environment),
                cwd=cwd,
                creationflags=flags,
            )
        except OSError as error:
            raise LaunchError(f"{command[0]}: could not be started: {error}") from error
        assert self._process.stdout and self._process.stderr
        self.stdout = self._process.stdout
        self.stderr = self._process.stderr

    @property
    def pid(self) -> int | None:
        """Process id of the training."""
        return self._process.pid

    @property
    def exit(self) -> ExitStatus | None:
        """How the training ended; None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        return ExitStatus(code) if code >= 0 else ExitStatus(signal=-code)

    def wait(self, seconds: float) -> ExitStatus | None:
        """Sleep until the training ends, at most so long."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=seconds)
        return self.exit

    def ask_to_end(self) -> None:
        """End it. The stop file has asked already; there is no gentler signal."""
        self.kill()

    def dump_stacks(self) -> None:
        """End it; stacks cannot be had."""
        self.kill()

    def kill(self) -> None:
        """End it and what it started."""
        if os.name == "nt" and self.exit is None:
            tree = ["taskkill", "/T", "/F", "/PID", str(self._process.pid)]
            subprocess.run(tree, capture_output=True, check=False)
        self._process.kill()

    def close(self) -> None:
        """Wait until it is gone."""
        if self.exit is None:
            self.kill()
        self._process.wait(timeout=15)
