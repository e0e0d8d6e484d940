"""Run the checks of the project one after the other; the same here and in CI.

Called by ci/check with the environment's Python. All stages run even when one fails; the failed
ones are named at the end. Standard library only.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
PYTEST_WORKERS = "2"


@dataclass(frozen=True)
class Stage:
    """One command. `live` passes its output through; otherwise it is shown only on failure."""

    name: str
    answers: str
    command: tuple[str, ...]
    live: bool = False


def python(*arguments: str) -> tuple[str, ...]:
    """A command line that runs this interpreter."""
    return (sys.executable, *arguments)


# Tests last: a good run then ends with pytest's own summary.
STAGES: tuple[Stage, ...] = (
    Stage("format", "is the code formatted", python("-m", "ruff", "format", "--check", ".")),
    Stage("lint", "does ruff find faults", python("-m", "ruff", "check", ".")),
    Stage("types", "does mypy --strict accept it", python("-m", "mypy")),
    Stage(
        "python38",
        "does the probe keep to what Python 3.8 has",
        python(
            *("-c", "import vermin; vermin.main()"),
            *("--no-tips", "--violations", "-t=3.8-", "d2check/probe"),
        ),
    ),
    Stage(
        "imports",
        "do imports go down only, and torch stay in the probe",
        python(
            "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-logo"
        ),
    ),
    Stage("rules", "do the rules' own examples hold", (str(BIN / "d2check"), "rules", "test")),
    Stage(
        "tests",
        "do the tests pass",
        # By file: a file's fixtures may have trained a model, which no second worker should repeat.
        python("-m", "pytest", "-q", "-n", PYTEST_WORKERS, "--dist", "loadfile"),
        live=True,
    ),
)


def run_stage(stage: Stage, environment: Mapping[str, str]) -> bool:
    """Run one stage from the root of the checkout, say how it went, return whether it passed."""
    started = time.monotonic()
    if stage.live:
        print(f"check: {stage.name}: {stage.answers}?", flush=True)
    try:
        answer = subprocess.run(
            stage.command,
            cwd=ROOT,
            env=environment,
            check=False,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=None if stage.live else subprocess.PIPE,
            stderr=None if stage.live else subprocess.STDOUT,
        )
        passed, said = answer.returncode == 0, answer.stdout or ""
    except OSError as error:
        passed, said = False, f"{error}\n"
    seconds = time.monotonic() - started
    if not passed:
        print(f"{said}check: {stage.name} FAILED ({seconds:.1f} s): {' '.join(stage.command)}")
    elif not stage.live:
        print(f"check: {stage.name} ok ({seconds:.1f} s)")
    sys.stdout.flush()
    return passed


def choose(names: Sequence[str]) -> list[Stage]:
    """The stages named, in their own order; all when none is named. Raises `ValueError`."""
    known = [stage.name for stage in STAGES]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"no stage {', '.join(unknown)}; there are {', '.join(known)}")
    return [stage for stage in STAGES if not names or stage.name in names]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit 0 when every stage passed, 1 when one failed, 4 on an unknown stage."""
    parser = argparse.ArgumentParser(
        prog="ci/check",
        description="Run the checks of the project.",
        epilog="\n".join(f"  {stage.name:9} {stage.answers}?" for stage in STAGES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stage", nargs="*", help="run only these (default: all)")
    try:
        stages = choose(parser.parse_args(arguments).stage)
    except ValueError as error:
        print(f"ci/check: {error}", file=sys.stderr)
        return 4
    # One thread a process: with more, OpenMP spins when the machine is busy (10 times slower),
    # and the losses of a training are no longer the same in every run.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    failed = [stage.name for stage in stages if not run_stage(stage, environment)]
    if failed:
        print(f"check: {len(failed)} of {len(stages)} stages failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
