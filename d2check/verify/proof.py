"""A training with the proposed changes, and one without them, to see whether they repair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from d2check import sources
from d2check.errors import InputError, UsageError
from d2check.fleet import judge_run
from d2check.harness.plan import Plan
from d2check.misuse import shown
from d2check.model import EndingKind, Fix, Override, RunReport
from d2check.rules.model import Rule
from d2check.sources.run_folder import CONTROL, WITH_FIX
from d2check.training import Interrupted, finish, train
from d2check.verify.repairs import changes, mended, repairs, wants_control, with_proofs

# Both trainings have the same seed, and not the first one's: they differ in the change alone, and
# what failed by an unlucky seed is found out.
_OTHER_SEED = 2001

_CUT_SHORT = (
    EndingKind.INTERRUPTED,
    EndingKind.RUNNING,
    EndingKind.TRUNCATED,
    EndingKind.UNKNOWN,
)

NOTHING_TO_PROVE = "--verify: no rule that fails proposes a change of the config; nothing was tried"

OnTraining = Callable[[str, Plan], None]


@dataclass(frozen=True)
class Verified:
    """The first run's findings with their proofs, and what to tell beside them."""

    judged: RunReport
    notes: tuple[str, ...] = ()
    interrupted: bool = False


def prove(
    plan: Plan,
    rules: Sequence[Rule],
    first: RunReport,
    *,
    on_training: OnTraining = lambda words, plan: None,
    on_record: Callable[[dict[str, Any]], None] = lambda record: None,
    on_line: Callable[[str], None] = lambda line: None,
) -> Verified:
    """Train again with what the failing rules propose, and again without it if that helped.

    All proposed changes are tried together, as a user would paste them. Both trainings are planned
    as the first was, with another seed. The second keeps luck from being called a repair; it is
    left out where nothing failed that luck may have a part in, and where the change has not helped.
    on_training is told of each before it begins.
    """
    overrides = changes(repairs(first))
    if not overrides:
        return Verified(first, (NOTHING_TO_PROVE,))

    def trained(name: str, words: str, added: tuple[Override, ...]) -> RunReport:
        again = amended(plan, name, added, first)
        on_training(words, again)
        return _trained(again, rules, on_record, on_line)

    pasted = Fix("", overrides=overrides).as_command_line()
    try:
        changed = trained(WITH_FIX, f"trained again with {pasted}", overrides)
        result = with_proofs(first, changed, None, rules)
        if wants_control(mended(first, changed), rules):
            control = trained(CONTROL, f"trained again without {pasted}", ())
            result = with_proofs(first, changed, control, rules)
    except UsageError as error:
        return Verified(
            first, (f"--verify: the training with {pasted} could not be judged: {error}",)
        )
    except Interrupted:
        return Verified(first, (f"--verify: interrupted while {pasted} was tried",), True)
    where = shown(plan.folder / WITH_FIX)
    return Verified(result, (f"tried {pasted} with another seed, recorded in {where}",))


def amended(plan: Plan, name: str, added: Sequence[Override], first: RunReport) -> Plan:
    """The plan of another training in a folder inside the first one's, with settings changed."""
    entry = dict(plan.entry)
    lazy = str(entry.get("config", "")).endswith(".py")
    overrides = list(entry.get("overrides", ()))
    for override in added:
        overrides += [override.assignment()] if lazy else [override.key, override.text()]
    entry["overrides"] = overrides
    seed = entry.get("seed") if entry.get("seed") is not None else first.run.facts.get("seed")
    entry["seed"] = _OTHER_SEED + (seed if isinstance(seed, int) else 0)
    return replace(plan, folder=plan.folder / name, entry=entry)


def known_proofs(first: RunReport, rules: Sequence[Rule]) -> RunReport:
    """The findings of a run folder with the proofs that the trainings inside it give, if any.

    One that was interrupted, or whose end nobody wrote down, proves nothing.
    """
    folder = Path(first.run.source)
    changed = _judged(folder / WITH_FIX, rules)
    if changed is None:
        return first
    return with_proofs(first, changed, _judged(folder / CONTROL, rules), rules)


def _judged(folder: Path, rules: Sequence[Rule]) -> RunReport | None:
    try:
        (run,) = sources.read(folder)
    except InputError:  # not tried, or it never came to a record
        return None
    return None if run.ending.kind in _CUT_SHORT else judge_run(rules, run)


def _trained(
    plan: Plan,
    rules: Sequence[Rule],
    on_record: Callable[[dict[str, Any]], None],
    on_line: Callable[[str], None],
) -> RunReport:
    """One more training, judged. Raises UsageError where it never began, Interrupted."""
    plan.folder.mkdir()
    finish(train(plan, rules, on_record, on_line))
    judged = _judged(plan.folder, rules)
    if judged is None:
        raise UsageError(f"nothing tells how it ended, see {shown(plan.folder)}")
    return judged
