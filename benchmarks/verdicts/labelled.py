"""What the shipped rules say of real outputs, against the labels that a reader's eye gave them.

`python benchmarks/verdicts/labelled.py FOLDER`. FOLDER holds outputs and an `index.jsonl`, a JSON
object a line: `id` (the output's folder), `health` (a word or two) and `labels`, of which
`loss_decreasing`, `plateau`, `oscillating`, `diverged_or_nan` and `data_bound` are "yes", "no" or
"uncertain". A label speaks of the longest stretch without a restart, so the run with the most rows
of losses is judged. The outputs themselves are not part of the project.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from d2check import sources
from d2check.model import Finding, Run, Verdict
from d2check.rules.judge import judge
from d2check.rules.load import load_rules

LEARNING = ("loss/diverges", "loss/not-decreasing", "loss/non-finite")
SWINGS = ("loss/oscillates", "loss/spikes")
MET = (Verdict.WARN, Verdict.FAIL)


@dataclass(frozen=True)
class Labelled:
    """An output, what its label says, and what the rules say of its longest training."""

    name: str
    health: str
    labels: Mapping[str, str]
    findings: Mapping[str, Finding]
    rows: int

    def met(self, *rules: str) -> list[str]:
        """Those of these rules that warned or failed."""
        return [rule for rule in rules if self.findings[rule].verdict in MET]


def longest(runs: Sequence[Run]) -> Run:
    """The run with the most rows of losses."""
    return max(runs, key=lambda run: len(run.series.get("total_loss", ())))


def read(folder: Path) -> Iterator[Labelled]:
    """Every output of the index, judged."""
    rules = load_rules()
    for line in (folder / "index.jsonl").read_text().splitlines():
        row = json.loads(line)
        run = longest(sources.read(folder / row["id"]))
        findings = {finding.rule: finding for finding in judge(rules, run)}
        rows = len(run.series.get("total_loss", ()))
        yield Labelled(row["id"], row["health"], row["labels"], findings, rows)


def count(found: list[Labelled], what: str, which: Callable[[Labelled], bool], *rules: str) -> None:
    """Print how many outputs with a label some rules speak of."""
    them = [one for one in found if which(one)]
    named = [one for one in them if one.met(*rules)]
    print(f"{what:50}{len(named):3} of {len(them):3}   {', '.join(rules)}")


def main() -> None:
    """One line an output, then the counts."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("folder", type=Path, help="of outputs and their index.jsonl")
    found = list(read(ask.parse_args().folder))
    for one in found:
        bad = [f for f in one.findings.values() if f.verdict in MET and f.severity != "info"]
        said = ", ".join(f"{f.verdict.name} {f.rule}" for f in bad)
        print(f"{one.name[-40:]:42}{one.rows:6}  {one.health[:38]:40}{said}")
    print()

    def labelled(key: str, value: str) -> Callable[[Labelled], bool]:
        return lambda one: one.labels[key] == value

    def sick(one: Labelled) -> bool:
        return one.health.startswith("sick")

    learning = labelled("loss_decreasing", "yes")
    fails = [one for one in found if learning(one) and failed(one, "loss/")]
    print(f"{'learning, and a loss rule FAILs':50}{len(fails):3} of {sum(map(learning, found)):3}")
    count(found, "learning, and one of these speaks", learning, *LEARNING)
    count(found, "sick, and one of these speaks", sick, *LEARNING, "loss/head-zero")
    for one in filter(sick, found):
        for rule in LEARNING:
            print(f"    {one.name[-36:]:38}{rule}: {one.findings[rule].message}")
    count(found, "waits for data", labelled("data_bound", "yes"), "time/data-bound")
    count(found, "does not wait for data", labelled("data_bound", "no"), "time/data-bound")
    count(found, "visibly flat in the last third", labelled("plateau", "yes"), "loss/plateau")
    count(found, "visibly falling in the last third", labelled("plateau", "no"), "loss/plateau")
    count(found, "swings or spikes", labelled("oscillating", "yes"), *SWINGS)
    count(found, "no swings or spikes", labelled("oscillating", "no"), *SWINGS)


def failed(one: Labelled, room: str) -> bool:
    """Whether a rule of this room failed."""
    return any(
        finding.verdict is Verdict.FAIL and rule.startswith(room)
        for rule, finding in one.findings.items()
    )


if __name__ == "__main__":
    main()
