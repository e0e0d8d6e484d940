"""Which changes of the config are worth a training of their own, and what it has shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from d2check.model import Finding, Fix, Override, Proof, RunReport, Verdict
from d2check.rules.model import Rule


@dataclass(frozen=True)
class Repair:
    """One fix, and the failures that it is for.

    of: the rule whose finding proposes it. cures: the rules that fail, a root cause's symptoms
    among them, in the order of the findings. at_odds: a key that a graver failure's fix sets
    otherwise, for which reason this one is not tried.
    """

    of: str
    fix: Fix
    cures: tuple[str, ...]
    at_odds: str | None = None


def repairs(judged: RunReport) -> tuple[Repair, ...]:
    """One for each failure that a change of the config is proposed for, causes first.

    Of a cause and its symptoms the first finding that proposes a change gives it, and of its fixes
    the first. Warnings that explain no failure are not for a rerun to prove.
    """
    live = [finding for finding in judged.findings if finding.ignored is None]
    told = [f for f in live if f.verdict in (Verdict.FAIL, Verdict.WARN)]
    present = {finding.rule for finding in told}
    found: list[Repair] = []
    settled: dict[str, object] = {}
    for head in told:
        if head.explained_by in present:
            continue
        group = [head, *(f for f in told if f.explained_by == head.rule and f is not head)]
        cures = tuple(f.rule for f in group if f.verdict is Verdict.FAIL)
        chosen = next(((f, fix) for f in group for fix in f.fixes if fix.overrides), None)
        if not cures or chosen is None:
            continue
        finding, fix = chosen
        at_odds = next(
            (o.key for o in fix.overrides if settled.get(o.key, o.proposed) != o.proposed), None
        )
        if at_odds is None:
            settled.update((o.key, o.proposed) for o in fix.overrides)
        found.append(Repair(finding.rule, fix, cures, at_odds))
    return tuple(found)


def changes(tried: Iterable[Repair]) -> tuple[Override, ...]:
    """Everything that the repairs set, each key once."""
    by_key = {o.key: o for repair in tried if repair.at_odds is None for o in repair.fix.overrides}
    return tuple(by_key.values())


def wants_control(tried: Iterable[Repair], rules: Sequence[Rule]) -> bool:
    """Whether a failure among them was seen in a training, which luck may have had a part in.

    What reads the config and the data set alone comes out the same every time.
    """
    cures = {rule for repair in tried for rule in repair.cures}
    rooms = {
        source.room
        for rule in rules
        if rule.id in cures
        for read in rule.reads
        for source in read.sources
    }
    return bool(rooms & {"series", "run"})


def mended(first: RunReport, changed: RunReport) -> tuple[Repair, ...]:
    """The repairs of a first run with which everything passes that they are for."""
    return tuple(
        repair
        for repair in repairs(first)
        if repair.at_odds is None
        and all(_verdict(changed, rule) is Verdict.PASS for rule in repair.cures)
    )


def with_proofs(
    first: RunReport, changed: RunReport, control: RunReport | None, rules: Sequence[Rule]
) -> RunReport:
    """The first run's findings, each fix that was tried with what its training showed.

    changed: trained with all repairs together. control: trained again without them, None where
    nobody did.
    """
    found = repairs(first)
    alone = sum(repair.at_odds is None for repair in found) == 1
    proofs = {
        repair.of: (repair.fix, _proof(repair, first, changed, control, rules, alone=alone))
        for repair in found
    }

    def with_proof(finding: Finding) -> Finding:
        if finding.rule not in proofs:
            return finding
        fix, proof = proofs[finding.rule]
        fixes = tuple(replace(one, proof=proof) if one == fix else one for one in finding.fixes)
        return replace(finding, fixes=fixes)

    return replace(first, findings=tuple(map(with_proof, first.findings)))


def _proof(
    repair: Repair,
    first: RunReport,
    changed: RunReport,
    control: RunReport | None,
    rules: Sequence[Rule],
    *,
    alone: bool,
) -> Proof:
    before = _state(first, repair.cures)
    if repair.at_odds is not None:
        words = f"not tried: {repair.at_odds} was set as the repair of a graver failure asks"
        return Proof("undecided", before, words)
    after = f"with the change {_state(changed, repair.cures)}"
    verdicts = {_verdict(changed, rule) for rule in repair.cures}
    if Verdict.FAIL in verdicts:
        return Proof("refuted", before, after)
    broken = [
        f"{f.rule} fails, which passed before: {f.message}"
        for f in changed.findings
        if f.verdict is Verdict.FAIL
        and f.ignored is None
        and _verdict(first, f.rule) is Verdict.PASS
    ]
    if broken:
        return Proof("refuted" if alone else "undecided", before, f"{after}; but {broken[0]}")
    if verdicts != {Verdict.PASS}:
        return Proof("undecided", before, after)
    if not wants_control([repair], rules):
        return Proof("proven", before, after)
    if control is None:
        return Proof("undecided", before, after, "nobody trained again without it")
    again = [rule for rule in repair.cures if _verdict(control, rule) is Verdict.FAIL]
    words = f"without it, trained once more, {_state(control, again or repair.cures)}"
    return Proof("proven" if again else "undecided", before, after, words)


def _state(judged: RunReport, cures: Sequence[str]) -> str:
    """What became of some rules, the gravest verdict first, with what one of them measured."""
    found = [finding for finding in judged.findings if finding.rule in cures]
    parts = []
    for verdict in _DOES:
        alike = [finding for finding in found if finding.verdict is verdict]
        if alike:
            telling = next((f for f in alike if not f.rule.startswith("ending/")), alike[0])
            words = telling.reason or telling.message
            words = words if len(alike) == 1 else f"{telling.rule}: {words}"
            names = [finding.rule for finding in alike]
            parts.append(f"{_and(names)} {_DOES[verdict][len(alike) > 1]} ({words})")
    return "; ".join(parts)


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


_DOES = {
    Verdict.FAIL: ("fails", "fail"),
    Verdict.ERROR: ("breaks", "break"),
    Verdict.WARN: ("warns", "warn"),
    Verdict.SKIP: ("cannot be judged", "cannot be judged"),
    Verdict.PASS: ("passes", "pass"),
}


def _verdict(judged: RunReport, rule: str) -> Verdict | None:
    return next((f.verdict for f in judged.findings if f.rule == rule), None)
