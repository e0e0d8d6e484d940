"""How long `d2check audit` takes, as whole processes and beside other doctors of training logs.

    python benchmarks/audit.py [--peers ENVIRONMENT/bin] [--folders 1000] [--rows 50000]
                               [--log-gb 0] [--rows-gb 0] [--million] [--rounds 3]

1. One metrics.json of 50,000 rows of 25 keys (40 MB), and the same rows as a .jsonl with the
   column names that trainproof and runmedic accept; they are run where --peers or PATH has them,
   in turns with d2check, and judge less. Best of the rounds; ratios are of processor time.
2. Folders of 100 rows and a config each, found, read, judged and reported by a pool of processes.
3. `d2check --help`.
4. With --million: a million rows. With --log-gb N: a log.txt of N GB in which one line of ten has
   metrics, with --rows-gb N: one of nothing else. All with their peak memory.

CPU is user and system time of the process and all its children, which a busy machine moves less
than the wall clock. Peak memory is that of the largest process. Linux.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from outputs import make_outputs
from reading import rows as plain_rows

_D2CHECK = [sys.executable, "-m", "d2check"]
_PEER_NAMES = {"total_loss": "loss", "iteration": "step", "time": "step_time"}
_CHATTER = "".join(
    f"[03/01 09:00:02 d2.data.mapper]: image {n:06}: 1333 x 800, 7 instances, flipped; "
    "augmentations took 0.031 s, decoding 0.012 s, within its limits\n"
    for n in range(9)
)
_ADOPT_ORPHANS = 36  # prctl's PR_SET_CHILD_SUBREAPER: a pool's workers are waited for by us


@dataclass(frozen=True)
class Cost:
    """One process and its children. seconds of wall clock and of processor; peak_mib of memory."""

    wall_s: float
    cpu_s: float
    peak_mib: float
    exit_code: int

    def __str__(self) -> str:
        return f"{self.wall_s:7.2f} s wall {self.cpu_s:8.2f} s cpu {self.peak_mib:7.0f} MiB"


def cost_of(command: Sequence[str]) -> Cost:
    """Run a command to its end, its output thrown away."""
    pipe_in, pipe_out = os.pipe()
    start = time.perf_counter()
    child = os.fork()
    if child == 0:
        os.close(pipe_in)
        os.write(pipe_out, json.dumps(_measured(command)).encode())
        os._exit(0)
    os.close(pipe_out)
    with os.fdopen(pipe_in) as told:
        cpu_s, peak_mib, exit_code = json.load(told)
    wall_s = time.perf_counter() - start
    os.waitpid(child, 0)
    return Cost(wall_s, cpu_s, peak_mib, exit_code)


def _measured(command: Sequence[str]) -> tuple[float, float, int]:
    """In a process of its own, since what children used is summed up per process."""
    import resource

    ctypes.CDLL(None).prctl(_ADOPT_ORPHANS, 1, 0, 0, 0)
    quiet = subprocess.DEVNULL
    # As users have it: with the bytecode that Python keeps of every module.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, stdout=quiet, stderr=quiet, env=environment)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, done.returncode


# ------------------------------------------------------------------------------------ the inputs


def training_rows(count: int, seed: int = 1) -> Iterator[dict[str, float]]:
    """A healthy training as JSONWriter would have written it, 25 keys a row."""
    rng = random.Random(seed)
    for number, line in enumerate(plain_rows(count, seed)):
        row = json.loads(line)
        level = 0.3 + 0.7 / (1 + number / 400)
        heads = {name: level * math.exp(0.1 * rng.gauss(0, 1)) for name in row if "loss_" in name}
        row |= heads | {"total_loss": sum(heads.values())}
        row |= {"lr": 0.02 * min(1.0, (20 * number + 19) / 1000)}
        row |= {"time": 0.4 + 0.01 * rng.random(), "data_time": 0.01 * rng.random()}
        yield row


def write_rows(path: Path, count: int, names: dict[str, str] | None = None) -> None:
    """metrics.json, or the same under other column names."""
    with path.open("w") as out:
        for row in training_rows(count):
            if names:
                row = {names.get(key, key): value for key, value in row.items()}
            out.write(json.dumps(row, sort_keys=True) + "\n")


def write_log(path: Path, size_bytes: int, chatter: str = _CHATTER) -> None:
    """A log.txt of so many bytes: of ten lines one has metrics, as where a user's code prints."""
    head = "[03/01 09:00:00 d2.engine.train_loop]: Starting training from iteration 0\n"
    rng = random.Random(2)
    number = 0
    with path.open("w", buffering=2**22) as out:
        out.write(head)
        while out.tell() < size_bytes:
            for _ in range(1000):
                level = 0.3 + 0.7 / (1 + number / 400)
                out.write(
                    f"[03/01 09:00:01 d2.utils.events]:  eta: 1 day, 3:00:00  iter: "
                    f"{20 * number + 19}  total_loss: {2 * level + 0.1 * rng.random():.4g}  "
                    f"loss_cls: {level:.4g}  loss_box_reg: {level:.4g}  loss_rpn_cls: 0.02  "
                    f"loss_rpn_loc: 0.03  time: 0.4012  data_time: 0.0101  lr: 0.02  "
                    "max_mem: 4210M\n"
                )
                out.write(chatter)
                number += 1


