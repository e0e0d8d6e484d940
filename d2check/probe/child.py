"""The child's main program: run the plan's entry and record how it ends."""

from __future__ import annotations

import sys

from . import attach, ranks, run_config, run_lazy, signals
from .plan import read_plan
from .recorder import Recorder
from .session import Session
from .stopping import LoopEnded


def main() -> int:
    """Exit status of the child: 0 when the training was ended or finished, else 1.

    An exception of the user's code is recorded and then leaves as it would have, with Python's
    own traceback.
    """
    plan = read_plan()
    if ranks.must_spawn(plan):
        return ranks.spawn(plan)
    session = Session(plan, Recorder(plan.folder), ranks.own_rank())
    session.recorder.open(session.rank)
    signals.answer(session.recorder)
    attach.watch(session)
    try:
        run = run_lazy.run if (plan.config or "").endswith(".py") else run_config.run
        run(session)
    except LoopEnded:  # wherever the loop was run, be it in a setup file
        return 0
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
