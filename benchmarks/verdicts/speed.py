"""How long the loss rules take: `python benchmarks/verdicts/speed.py`.

A Mask R-CNN's raw losses of so many rows, judged by every rule under loss/ (checks, thresholds and
messages). Processor time of this process, the best of several; each time with arrays that no check
has seen, as nothing is kept from one run to the next. Beside it each check alone, at that size.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from d2check.model import Run, Series
from d2check.rules.judge import judge
from d2check.rules.load import load_rules

HEADS = {"loss_cls": (1.4, 0.34), "loss_box_reg": (0.5, 0.23), "loss_mask": (0.69, 0.14),
         "loss_rpn_cls": (0.69, 0.9), "loss_rpn_loc": (0.2, 0.4)}  # fmt: skip


def made_run(rows: int, seed: int) -> Run:
    """A healthy run of raw rows: five heads that fall, their total and a rate in warm-up."""
    rng = np.random.default_rng(seed)
    at = np.arange(rows, dtype=np.int64)
    course = (1 + at / 60) ** -0.5
    heads = {
        name: start * course * np.exp(0.8 * sd * rng.standard_normal(rows))
        for name, (start, sd) in HEADS.items()
    }
    values = {**heads, "total_loss": np.sum(list(heads.values()), axis=0)}
    values["lr"] = 0.005 * np.minimum(1.0, (at + 1) / 100)
    series = {name: Series(name, at, v, 1, 1, "raw") for name, v in values.items()}
    return Run("made", series=series, facts={"classes": 3})


def cpu_ms(rules: list, runs: list[Run]) -> float:
    """The least processor time in which these rules judge one of the runs."""
    best = float("inf")
    for run in runs:
        start = time.process_time()
        judge(rules, run)
        best = min(best, 1e3 * (time.process_time() - start))
    return best


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--rows", type=int, nargs="+", default=[100, 500, 10_000, 100_000])
    ask.add_argument("--times", type=int, default=9)
    given = ask.parse_args()
    rules = [rule for rule in load_rules() if rule.id.startswith("loss/")]
    print(f"{'rows':>24s}" + "".join(f"{rows:>10,d}" for rows in given.rows) + "   ms of processor")
    batches = [[("every loss rule", rules)], [(rule.id, [rule]) for rule in rules]]
    for name, chosen in [line for batch in batches for line in batch]:
        times = []
        for rows in given.rows:
            runs = [made_run(rows, seed) for seed in range(given.times + 1)]
            cpu_ms(chosen, runs[:1])
            times.append(cpu_ms(chosen, runs[1:]))
        print(f"{name:>24s}" + "".join(f"{t:10.2f}" for t in times))


if __name__ == "__main__":
    main()
