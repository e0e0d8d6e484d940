"""What a check will do, settled and validated before anything is started."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from d2check.errors import InputError, UsageError
from d2check.harness.phases import (
    DEFAULT_ITERATIONS,
    PHASES,
    RAMP,
    PlannedPhase,
    plan_phases,
    total_iterations,
)
from d2check.harness.validate import (
    check_command,
    check_config_file,
    check_overrides,
    default_interpreter,
    find_interpreter,
    resolve_setup,
)
from d2check.probe import wire

# One norm over all gradients costs milliseconds, so one iteration in ten pays for it.
GRAD_NORM_EVERY = 10
RUNS = Path("d2check-runs")
PROBE_MAIN = Path(__file__).parents[1] / "probe" / "main.py"

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")
_TRAINER = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_DEVICE = re.compile(r"[a-z]+(:\d+)?")


@dataclass(frozen=True)
class Plan:
    """Everything that `launch` needs.

    folder: the run folder, absolute, made for this run alone. command: what is started in cwd,
    with environment added to the user's own. iterations, budget_s (seconds of training): whichever
    is reached first ends the run; None is no limit. entry: what the probe shall run, as
    docs/run-folder.md says. confirm: whether a ramp that fails is run again before it may FAIL.
    verify: whether the proposed changes are tried. early_end: whether a failure of the loss that is
    certain ends the run.
    """

    folder: Path
    command: tuple[str, ...]
    entry: Mapping[str, Any]
    cwd: Path
    iterations: int | None = DEFAULT_ITERATIONS
    budget_s: float | None = None
    phases: tuple[PlannedPhase, ...] = ()
    grad_norm_every: int = GRAD_NORM_EVERY
    neutralise: bool = True
    confirm: bool = True
    verify: bool = False
    early_end: bool = True

    def to_plain(self) -> dict[str, Any]:
        """The content of plan.json."""
        return {
            "schema": wire.SCHEMA,
            "folder": str(self.folder),
            "iterations": self.iterations,
            "budget_s": self.budget_s,
            "phases": [phase.to_plain() for phase in self.phases],
            "grad_norm_every": self.grad_norm_every,
            "neutralise": self.neutralise,
            "entry": dict(self.entry),
        }


def plan_run(
    config: Path,
    overrides: Sequence[str] = (),
    *,
    setup: Sequence[str] = (),
    trainer: str | None = None,
    iterations: int | None = None,
    budget_s: float | None = None,
    output: Path | None = None,
    interpreter: str | None = None,
    seed: int | None = None,
    device: str | None = None,
    num_gpus: int = 1,
    configured_for: int | None = None,
    phases: Sequence[str] | None = None,
) -> Plan:
    """A plan for a config, with its run folder made. Raises UsageError or InputError.

    Everything is validated before the folder is made, so that a mistake leaves none behind.
    iterations: of the phase as configured; DEFAULT_ITERATIONS, or unlimited when only a budget is
    given. interpreter: see
    `default_interpreter`. seed, device: None leaves what the config says, or what the machine has.
    num_gpus: processes to train with. configured_for: the number of GPUs that the config is made
    for; those used here then get their share of its batch. phases: names, see `plan_phases`.
    """
    lazy = config.suffix == ".py"
    check_config_file(config)
    check_overrides(overrides, lazy=lazy)
    _check_length(iterations, budget_s)
    if configured_for is not None and phases is None:
        # A share of the batch says nothing of what the peak rate does to the whole one.
        phases = [name for name in PHASES if name != RAMP]
    planned = plan_phases(phases, iterations, budget_s)
    _check_training(trainer, device, seed, lazy=lazy)
    _check_gpus(num_gpus, configured_for)
    entry = {
        "kind": "config",
        "config": os.path.abspath(config),
        "overrides": list(overrides),
        "setup": [resolve_setup(each) for each in setup],
        "trainer": trainer,
        "seed": seed,
        "device": device,
        "num_gpus": num_gpus,
        "configured_for": configured_for,
    }
    python = find_interpreter(interpreter) if interpreter else default_interpreter(os.environ)
    return Plan(
        folder=make_run_folder(output, config.stem),
        command=(python, "-u", str(PROBE_MAIN)),
        entry=entry,
        cwd=Path.cwd(),
        iterations=total_iterations(planned),
        budget_s=budget_s,
        phases=planned,
    )


def plan_command(
    command: Sequence[str],
    *,
    iterations: int | None = None,
    budget_s: float | None = None,
    output: Path | None = None,
    phases: Sequence[str] | None = None,
) -> Plan:
    """A plan for a user's own command, as `python train_net.py --config-file x.yaml`.

    The probe joins every Python process that comes of it. iterations, budget_s, output, phases: as
    in `plan_run`. Raises UsageError or InputError for a command that cannot be started, or whose
    Python is told to ignore the environment.
    """
    check_command(command)
    _check_length(iterations, budget_s)
    planned = plan_phases(phases, iterations, budget_s)
    return Plan(
        folder=make_run_folder(output, _command_stem(command)),
        command=tuple(command),
        entry={"kind": "command", "command": list(command)},
        cwd=Path.cwd(),
        iterations=total_iterations(planned),
        budget_s=budget_s,
        phases=planned,
    )


def _check_length(iterations: int | None, budget_s: float | None) -> None:
    if iterations is not None and iterations < 1:
        raise UsageError(f"--iterations {iterations}: expected a number above 0.")
    if budget_s is not None and not 0 < budget_s < float("inf"):
        raise UsageError(f"--budget {budget_s:g}: expected more than 0 seconds, as 5m or 90s.")


def _check_training(
    trainer: str | None, device: str | None, seed: int | None, *, lazy: bool
) -> None:
    if trainer is not None and lazy:
        raise UsageError("--trainer: a LazyConfig is trained as lazyconfig_train_net.py does it.")
    if trainer is not None and not _TRAINER.fullmatch(trainer):
        raise UsageError(
            f"--trainer {trainer}: expected module:Class, as my_project.train:Trainer."
        )
    if device is not None and not _DEVICE.fullmatch(device):
        raise UsageError(f"--device {device}: expected cpu, cuda or cuda:N.")
    if seed is not None and seed < 0:
        raise UsageError(f"--seed {seed}: expected 0 or above; Detectron2 draws one below 0.")


def _check_gpus(num_gpus: int, configured_for: int | None) -> None:
    if num_gpus < 1:
        raise UsageError(f"--num-gpus {num_gpus}: expected a number above 0.")
    if configured_for is not None and configured_for <= num_gpus:
        raise UsageError(
            f"--as-configured-for {configured_for}: expected more GPUs than the {num_gpus} that "
            "are used here (--num-gpus)."
        )


def _command_stem(command: Sequence[str]) -> str:
    """What a run of this command is called: its script, its module, or its program."""
    script = next((word for word in command if word.endswith(".py")), None)
    if script is None and "-m" in command[:-1]:
        script = command[list(command).index("-m") + 1].rpartition(".")[2]
    return Path(script or command[0]).stem


def parse_duration_s(text: str) -> float:
    """Seconds of "5m", "90s", "1h30m", "1.5h" or "300". Raises UsageError."""
    compact = text.strip().lower().replace(" ", "")
    if re.fullmatch(r"\d+(\.\d+)?", compact):
        compact += "s"
    found = _DURATION.fullmatch(compact)
    parts = found.groups() if found else (None, None, None)
    units_s = (3600, 60, 1)
    seconds = sum(float(p) * unit_s for p, unit_s in zip(parts, units_s, strict=True) if p)
    if not 0 < seconds < float("inf"):
        raise UsageError(f"{text!r} is not a duration above 0. Write 90s, 5m or 1h30m.")
    return seconds


def make_run_folder(output: Path | None, stem: str) -> Path:
    """A folder for one run alone: `output`, or a new one named by time and config.

    Two checks that start in the same second get two folders.
    """
    if output is not None:
        return _make_named(output)
    stem = re.sub(r"[^\w.-]+", "-", stem)[:80] or "run"
    name = f"{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}-{stem}"
    runs = Path.cwd() / RUNS
    for candidate in _suffixed(name):
        try:
            runs.mkdir(exist_ok=True)
            (runs / candidate).mkdir()
        except FileExistsError:
            if not runs.is_dir():
                raise _no_folder(runs, "it is a file") from None
        except OSError as error:
            raise _no_folder(runs, error.strerror or str(error)) from error
        else:
            return runs / candidate
    raise AssertionError("the suffixes never end")


def _suffixed(name: str) -> Iterable[str]:
    yield name
    number = 2
    while True:
        yield f"{name}-{number}"
        number += 1


def _make_named(output: Path) -> Path:
    folder = Path(os.path.abspath(output))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        entries = sum(1 for _ in folder.iterdir())
    except OSError as error:
        found = "it is a file" if folder.is_file() else error.strerror or str(error)
        raise _no_folder(folder, found) from error
    if entries:
        known = wire.PLAN in os.listdir(folder)
        found = "it holds an earlier run" if known else f"it holds {entries} files or folders"
        raise _no_folder(folder, found)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _no_folder(folder, "no permission to write in it")
    return folder


def _no_folder(folder: Path, found: str) -> InputError:
    return InputError(
        str(folder), found, "a new or an empty folder for this run", "Name another with --output"
    )
