"""The child's main program: run the plan's entry and record how it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from typing import Any

from . import attach, neutralise, run_config
from .imports import AfterImport
from .plan import read_plan
from .recorder import Recorder
from .session import Session


def main() -> int:
    """Exit status of the child: 0 when the training was ended or finished, else 1.

    An exception of the user's code is recorded and then leaves as it would have, with Python's
    own traceback.
    """
    plan = read_plan()
    session = Session(plan, Recorder(plan.folder))
    answer_signals(session)
    after_import = AfterImport()
    after_import.install()
    attach.watch(after_import, session, lambda rank: session)
    if plan.neutralise:
        neutralise.trackers(session)
        neutralise.watch(after_import, session)
    try:
        run_config.run(session)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            session.recorder.end("interrupted")
        session.crashed(error)
        raise
    if not session.recorder.ended:
        session.recorder.end("crashed", error="NoTraining", message=_NO_LOOP, stage=session.stage)
        sys.stderr.write("d2check: %s\n" % _NO_LOOP)
        return 1
    return 0


_NO_LOOP = (
    "train() returned, but no loop of detectron2.engine.TrainerBase was run: a loop of the "
    "trainer's own cannot be recorded"
)


def answer_signals(session: Session) -> None:
    """On SIGINT and SIGTERM record the end, end loader workers, and leave at once.

    Not by an exception: any `except` of the training could swallow it, and what it would run on
    its way out (hooks, writers) takes time that the sender may not grant.
    """
    owner = os.getpid()

    def leave(number: int, frame: Any) -> None:
        if os.getpid() != owner:  # a forked loader worker: die as it would have without us
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        session.recorder.end("interrupted", signal=signal.Signals(number).name)
        for worker in multiprocessing.active_children():
            worker.terminate()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(128 + number)

    signal.signal(signal.SIGINT, leave)
    signal.signal(signal.SIGTERM, leave)
