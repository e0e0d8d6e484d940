"""Other doctors of training logs on the same runs: trainproof and runmedic, where installed.

Neither reads Detectron2's metrics.json, so each run is written once more as a .jsonl with the
column names that both know. They are called in their own interpreter by the functions that their
commands call, many files in one process; a finding becomes the flag that it stands for.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_COLUMNS = {"total_loss": "loss", "time": "step_time", "max_mem": "max_memory_allocated"}
_LEFT_OUT = {"mem_peak", "mem_alloc"}  # d2check's own records; no log that they read has them

_DRIVER = """
import json, sys
name, listing = sys.argv[1:]
if name == "trainproof":
    from trainproof.epoch import check_epoch
    def found(path):
        return [(f["id"], f["level"]) for f in check_epoch(path)["findings"]]
else:
    from runmedic import loaders, roles
    from runmedic.checks import run_checks
    def found(path):
        runs = loaders.load(path)
        return [(f.check, f.severity) for r in runs for f in run_checks(r, roles.detect(r))]
for path in open(listing).read().splitlines():
    print(json.dumps(found(path)))
"""

_FLAG_OF = {
    "TP-NAN": "nan",
    "TP-DIVERGE": "divergence",
    "TP-FLAT": "not_decreasing",
    "TP-DEAD-RUN": "not_decreasing",
    "TP-LOADER-BOUND": "data_bound",
    "TP-STEP-CLIFF": "time_drift",
    "TP-ZERO-LR": "lr",
    "TP-ZERO-LR-PARTIAL": "lr",
    "non_finite": "nan",
    "divergence": "divergence",
    "no_learning": "not_decreasing",
    "constant_lr_plateau": "plateau",
    "loss_spikes": "spikes",
    "input_bound": "data_bound",
    "slow_steps": "data_bound",
    "slowdown": "time_drift",
    "memory_growth": "mem_leak",
}

# Row of the table -> (program, levels of its findings that count).
RIVALS: Mapping[str, tuple[str, frozenset[str]]] = {
    "trainproof": ("trainproof", frozenset({"FAIL", "WARN"})),
    "runmedic": ("runmedic", frozenset({"critical", "warning"})),
    "runmedic with its hints": ("runmedic", frozenset({"critical", "warning", "info"})),
}


def write_plain(run: dict[str, Any], path: Path) -> Path:
    """A generated run, row by row, under names that trainproof and runmedic know."""
    names = [name for name in run["m"] if name not in _LEFT_OUT]
    with path.open("w") as out:
        for row, iteration in enumerate(run["it"]):
            values = {_COLUMNS.get(k, k): float(run["m"][k][row]) for k in names}
            out.write(json.dumps({"step": int(iteration), **values}) + "\n")
    return path


def version_in(python: str, program: str) -> str | None:
    """The version of a rival that this interpreter can import, or None."""
    asked = f"import importlib.metadata as m, {program}; print(m.version({program!r}))"
    try:
        told = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return told.stdout.strip() if told.returncode == 0 else None


def judge_files(python: str, program: str, files: Sequence[Path]) -> list[list[tuple[str, str]]]:
    """(finding, level) of every finding on each file. Raises where the program stops."""
    listing = files[0].parent / f"{program}.txt"
    listing.write_text("".join(f"{path}\n" for path in files))
    command = [python, "-c", _DRIVER, program, str(listing)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{program} stopped: {done.stderr.strip().splitlines()[-1]}")
    return [[(a, b) for a, b in json.loads(line)] for line in done.stdout.splitlines()]


def flags_of(findings: Sequence[tuple[str, str]], levels: frozenset[str]) -> set[str]:
    """The flags that findings of these levels stand for; one without a counterpart keeps its id."""
    return {_FLAG_OF.get(name, name) for name, level in findings if level in levels}
