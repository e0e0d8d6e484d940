"""Make the environment that the demo, the tests and CI run in, or reuse the one already there.

Two kinds. *Pinned*, the usual one: everything of pins.txt and Detectron2 built from its sdist.
*Borrowed*: the interpreter that was asked for imports Detectron2 already; that Detectron2 is used
as it is through a .pth file, only what is missing is added beside it, and every version that is
there is a constraint, so nothing of that environment is changed or hidden.

Called by ci/setup. Standard library only.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

CI = Path(__file__).resolve().parent
ROOT = CI.parent
PINS = CI / "pins.txt"
PYPROJECT = ROOT / "pyproject.toml"
# Raise it when a step below changes in a way that old environments must not outlive.
RECIPE = 1
PINNED_PYTHON = (3, 11)
PACKAGE_PYTHON = (3, 10)
MARKER = "d2check-environment"
STAMP = "d2check-setup.json"
LOG_TAIL_LINES = 25
# They would lead pip or the new interpreter to packages outside the environment.
MISLEADING_VARIABLES = (
    *("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_USER"),
    "PYTHONDONTWRITEBYTECODE",  # packages are installed uncompiled: the first import compiles
)


class SetupError(Exception):
    """Set-up cannot go on; the message says where, what was found and what to do."""


@dataclass(frozen=True)
class Interpreter:
    """What a Python says of itself; `search` is its sys.path without the standard library."""

    path: str
    version: tuple[int, int, int]
    prefix: str
    base_path: str
    detectron2: str | None
    search: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """Which kind of environment to have, from which interpreter, and the key that proves it."""

    kind: str  # "pinned" or "borrowed"
    base: Interpreter
    key: str


INSPECT = """
import importlib.util, json, sys, sysconfig
standard = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
standard |= {path + "/lib-dynload" for path in standard}
spec = importlib.util.find_spec("detectron2")
json.dump({
    "path": sys.executable,
    "version": list(sys.version_info[:3]),
    "prefix": sys.prefix,
    "base_path": getattr(sys, "_base_executable", sys.executable),
    "detectron2": spec.origin if spec else None,
    "search": [path for path in sys.path
               if path and path not in standard and not path.endswith(".zip")],
}, sys.stdout)
"""

# The first distribution of a name on sys.path is the one that imports.
INSTALLED = """
import importlib.metadata, json
installed = {}
for found in importlib.metadata.distributions():
    if found.metadata["Name"]:
        installed.setdefault(found.metadata["Name"], found.version)
