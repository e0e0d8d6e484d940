"""What a script has built before its loop is seen, and the end of a loop that cannot be seen.

A loop without an EventStorage, or with a new one in each iteration, cannot be told from anything
else that steps an optimizer. Once it has made as many steps as were planned it is ended, for it
would go on for days, and the user is told what to do.
"""

from __future__ import annotations

import functools
import os
import sys
from typing import TYPE_CHECKING, Any

from .stopping import LeaveScript

if TYPE_CHECKING:
    from .session import Session

UNSEEN_STEPS = 100  # of Detectron2's model, or as many as were planned
# Of an optimizer that holds nothing of that model: a script may prepare something else first.
UNSEEN_STEPS_OF_OTHERS = 2000
UNSEEN = (
    "the script's own loop made %d steps of its optimizer, none of which could be seen as an "
    "iteration: it was ended and is not judged. Run the loop inside `with EventStorage() as "
    "storage:`, set `storage.iter` or call `storage.step()` in each iteration, and put total_loss "
    "and lr into it, as Detectron2's plain_train_net.py does; or have a SimpleTrainer run it"
)


class Seen:
    """What a script has built so far, in the hope that its loop trains with it."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.model: Any = None
        self.optimizer: Any = None
        self.loop: Any = None  # the PlainLoop that records it
        self._steps: Any = None  # the handle of what counts steps outside any loop
        self._count: Any = None  # the same before torch 2.0, called by the wrapped classes
        self._stepping = False

    def count_steps(self, module: Any, session: Session) -> None:
        """End the script after too many steps of an optimizer while no loop is seen."""
        most = max(UNSEEN_STEPS, session.plan.iterations or 0)
        steps = {True: 0, False: 0}

        def count(optimizer: Any, *_: Any) -> None:
            own = self._holds_model(optimizer)
            steps[own] += 1
            if steps[own] >= (most if own else max(most, UNSEEN_STEPS_OF_OTHERS)):
                session.recorder.open(_own_rank())
                session.recorder.end("unseen", message=UNSEEN % steps[own])
                raise LeaveScript(0)

        register = getattr(module, "register_optimizer_step_post_hook", None)
        if register is None:  # torch before 2.0
            self._count = count
        else:
            self._steps = register(count)

    def count_steps_of(self, cls: Any) -> None:
        """Before torch 2.0, which has no hooks of all optimizers: wrap the class's `step`, once.

        A class that Detectron2 made for its clipping steps by way of its parent, which may be
        wrapped as well: the outermost call counts.
        """
        if self._count is None or hasattr(vars(cls).get("step"), "d2check_counts"):
            return
        step = cls.step

        @functools.wraps(step)
        def step_and_count(optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            if self._stepping:
                return step(optimizer, *args, **kwargs)
            self._stepping = True
            try:
                done = step(optimizer, *args, **kwargs)
            finally:
                self._stepping = False
            if self._count is not None:
                self._count(optimizer)
            return done

        step_and_count.d2check_counts = True  # type: ignore[attr-defined]
        cls.step = step_and_count

    def stop_counting(self) -> None:
        """A loop is seen. Never from within a step: torch goes through its hooks then."""
        self._count = None
        if self._steps is not None:
            self._steps.remove()
            self._steps = None

    def _holds_model(self, optimizer: Any) -> bool:
        first = next(self.model.parameters(), None) if self.model is not None else None
        groups = optimizer.param_groups
        return first is not None and any(first is p for group in groups for p in group["params"])


def _own_rank() -> int:
    """Of this process, whether or not Detectron2 is there to tell."""
    if "detectron2.utils.comm" in sys.modules:
        return int(sys.modules["detectron2.utils.comm"].get_rank())
    return int(os.environ.get("RANK", "0"))
