"""Repairs computed from this run's own numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from d2check.config.lazy_settings import lazy_change
from d2check.model import Fix, Override, Run
from d2check.rules import wording
from d2check.rules.expressions import Absent
from d2check.rules.inputs import Scope, setting
from d2check.rules.model import FixTemplate, Rule

SAME_WITHIN = 0.01  # a change by less than a hundredth changes no training
NEEDS_CONFIG = Fix(
    "what to change, and to which value, is computed from the settings of the training",
    "safe",
    action="Audit again with this training's config.yaml in the same folder",
)


def propose(rule: Rule, run: Run, scope: Scope) -> tuple[Fix, ...]:
    """The fixes that can be computed here and change something, in the rule's order.

    Where there are none for want of a config, the one that is returned asks for it.
    """
    fixes: list[Fix] = []
    for template in rule.fixes:
        fix = compute(template, run, scope)
        if fix is None or any(
            (f.overrides, f.action) == (fix.overrides, fix.action) for f in fixes
        ):
            continue
        fixes.append(fix)
    if not fixes and run.config is None:
        if any(t.overrides and _may_hold(t, scope) for t in rule.fixes):
            return (NEEDS_CONFIG,)
    return tuple(fixes)


def _may_hold(template: FixTemplate, scope: Scope) -> bool:
    """Whether a fix may be one for this run: nothing that is known speaks against it."""
    try:
        return template.when is None or bool(template.when.evaluate(scope))
    except Absent:
        return True


def compute(template: FixTemplate, run: Run, scope: Scope) -> Fix | None:
    """One fix; None when a name is absent, `when` does not hold, or nothing would change."""
    try:
        if template.when is not None and not template.when.evaluate(scope):
            return None
        proposed = {key: value.evaluate(scope) for key, value in template.overrides.items()}
    except Absent:
        return None
    because = wording.choose(template.because, scope)
    if template.action is not None:
        if wording.missing_names(template.action, scope):
            return None
        return Fix(because, template.risk, action=wording.word(template.action, scope))
    overrides = _changes(proposed, run)
    return Fix(because, template.risk, overrides) if overrides else None


def same(current: Any, proposed: Any) -> bool:
    """Whether a setting would stay what it is, numbers within a hundredth."""
    if isinstance(current, (list, tuple)) and isinstance(proposed, (list, tuple)):
        return len(current) == len(proposed) and all(map(same, current, proposed))
    numbers = (int, float)
    if isinstance(current, bool) or isinstance(proposed, bool):
        return bool(current == proposed)
    if isinstance(current, numbers) and isinstance(proposed, numbers):
        return abs(proposed - current) <= SAME_WITHIN * abs(current)
    return bool(current == proposed)


def _changes(proposed: Mapping[str, Any], run: Run) -> tuple[Override, ...]:
    overrides = []
    for key, value in proposed.items():
        current = setting(run, key)
        value = _settled(value, current)
        change = _in_terms_of(run, key, current, value)
        if change is None or (isinstance(value, float) and not math.isfinite(value)):
            return ()
        if current is None or not same(current, value):
            overrides.append(change)
    return tuple(overrides)


def _in_terms_of(run: Run, key: str, current: Any, value: Any) -> Override | None:
    """A change of a yacs key as the run's own kind of config takes it; None where it cannot."""
    if run.config is None or run.config.kind != "lazy":
        return Override(key, current, value)
    change = lazy_change(run.config, key, value)
    if change is None:
        return None
    name, own = change
    return Override(name, run.config.values.get(name), own)


def _settled(value: Any, current: Any) -> Any:
    """The value in the setting's own type: yacs refuses a float where an int is, and back."""
    whole = isinstance(current, int) and not isinstance(current, bool)
    if isinstance(value, float) and whole and value.is_integer():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and isinstance(current, float):
        return float(value)
    return value