print(json.dumps(installed))
"""


def inspect_interpreter(python: str) -> Interpreter:
    """Ask the interpreter `python` about itself, without importing torch or Detectron2.

    Raises `SetupError` when it does not run or is older than d2check needs.
    """
    command = [python, "-c", INSPECT]
    try:
        # From /, so that a folder called detectron2 in the current one is not taken for it.
        answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
    except (OSError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", None) or str(error)
        raise SetupError(
            f"{python}: this interpreter does not run: {detail.strip().splitlines()[-1]}. "
            "Set D2CHECK_PYTHON to another one."
        ) from error
    facts = json.loads(answer.stdout)
    major, minor, micro = facts["version"]
    return Interpreter(
        path=facts["path"],
        version=(major, minor, micro),
        prefix=facts["prefix"],
        base_path=facts["base_path"],
        detectron2=facts["detectron2"],
        search=tuple(facts["search"]),
    )


def decide(base: Interpreter, *, recipe: str) -> Plan:
    """Borrow `base`'s Detectron2 if it has one, else plan the pinned environment.

    `recipe` identifies the inputs (see `recipe_key`). Raises `SetupError` when `base` is too old
    for the kind of environment that it calls for.
    """
    version = ".".join(map(str, base.version))
    if base.detectron2 is not None:
        if base.version < PACKAGE_PYTHON:
            raise SetupError(
                f"{base.path}: Python {version} has Detectron2, but d2check needs 3.10 or newer. "
                "Run ci/setup with a newer Python; d2check then drives this one by "
                f"`d2check run --python {base.path}`."
            )
        borrowed = json.dumps([base.path, base.detectron2])
        return Plan("borrowed", base, _digest(recipe.encode(), borrowed.encode()))
    if base.version < PINNED_PYTHON:
        raise SetupError(
            f"{base.path}: Python {version}; the pinned environment needs 3.11 or newer. "
            "Install one, or set D2CHECK_PYTHON to its path."
        )
    # Any base will do while it is there: another Python on the PATH is no reason to start over.
    return Plan("pinned", base, _digest(recipe.encode()))


def recipe_key(venv: Path) -> str:
    """Changes when an environment made before would no longer be what set-up makes now.

    The path counts: an environment that was moved has the old path in its scripts.
    """
    inputs = [PINS, CI / "build_detectron2.py"]
    return _digest(
        str(RECIPE).encode(), str(venv).encode(), *(path.read_bytes() for path in inputs)
    )


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def read_pins(text: str) -> dict[str, list[str]]:
    """The requirements of pins.txt by heading (``## name: ...``)."""
    sections: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("## "):
            name = line[3:].partition(":")[0].strip()
            sections[name] = []
        elif line.strip() and not line.startswith("#"):
            sections[name].append(line.strip())
    return sections


def missing_requirements(
    pins: Mapping[str, Sequence[str]], installed: Mapping[str, str]
) -> list[str]:
    """Names of core and tools that a borrowed environment lacks.

    Without versions: what fits beside its own packages is for pip to find.
    """
    present = {normalised(name) for name in installed}
    wanted = [pin.partition("==")[0] for pin in [*pins["core"], *pins["tools"]]]
    return [name for name in wanted if normalised(name) not in present]


def normalised(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def constraints(installed: Mapping[str, str]) -> str:
    """Constraint lines that hold every package of a borrowed environment at its version."""
    lines = {normalised(name): version for name, version in installed.items()}
    lines.pop("d2check", None)
    return "".join(f"{name}=={version}\n" for name, version in sorted(lines.items()))


def path_lines(search: Sequence[str]) -> str:
    """A .pth file's text that makes a borrowed interpreter's packages importable.

    ``site.addsitedir`` also follows that folder's own .pth files, where editable installs are.
    """
    return "".join(
        f"import site; site.addsitedir({folder!r})\n"
        if Path(folder).name in ("site-packages", "dist-packages")
        else f"{folder}\n"
        for folder in search
    )


@dataclass(frozen=True)
class Stamp:
    """Written last, so that its presence means a whole environment."""

    key: str
    package_key: str
    kind: str
    base_path: str
    must_exist: tuple[str, ...]


def read_stamp(venv: Path) -> Stamp | None:
    """The stamp, or None when it is absent, unreadable, or something it vouches for is gone."""
    try:
        fields: dict[str, Any] = json.loads((venv / STAMP).read_text())
        stamp = Stamp(**{**fields, "must_exist": tuple(fields["must_exist"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    python = venv / "bin" / "python"
    # A dangling symlink: the interpreter that the environment stands on was removed.
    if not python.exists() or not all(Path(path).exists() for path in stamp.must_exist):
        return None
    return stamp


def environment_variables() -> dict[str, str]:
    """The caller's environment without what would lead installs elsewhere."""
    kept = {name: value for name, value in os.environ.items() if name not in MISLEADING_VARIABLES}
    return {**kept, "PYTHONNOUSERSITE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


class Steps:
    """Runs commands as numbered steps: one line each, the commands' own words in a log."""

    def __init__(self, total: int, log: Path) -> None:
        self.total = total
        self.done = 0
        self.log = log

    @contextmanager
    def step(self, title: str) -> Iterator[Callable[..., str]]:
        """Yields a function that runs one command and returns its standard output."""
        self.done += 1
        print(f"setup: [{self.done}/{self.total}] {title} ... ", end="", flush=True)
        started = time.monotonic()
        try:
            yield self._run
        except BaseException:
            print("failed", flush=True)
            raise
        print(f"{time.monotonic() - started:.1f} s", flush=True)

    def _run(self, *command: str | Path) -> str:
        words = [str(word) for word in command]
        answer = subprocess.run(
            words,
            capture_output=True,
            text=True,
            check=False,
            env=environment_variables(),
            cwd=ROOT,
        )
        with self.log.open("a") as log:
            log.write(f"$ {' '.join(words)}\n{answer.stdout}{answer.stderr}\n")
        if answer.returncode != 0:
            said = (answer.stderr.strip() or answer.stdout.strip()).splitlines()[-LOG_TAIL_LINES:]
            raise SetupError(
                f"`{' '.join(words)}` ended with status {answer.returncode}:\n  "
                + "\n  ".join(said)
                + f"\nAll output: {self.log}"
            )
        return answer.stdout


def make(plan: Plan, venv: Path) -> None:
    """Build the environment of `plan` at `venv` from nothing, the stamp last."""
    clear(venv)
    venv.mkdir(parents=True)
    # At once, so that an interrupted set-up is known as ours and may be cleared.
    (venv / MARKER).write_text("Made by ci/setup; safe to delete.\n")
    python = venv / "bin" / "python"
    steps = Steps(total=6 if plan.kind == "pinned" else 4, log=venv / "setup.log")
    with steps.step(f"virtual environment from {plan.base.path}") as run:
        run(plan.base.path, "-m", "venv", venv)
    if plan.kind == "pinned":
        install_pinned(steps, python)
    else:
        install_borrowed(steps, python, plan.base)
    install_package(steps, python)
    with steps.step("check that Detectron2 imports") as run:
        locations = run(python, "-W", "ignore", "-c", LOCATE).splitlines()[-1]
    write_stamp(plan, venv, tuple(json.loads(locations)))


LOCATE = """
import json, detectron2.engine, torch, pytest, d2check
print(json.dumps([module.__file__ for module in (detectron2, torch, pytest, d2check)]))
"""


def clear(venv: Path) -> None:
    """Remove an environment that this script made.

    Raises `SetupError` when something else is at that place.
    """
    if not venv.exists():
        return
    if not (venv / MARKER).exists() and any(venv.iterdir()):
        raise SetupError(
            f"{venv} exists and was not made by ci/setup, so it is left alone. "
            "Move it away, or set D2CHECK_VENV to another folder."
        )
    shutil.rmtree(venv)


def install_pinned(steps: Steps, python: Path) -> None:
    """Everything of pins.txt, then Detectron2 built from its sdist."""
    with steps.step("packages of ci/pins.txt (torch is 2 GB; a minute or two)") as run:
        # Compiling all 10,000 modules takes 30 s; the few hundred that are imported, 8 s.
        run(python, "-m", "pip", "install", "-qq", "--no-compile", "-r", PINS)
    with (
        tempfile.TemporaryDirectory(prefix="d2check-setup-") as folder,
        steps.step("fetch Detectron2's sdist") as run,
    ):
        sdist = run(python, CI / "fetch_detectron2.py", folder).strip()
        wheel = run(python, CI / "build_detectron2.py", sdist, folder).strip()
        run(python, "-m", "pip", "install", "-qq", "--no-deps", wheel)
    with steps.step("check that all requirements are met") as run:
        run(python, "-m", "pip", "check")


def install_borrowed(steps: Steps, python: Path, base: Interpreter) -> None:
    """Link to `base`'s packages and add the missing ones, each of `base` held at its version."""
    with steps.step(f"use Detectron2 of {base.path}, add what is missing") as run:
        packages = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
        Path(packages.strip(), "d2check_borrowed.pth").write_text(path_lines(base.search))
        installed: dict[str, str] = json.loads(run(base.path, "-c", INSTALLED))
        missing = missing_requirements(read_pins(PINS.read_text()), installed)
        if not missing:
            return
        with tempfile.TemporaryDirectory(prefix="d2check-setup-") as folder:
            held = Path(folder, "constraints.txt")
            held.write_text(constraints(installed))
            run(python, "-m", "pip", "install", "-qq", "-c", held, *missing)


def install_package(steps: Steps, python: Path) -> None:
    """d2check itself, editable; its dependencies are there already."""
    with steps.step("d2check, editable") as run:
        flags = ["-qq", "--no-deps", "--no-build-isolation"]
        run(python, "-m", "pip", "install", *flags, "--editable", ROOT)


def write_stamp(plan: Plan, venv: Path, must_exist: tuple[str, ...]) -> None:
    """Vouch for the environment; by rename, so that a half-written stamp cannot exist."""
    stamp = Stamp(
        key=plan.key,
        package_key=_digest(PYPROJECT.read_bytes()),
        kind=plan.kind,
        base_path=plan.base.path,
        must_exist=must_exist,
    )
    draft = venv / f"{STAMP}.new"
    draft.write_text(json.dumps(asdict(stamp), indent=1))
    draft.replace(venv / STAMP)


@contextmanager
def locked(venv: Path) -> Iterator[None]:
    """One set-up of `venv` at a time; a second one waits and then finds the work done."""
    venv.parent.mkdir(parents=True, exist_ok=True)
    with (venv.parent / f"{venv.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"setup: waiting for another set-up of {venv}", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def base_interpreter(venv: Path) -> Interpreter:
    """The interpreter asked for, or else the one that runs this.

    When that is the environment itself (it is activated), the one it was made from.
    """
    base = inspect_interpreter(os.environ.get("D2CHECK_PYTHON") or sys.executable)
    if Path(base.prefix).resolve() != venv.resolve():
        return base
    stamp = read_stamp(venv)
    return inspect_interpreter(stamp.base_path if stamp is not None else base.base_path)


def set_up(venv: Path) -> None:
    """Leave a whole, current environment at `venv`, doing as little as possible.

    Raises `SetupError` with the step that failed.
    """
    started = time.monotonic()
    with locked(venv):
        plan = decide(base_interpreter(venv), recipe=recipe_key(venv))
        stamp = read_stamp(venv)
        if stamp is None or stamp.key != plan.key:
            make(plan, venv)
        elif stamp.package_key != _digest(PYPROJECT.read_bytes()):
            install_package(Steps(total=1, log=venv / "setup.log"), venv / "bin" / "python")
            write_stamp(plan, venv, stamp.must_exist)
    print(f"setup: {venv} is ready ({plan.kind}, {time.monotonic() - started:.1f} s)", flush=True)


def main() -> int:
    """Exit 0 when the environment is ready, 1 with a message when not, 2 when interrupted."""
    venv = Path(os.environ.get("D2CHECK_VENV") or ROOT / ".venv").absolute()
    try:
        set_up(venv)
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nsetup: interrupted; the next call starts over", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
