"""The checker's own files of a run folder: plan.json, manifest.json, ending.json."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import sys
import uuid
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from d2check import __version__
from d2check.errors import LaunchError
from d2check.harness import host
from d2check.harness.plan import Plan
from d2check.harness.redact import Redactor
from d2check.model import Ending
from d2check.probe import wire

# Its sitecustomize.py brings the probe into every Python process of a command.
SITE = Path(wire.__file__).parent / "site"

# What a training does depends on these; the rest of the environment is nobody's business.
_TELLING = re.compile(
    r"CUDA_|NVIDIA_VISIBLE|TORCH|PYTORCH|NCCL_|OMP_|MKL_|OPENBLAS_|DETECTRON2_|FVCORE_|CUBLAS_"
    r"|PYTHON(?!STARTUP)|VIRTUAL_ENV$|CONDA_PREFIX$|LD_LIBRARY_PATH$|LD_PRELOAD$|SLURM_JOB_ID$"
)


def child_environment(plan: Plan, environment: Mapping[str, str]) -> dict[str, str]:
    """The user's environment with what the probe needs, and with experiment trackers off."""
    added = {wire.PLAN_VARIABLE: str(plan.folder / wire.PLAN), "PYTHONUNBUFFERED": "1"}
    if plan.entry.get("kind") == "command":
        own = environment.get("PYTHONPATH")
        added["PYTHONPATH"] = os.pathsep.join([str(SITE), *([own] if own else [])])
    if plan.neutralise:
        added.update(tracker_variables(plan.folder))
    # Stacks are had of a crash in native code, and of a training that hangs.
    return {"PYTHONFAULTHANDLER": "1", **environment, **added}


def tracker_variables(folder: Path) -> dict[str, str]:
    """Variables that keep experiment trackers from sending, by the trackers' documentation.

    Where there is no disabled mode (MLflow, Neptune's 3.x client has no `debug`), data go into the
    run folder.
    """
    inside = folder / "child-output"
    return {
        "WANDB_MODE": "disabled",
        "MLFLOW_TRACKING_URI": (inside / "mlruns").as_uri(),
        "CLEARML_OFFLINE_MODE": "1",
        "NEPTUNE_MODE": "offline",
        "NEPTUNE_DATA_DIRECTORY": str(inside / "neptune"),
        "NEPTUNE_LOG_DIRECTORY": str(inside / "neptune"),
        "COMET_AUTO_LOG_DISABLE": "1",
        "COMET_DISABLE_AUTO_LOGGING": "1",
        "COMET_START_ONLINE": "0",
        "COMET_OFFLINE_DIRECTORY": str(inside / "comet"),
        "SWANLAB_MODE": "disabled",
    }


SPARE = "spare"
SPARE_BYTES = 512 * 1024  # a report of four ranks with every warning has 150 KiB


def write_plan(plan: Plan) -> None:
    """Write plan.json, which also claims the folder: a second check finds it and stops.

    The file holds the overrides as they are, for the child's eyes; `redact_plan` masks them later.
    """
    path = plan.folder / wire.PLAN
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump(plan.to_plain(), file, indent=1)
    except FileExistsError as error:
        raise LaunchError(
            f"{plan.folder}: another run is in this folder. Name another with --output."
        ) from error
    except OSError as error:
        raise LaunchError(f"{path}: cannot be written: {error.strerror}.") from error


def reserve(folder: Path) -> None:
    """Keep room for what is written last, the ending and the report, should the disk get full."""
    # No room for it is no reason not to train; random, so that no file system compresses it.
    with contextlib.suppress(OSError):
        (folder / SPARE).write_bytes(os.urandom(SPARE_BYTES))


def release(folder: Path) -> None:
    """Give the room up: now the last files are written."""
    with contextlib.suppress(OSError):
        (folder / SPARE).unlink(missing_ok=True)


def redact_plan(plan: Plan, redact: Redactor) -> str | None:
    """Mask the secrets in plan.json once nobody reads it any more. Returns why it failed."""
    return write_json(plan.folder / wire.PLAN, redact.data(plan.to_plain()))


def redact_output(folder: Path, redact: Redactor) -> list[str]:
    """Mask the secrets in what the training itself has written of its config. Returns failures.

    Detectron2's default_setup copies the whole config into its output folder and its log, which
    are in the run folder now. So is what a script would have written over files of its user's.
    """
    failures = []
    output = folder / "child-output"
    for path in sorted([*output.glob("*"), *output.glob("kept-apart/*")]):
        told = path.name.endswith(wire.CONFIG) or path.name.startswith("log.txt")
        if not told or path.is_symlink():
            continue
        masked = path.with_name(path.name + ".masked")
        try:
            with (
                path.open(encoding="utf-8", errors="replace") as lines,
                masked.open("w", encoding="utf-8") as file,
            ):
                file.writelines(map(redact.text, lines))
            masked.replace(path)
        except OSError as error:
            masked.unlink(missing_ok=True)
            failures.append(f"{path.name}: {error.strerror or error}")
    return failures


def manifest(plan: Plan, redact: Redactor, environment: Mapping[str, str]) -> dict[str, Any]:
    """What is known before the child starts."""
    telling = {name: value for name, value in environment.items() if _TELLING.match(name)}
    return {
        "schema": wire.SCHEMA,
        "run_id": uuid.uuid4().hex,
        "d2check": __version__,
        "python": platform.python_version(),
        "started": _now(),
        "command": redact.command(sys.argv),
        "child_command": redact.command(plan.command),
        "cwd": str(plan.cwd),
        "host": host.facts(),
        "environment": redact.environment(dict(sorted(telling.items()))),
        "trackers": tracker_variables(plan.folder) if plan.neutralise else {},
        "plan": redact.data(plan.to_plain()),
    }


def ended(
    opened: Mapping[str, Any], facts: Mapping[str, Any], neutralised: list[str]
) -> dict[str, Any]:
    """The manifest with what the probe said of the training."""
    return {**opened, "ended": _now(), "facts": dict(facts), "neutralised": neutralised}


def ending_data(
    ending: Ending,
    *,
    exit_status: int | None,
    signal: str | None,
    seconds: float,
    recording_failed: str | None,
    registered: Any,
    left: list[int],
) -> dict[str, Any]:
    """The content of ending.json.

    seconds: wall time of the child. registered: the data sets that a crash over a missing one
    named. left: processes that nothing could end.
    """
    data: dict[str, Any] = {
        "schema": wire.SCHEMA,
        "kind": ending.kind.value,
        "iteration": ending.iteration,
        "error": ending.error,
        "message": ending.message,
        "traceback": list(ending.traceback),
        "stage": ending.stage,
        "exit_status": exit_status,
        "signal": signal,
        "seconds": round(seconds, 3),
        "recording_failed": recording_failed,
    }
    if registered is not None:
        data["registered"] = registered
    if left:
        data["left_processes"] = left
    return data


def write_json(path: Path, data: Mapping[str, Any]) -> str | None:
    """Replace a file in one step. Returns why that failed: a full disk must not end the check."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            json.dump(data, file, indent=1)
            file.write("\n")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        return f"{path.name}: {error.strerror or error}"
    return None


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
