"""What the training does when it is told to end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .recorder import Recorder


def answer(recorder: Recorder) -> None:
    """On SIGINT and SIGTERM record the end, end loader workers, and leave at once.

    Not by an exception: any `except` of the training could swallow it, and what it would run on
    its way out (hooks, writers) takes time that the sender may not grant. A handler that the
    user's code has set is left alone.
    """
    if threading.current_thread() is not threading.main_thread():
        return  # Python allows handlers in the main thread only
    owner = os.getpid()

    def leave(number: int, frame: Any) -> None:
        if os.getpid() != owner:  # a forked loader worker: die as it would have without us
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        recorder.end("interrupted", signal=signal.Signals(number).name)
        for worker in multiprocessing.active_children():
            worker.terminate()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(128 + number)

    for number, default in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGTERM, signal.SIG_DFL),
    ):
        if signal.getsignal(number) in (default, signal.SIG_DFL):
            signal.signal(number, leave)
