"""The examples of a rule, run through the real judge."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from d2check.model import Config, Finding, Fix, Phase, Run, Series, Statistic
from d2check.rules.inputs import is_loss
from d2check.rules.judge import Judgement, judge_rule
from d2check.rules.model import Example, ExampleSeries, FixTemplate, Rule
from d2check.rules.shorthand import draw

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_NEVER_SMOOTHED = ("lr", "planned_lr", "eta_seconds", "*/AP*")
_WINDOW = 20  # Detectron2 writes every 20 iterations and smooths over 20
_RELATIVE = 0.01


@dataclass(frozen=True)
class ExampleResult:
    """Whether an example got its verdict; detail says what was expected and what came."""

    name: str
    passed: bool
    detail: str = ""


def run_examples(rule: Rule) -> tuple[ExampleResult, ...]:
    """One result per example, and one for each fix that no example ever got."""
    results = []
    proposed: list[Fix] = []
    for example in rule.examples:
        judgement = judge_rule(rule, run_of(rule, example))
        proposed.extend(judgement.finding.fixes)
        wrong = _mistakes(example, judgement)
        results.append(ExampleResult(example.name, not wrong, "; ".join(wrong)))
    for index, template in enumerate(rule.fixes):
        if not any(_made_from(template, fix) for fix in proposed):
            name = f"fix {index + 1} is exercised"
            results.append(ExampleResult(name, False, "no example made the rule propose it"))
    return tuple(results)


def run_of(rule: Rule, example: Example) -> Run:
    """The small run that an example describes. The noise depends on the names alone."""
    series = {
        name: _series(name, given, example, f"{rule.id}: {example.name}: {name}")
        for name, given in example.series.items()
    }
    config = None
    if example.config is not None:
        mismatch = None if example.config_matches else "the config belongs to another run"
        config = Config(
            "yacs", example.config, complete=False, matches_run=example.config_matches,
            mismatch=mismatch,
        )  # fmt: skip
    phases = tuple(Phase(name, *ends) for name, ends in example.phases.items())
    return Run(
        source=f"example: {example.name}",
        series=series,
        facts=example.facts,
        config=config,
        planned_iterations=example.planned_iterations,
        ending=example.ending,
        events=example.events,
        phases=phases,
        rows=max((len(one) for one in series.values()), default=0),
        malformed_lines=example.malformed_lines,
    )


def _series(name: str, given: ExampleSeries, example: Example, seed: str) -> Series:
    import numpy as np

    raw = example.sampling == "raw"
    smoothed = not raw and not any(fnmatchcase(name, sign) for sign in _NEVER_SMOOTHED)
    statistic: Statistic = given.statistic or (example.sampling if smoothed else "raw")
    every = given.every or (1 if raw else _WINDOW)
    window = given.window or (1 if statistic == "raw" else _WINDOW)
    start = every - 1 if given.start is None else given.start
    values = draw(given.shape)
    sigma = _noise_of(name, example.noise)
    if sigma:
        values = values * np.exp(sigma * _noise(seed, len(values)))
    iterations = start + every * np.arange(len(values), dtype=np.int64)
    return Series(name, iterations, values, every, window, statistic)


def _noise(seed: str, length: int) -> NDArray[np.float64]:
    import numpy as np

    return np.random.default_rng(zlib.crc32(seed.encode())).standard_normal(length)


def _noise_of(name: str, noise: Mapping[str, float]) -> float:
    for sign, sigma in noise.items():
        if sign == "losses" and (is_loss(name) or name == "total_loss"):
            return sigma
        if fnmatchcase(name, sign):
            return sigma
    return 0.0


# --------------------------------------------------------------------------- comparing


def _mistakes(example: Example, judgement: Judgement) -> list[str]:
    finding = judgement.finding
    got = finding.verdict.value.lower()
    if got != example.expect:
        return [f"expected {example.expect}, got {got}: {_evidence(finding)}"]
    wrong = [f"the message wants {name}, which is not known here" for name in judgement.unworded]
    if example.reason and example.reason.lower() not in (finding.reason or "").lower():
        wrong.append(f"expected the reason to say {example.reason!r}, got {finding.reason!r}")
    if example.says and example.says.lower() not in finding.message.lower():
        wrong.append(f"expected the message to say {example.says!r}, got {finding.message!r}")
    if example.proposes and not any(_makes(fix, example.proposes) for fix in finding.fixes):
        wrong.append(f"expected a fix {_pairs(example.proposes)}, got {_proposals(finding.fixes)}")
    if example.advises and not any(
        example.advises.lower() in (fix.action or "").lower() for fix in finding.fixes
    ):
        wrong.append(f"expected the advice {example.advises!r}, got {_proposals(finding.fixes)}")
    return wrong


def _evidence(finding: Finding) -> str:
    extras = ", ".join(f"{name}={_short(value)}" for name, value in finding.extras.items())
    value = f"value={_short(finding.value)}"
    return f"{finding.message} [{', '.join(filter(None, (value, extras)))}]"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else repr(value)


def _makes(fix: Fix, wanted: Mapping[str, Any]) -> bool:
    made = {override.key: override.proposed for override in fix.overrides}
    return set(made) == set(wanted) and all(_close(made[key], wanted[key]) for key in wanted)


def _close(made: Any, wanted: Any) -> bool:
    if isinstance(made, (list, tuple)) and isinstance(wanted, (list, tuple)):
        return len(made) == len(wanted) and all(map(_close, made, wanted))
    if isinstance(made, bool) or isinstance(wanted, bool) or isinstance(made, str):
        return bool(made == wanted)
    if isinstance(wanted, (int, float)) and isinstance(made, (int, float)):
        return abs(made - wanted) <= _RELATIVE * abs(wanted)
    return bool(made == wanted)


def _pairs(overrides: Mapping[str, Any]) -> str:
    return " ".join(f"{key} {value}" for key, value in overrides.items())


def _proposals(fixes: Sequence[Fix]) -> str:
    words = [fix.action or fix.as_command_line() for fix in fixes]
    return " | ".join(words) if words else "no fix"


def _made_from(template: FixTemplate, fix: Fix) -> bool:
    if template.action is not None:
        return fix.action is not None
    return fix.action is None and {o.key for o in fix.overrides} <= set(template.overrides)
