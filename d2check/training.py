"""One training of a plan, followed to its end: what `pipeline` and `verify` both begin with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from d2check import sources
from d2check.harness.launch import launch
from d2check.harness.plan import Plan
from d2check.looks import Looks
from d2check.misuse import refuse_misuse
from d2check.model import Ending, EndingKind
from d2check.rules.model import Rule


class Interrupted(Exception):
    """The user has ended one of several trainings, and with it the whole check."""


def finish(ending: Ending) -> Ending:
    """The ending of a further training, for whoever goes on with it. Raises Interrupted."""
    if ending.kind is EndingKind.INTERRUPTED:
        raise Interrupted
    return ending


def train(
    plan: Plan,
    rules: Sequence[Rule],
    on_record: Callable[[dict[str, Any]], None],
    on_line: Callable[[str], None],
) -> Ending:
    """Train as planned, or until a failure of the loss is certain; the run folder is complete then.

    Raises UsageError where the training never began because of how it was asked for: an unknown
    config key, a data set that nobody registered.
    """
    ends: list[dict[str, Any]] = []

    def watch(record: dict[str, Any]) -> None:
        if record.get("t") == "end":
            ends.append(record)
        on_record(record)

    looks = Looks(rules if plan.early_end else (), sources.GrowingRun(plan.folder))
    ending = launch(plan, watch, on_line, enough=looks.enough)
    refuse_misuse(ending, ends[-1] if ends else {}, plan)
    return ending