# ----------------------------------------------------------------------------------- the matches


def beside_peers(root: Path, count: int, rounds: int, peers: str | None) -> None:
    """Print one file's cost by every doctor that is installed, in turns."""
    own, theirs = root / "metrics.json", root / "metrics.jsonl"
    write_rows(own, count)
    write_rows(theirs, count, _PEER_NAMES)
    commands = {"d2check audit": [*_D2CHECK, "audit", str(own)]}
    path = os.pathsep.join(filter(None, (peers, os.environ.get("PATH"))))
    for name, words in (("trainproof", ["doctor"]), ("runmedic", ["diagnose"])):
        if program := shutil.which(name, path=path):
            commands[f"{name} {words[0]}"] = [program, *words, str(theirs)]
    found: dict[str, list[Cost]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            found[name].append(cost_of(command))
    best = {name: min(costs, key=lambda c: c.cpu_s) for name, costs in found.items()}
    print(f"\none metrics.json of {count:,} rows, {own.stat().st_size / 1e6:.0f} MB")
    for name, cost in best.items():
        ratio = cost.cpu_s / best["d2check audit"].cpu_s
        print(f"  {name:20}{cost}   {ratio:5.2f} x   exit {cost.exit_code}")


def many_folders(root: Path, count: int) -> None:
    """Print what an audit of many small outputs costs."""
    make_outputs(root, count)
    cost = cost_of([*_D2CHECK, "audit", str(root)])
    print(f"\n{count:,} folders of 100 rows\n  d2check audit       {cost}")
    print(
        f"  a folder: {1e3 * cost.wall_s / count:.1f} ms wall, {1e3 * cost.cpu_s / count:.1f} cpu"
    )


def one_large(path: Path, what: str) -> None:
    """Print what an audit of one large file costs."""
    cost = cost_of([*_D2CHECK, "audit", str(path)])
    print(f"\n{what}, {path.stat().st_size / 1e6:,.0f} MB\n  d2check audit       {cost}")
    path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", help="folder with the programs trainproof and runmedic")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--folders", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--million", action="store_true")
    parser.add_argument("--log-gb", type=float, default=0.0)
    parser.add_argument("--rows-gb", type=float, default=0.0)
    given = parser.parse_args()
    costs = [cost_of([*_D2CHECK, "--help"]) for _ in range(5)]
    print(f"d2check --help      {min(costs, key=lambda c: c.wall_s)}")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        if given.rows:
            beside_peers(root, given.rows, given.rounds, given.peers)
        if given.folders:
            many_folders(root / "outputs", given.folders)
        if given.million:
            write_rows(root / "million.json", 1_000_000)
            one_large(root / "million.json", "a million rows")
        if given.log_gb:
            write_log(root / "log.txt", int(given.log_gb * 1e9))
            one_large(root / "log.txt", "one log.txt, one line of ten with metrics")
        if given.rows_gb:
            write_log(root / "log.txt", int(given.rows_gb * 1e9), chatter="")
            one_large(root / "log.txt", "one log.txt of rows only")


if __name__ == "__main__":
    main()
