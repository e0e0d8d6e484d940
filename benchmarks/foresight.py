"""How well a short check foretells what the full training does.

    OMP_NUM_THREADS=1 python benchmarks/foresight.py train FOLDER    # trains, about 25 minutes
    python benchmarks/foresight.py score FOLDER                      # judges, writes the table

For each configuration (rates around the edge of stability x warm-ups x batches) the demo's Mask
R-CNN is trained in full as configured, which tells the truth, and checked twice, by a short run
with a ramp and by the slower climb with another seed that confirms it. A check sees 30 iterations
as configured, far inside the warm-up, and then the ramp.

Truth: a full training has failed when it ended in NaN or when the last 50 iterations' mean loss is
above 60 % of its first 10 iterations' (workable rates end between 30 and 50 %).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from d2check import sources
from d2check.demo.shapes import write_demo
from d2check.model import EndingKind, Finding, Verdict
from d2check.probe import wire
from d2check.rules.judge import judge_rule
from d2check.rules.load import load_rules

FULL_ITERATIONS = 300
AS_CONFIGURED = 30
# name -> (iterations of the ramp, iterations of its climb, seed)
CHECKS = {"quick": (90, 20, 2), "slow": (150, 80, 3)}
FAILED_SHARE = 0.6
CONFIGURATIONS = [
    *itertools.product((0.4, 0.2, 0.1, 0.02, 0.05), (100,), (4,)),
    (0.005, 100, 4),
    *itertools.product((0.4, 0.2, 0.1), (200,), (4,)),
    (0.1, 100, 1),
    (0.005, 200, 4),
    (0.01, 100, 1),
    (1.0, 200, 4),
    (0.2, 100, 2),
    (0.02, 200, 2),
]
# Trained after the rule was first settled.
HELD_OUT = [
    (0.3, 100, 4),
    (0.3, 200, 2),
    (0.15, 150, 2),
    (0.05, 200, 1),
    (0.6, 150, 4),
    (0.02, 50, 1),
]
RULE = "loss/ruined-at-peak-lr"
PROBE = Path(wire.__file__).parent / "main.py"
RESULT = Path(__file__).with_name("foresight.json")
TABLE = Path(__file__).with_name("foresight.md")


def name_of(rate: float, warm_up: int, images: int) -> str:
    """The folder of a configuration."""
    return f"lr{rate:g}-warmup{warm_up}-batch{images}"


def train(folder: Path) -> None:
    """Train what is not there yet."""
    config = write_demo(folder / "demo")
    for rate, warm_up, images in (*CONFIGURATIONS, *HELD_OUT):
        overrides = {
            "SOLVER.BASE_LR": rate,
            "SOLVER.WARMUP_ITERS": warm_up,
            "SOLVER.IMS_PER_BATCH": images,
            "SOLVER.MAX_ITER": FULL_ITERATIONS,
            "SOLVER.STEPS": "()",
        }
        words = [str(word) for pair in overrides.items() for word in pair]
        base = folder / name_of(rate, warm_up, images)
        configured = {"name": "as-configured"}
        run(base / "full", config, words, FULL_ITERATIONS, [configured], seed=1)
        for check, (iterations, climb, seed) in CHECKS.items():
            phases = [
                configured | {"iterations": AS_CONFIGURED},
                {"name": "ramp", "iterations": iterations, "climb": climb},
            ]
            run(base / check, config, words, AS_CONFIGURED + iterations, phases, seed=seed)
            if not suspicious(base / check):
                break  # nothing to confirm


def run(folder: Path, config: Path, overrides: list[str], iterations: int, phases, seed: int):
    """One child of the probe, to its end."""
    if (folder / "done").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("records*"):
        old.unlink()
    entry = {
        "kind": "config",
        "config": str(config.absolute()),
        "overrides": overrides,
        "setup": [str(config.absolute().with_name("demo_setup.py"))],
        "seed": seed,
        "device": "cpu",
    }
    plan = {
        "schema": wire.SCHEMA,
        "folder": str(folder.absolute()),
        "iterations": iterations,
        "phases": phases,
        "entry": entry,
    }
    (folder / wire.PLAN).write_text(json.dumps(plan))
    started = time.monotonic()
    environment = {**os.environ, wire.PLAN_VARIABLE: str(folder.absolute() / wire.PLAN)}
    done = subprocess.run(
        [sys.executable, "-u", str(PROBE)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    (folder / wire.STDERR).write_text(done.stderr)
    (folder / "done").write_text(f"{time.monotonic() - started:.1f}\n")
    print(f"{folder.parent.name}/{folder.name}: {time.monotonic() - started:.0f} s", flush=True)


def judged(folder: Path, *, confirmed: bool | None = None) -> Finding:
    """What the rule on the ramp says of a check."""
    rule = next(rule for rule in load_rules() if rule.id == RULE)
    (read,) = sources.read(folder)
    return judge_rule(
        rule, replace(read, facts={**read.facts, "ramp_confirmed": confirmed})
    ).finding


def suspicious(folder: Path) -> bool:
    """Whether a ramp has to be confirmed."""
    return judged(folder).verdict in (Verdict.WARN, Verdict.FAIL)


def truth(folder: Path) -> tuple[bool, str]:
    """(whether the full training failed, what it did)."""
    (full,) = sources.read(folder)
    values = full.series["total_loss"].values
    if full.ending.kind is EndingKind.NON_FINITE or not np.isfinite(values).all():
        return True, f"NaN at {full.ending.iteration}"
    share = float(values[-50:].mean() / values[:10].mean())
    return share > FAILED_SHARE, f"loss to {share:.0%}"


def score(folder: Path) -> None:
    """Write the table and the figures."""
    rows = []
    for rate, warm_up, images in (*CONFIGURATIONS, *HELD_OUT):
        base = folder / name_of(rate, warm_up, images)
        if not (base / "full" / "done").exists() or not (base / "quick" / "done").exists():
            continue
        failed, did = truth(base / "full")
        quick = judged(base / "quick")
        slow = None
        if (base / "slow" / "done").exists():
            slow = judged(base / "slow", confirmed=True)
        confirmed = slow is not None and slow.verdict is Verdict.FAIL
        verdict = judged(base / "quick", confirmed=confirmed).verdict.value
        rows.append(
            {
                "rate": rate,
                "warm_up": warm_up,
                "images": images,
                "held_out": (rate, warm_up, images) in HELD_OUT,
                "full": did,
                "failed": failed,
                "quick": words(quick),
                "slow": None if slow is None else words(slow),
                "verdict": verdict,
                "right": (verdict != "PASS") == failed,
                "wrong_with_confidence": (verdict == "FAIL" and not failed)
                or (verdict == "PASS" and failed),
            }
        )
    RESULT.write_text(json.dumps(rows, indent=1) + "\n")
    TABLE.write_text(table(rows))
    print(table(rows))


def words(finding: Finding) -> str:
    """A ramp in a few words."""
    if finding.extras.get("outcome") == "non-finite":
        return f"NaN at a rate of {finding.extras['lr']:.2g}"
    return f"highest {finding.value:.2f}, end {finding.extras['end_share']:.2f} of its start"


def table(rows: list[dict]) -> str:
    """The rows in Markdown."""
    head = (
        "# What a short check foretells\n\n"
        f"The demo's Mask R-CNN, {FULL_ITERATIONS} iterations in full, one seed; the check sees "
        f"{AS_CONFIGURED} of them and a ramp ({CHECKS['quick'][0]} iterations, peak after "
        f"{CHECKS['quick'][1]}), and a second one where the first fails ({CHECKS['slow'][0]}, "
        f"{CHECKS['slow'][1]}, another seed). PASS and FAIL are verdicts with confidence, WARN is "
        "none. The rule was first settled on the first table. The second was trained afterwards, "
        "at the edge, and was then 3 of 6 right with 3 wrong with confidence: since then a rise "
        "that comes down by itself warns. Both tables are judged by that later rule, so neither "
        "is held out any more. At the edge the seed decides, and no short check foretells it.\n"
    )
    seen = [row for row in rows if not row["held_out"]]
    return head + part(seen) + part([row for row in rows if row["held_out"]])


def part(rows: list[dict]) -> str:
    """One table with its count."""
    right = sum(row["right"] for row in rows)
    wrong = sum(row["wrong_with_confidence"] for row in rows)
    head = (
        f"\n{right} of {len(rows)} right, {wrong} wrong with confidence.\n\n"
        "| rate | warm-up | images | full training | first ramp | second ramp | verdict | right |\n"
        "|---|---|---|---|---|---|---|---|\n"
    )
    lines = [
        f"| {r['rate']:g} | {r['warm_up']} | {r['images']} | {r['full']}"
        f"{' (failed)' if r['failed'] else ''} | {r['quick']} | {r['slow'] or '-'} "
        f"| {r['verdict']} | {'yes' if r['right'] else 'no'} |\n"
        for r in rows
    ]
    return head + "".join(lines)


def main() -> None:
    """Train or score."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("step", choices=("train", "score"))
    options.add_argument("folder", type=Path)
    chosen = options.parse_args()
    {"train": train, "score": score}[chosen.step](chosen.folder)


if __name__ == "__main__":
    main()
