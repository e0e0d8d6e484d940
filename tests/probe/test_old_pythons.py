"""The probe under the interpreters that users train with, where this machine has them.

They need nothing installed. Found on PATH, among pyenv's versions, and in D2CHECK_PYTHONS, a list
of interpreters like PATH. What needs torch is in test_old_pythons_train.
"""

from __future__ import annotations

import functools
import glob
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from d2check.probe import wire
from tests.conftest import SITE, child_environment, read_records, write_plan

FOLDER = Path(wire.__file__).parent
SOURCES = sorted(FOLDER.rglob("*.py"))
VERSIONS = tuple(f"3.{minor}" for minor in range(8, 14))
ASK = "import sys; print('%d.%d' % sys.version_info[:2])"
LIMIT_S = 60


@functools.cache
def interpreters() -> dict[str, str]:
    """One interpreter for each version that was found."""
    named = [path for path in os.environ.get("D2CHECK_PYTHONS", "").split(os.pathsep) if path]
    on_path = [shutil.which("python" + version) for version in VERSIONS]
    root = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    known = glob.glob(os.path.join(root, "versions", "*", "bin", "python"))
    found: dict[str, str] = {}
    for path in [*named, *filter(None, on_path), *sorted(known)]:
        try:
            asked = subprocess.run(
                [path, "-S", "-c", ASK],
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
        except OSError:
            continue
        if asked.returncode == 0:  # pyenv's shims answer for versions that are not chosen
            found.setdefault(asked.stdout.strip(), path)
    return found


@pytest.fixture(params=VERSIONS)
def python(request: pytest.FixtureRequest) -> str:
    """An interpreter of each version."""
    path = interpreters().get(request.param)
    if path is None:
        pytest.skip(
            f"no Python {request.param} on PATH or among pyenv's; name one in D2CHECK_PYTHONS"
        )
    return path


def run(python, *words, **options):
    """What an interpreter without its site-packages does; warnings are errors."""
    command = [python, "-S", "-W", "error", *map(str, words)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=LIMIT_S, check=False, **options
    )
    assert "SyntaxWarning" not in done.stderr
    return done


COMPILE = """
import sys
for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as file:
        compile(file.read(), path, "exec")
print(len(sys.argv) - 1)
"""


def test_every_file_of_the_probe_compiles(python):
    done = run(python, "-c", COMPILE, *SOURCES)
    assert (done.stderr, done.stdout.split()) == ("", [str(len(SOURCES))])


# Whatever is asked of it is there: only what the probe's own modules do at their import can fail.
IMPORT = """
import importlib, runpy, sys
from unittest.mock import MagicMock

class StandIn(MagicMock):
    __path__ = []

for name in ("torch", "numpy", "PIL", "omegaconf", "detectron2"):
    sys.modules[name] = StandIn()
for name in ("detectron2.engine", "detectron2.utils", "torch.nn", "torch.utils"):
    sys.modules[name] = StandIn()
sys.modules["detectron2.engine"].HookBase = object
runpy.run_path(sys.argv[1], run_name="d2check")["load_package"]()
for name in sys.argv[2:]:
    importlib.import_module("d2check_probe." + name)
    print(name)
"""


def test_every_module_of_the_probe_can_be_imported(python):
    apart = ("__init__", "main", "sitecustomize")
    inner = [path.relative_to(FOLDER).with_suffix("") for path in SOURCES if path.stem not in apart]
    names = [".".join(path.parts) for path in inner]
    done = run(python, "-c", IMPORT, FOLDER / "main.py", *names)
    assert (done.stderr, done.stdout.split()) == ("", names)


# All that needs no torch, told in one JSON text.
USE = """
import json, os, runpy, sys, tempfile
runpy.run_path(sys.argv[1], run_name="d2check")["load_package"]()
from d2check_probe import failure, host, imports, plan, recorder, redact, spikes
from d2check_probe import stopping, wire

folder = tempfile.mkdtemp()
records = recorder.Recorder(folder)
records.note("early", "before the rank is known")
records.open(1)
records.write({"t": "iter", "i": 0, "scalars": {"loss": float("nan"), "time": float("inf")}})
watch = spikes.SpikeWatch(records)
for i in range(25):
    watch.look(i, 100.0 if i == 24 else 1.0, lambda: ["images/dog.png"])
try:
    {}["gt"]
except KeyError as error:
    told = failure.describe(error)
told["traceback"] = [line[2] for line in told.get("traceback", [])]
records.write({"t": "facts", "facts": {"told": told}})
open(os.path.join(folder, "stop"), "w").close()
rule = stopping.StopRule(os.path.join(folder, "stop"), None, None)
reason = rule.reason(0)
records.end("stopped", reason=reason)
with open(os.path.join(folder, wire.records_name(1))) as file:
    read = [wire.decode(line) for line in file]
seen = []
after = imports.AfterImport()
after.install()
after.add("colorsys", lambda module: seen.append(module.__name__))
import colorsys
json.dump(
    {
        "records": [{k: v for k, v in record.items() if k != "clock"} for record in read],
        "seen": seen,
        "phases": plan.Plan({"folder": folder, "phases": [{"name": "ramp"}]}).has_phase("ramp"),
        "hidden": redact.redact("hunter2", "WANDB_API_KEY"),
        "memory": [type(value).__name__ for value in host.HostMemoryLeft().look() or ()],
    },
    sys.stdout,
    sort_keys=True,
)
"""


def test_what_needs_no_torch_does_there_what_it_does_here(python):
    there = run(python, "-c", USE, FOLDER / "main.py")
    assert there.stderr == ""
    here = run(sys.executable, "-c", USE, FOLDER / "main.py")
    told = json.loads(there.stdout)
    assert told == json.loads(here.stdout)
    assert [record["t"] for record in told["records"]] == ["note", "iter", "note", "facts", "end"]
    assert told["records"][1]["scalars"] == {"loss": "NaN", "time": "Infinity"}


def test_an_interpreter_without_detectron2_is_told_as_such(python, tmp_path):
    folder = tmp_path / "run"
    write_plan(folder, tmp_path / "config.yaml", setup=[])
    done = run(python, FOLDER / "main.py", cwd=tmp_path, env=child_environment(folder))
    assert done.returncode == 1
    (end,) = [record for record in read_records(folder) if record["t"] == "end"]
    assert (end["kind"], end["error"], end["stage"]) == ("crashed", "ModuleNotFoundError", "setup")
    assert "detectron2" in end["message"]


def test_a_script_is_joined_beside_the_users_own_sitecustomize(python, tmp_path):
    folder, site = tmp_path / "run", tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("print('THE USERS OWN')\n")
    (tmp_path / "train.py").write_text("print('TRAINS')\nraise OSError('no annotation file')\n")
    write_plan(folder, tmp_path / "config.yaml", kind="command")
    path = os.pathsep.join(map(str, [SITE, site]))
    done = subprocess.run(
        [python, "-W", "error", "train.py"],
        cwd=tmp_path,
        env=child_environment(folder, PYTHONPATH=path),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.stdout.split("\n")[:2] == ["THE USERS OWN", "TRAINS"], done.stderr
    (end,) = [record for record in read_records(folder) if record["t"] == "end"]
    assert (end["kind"], end["error"], end["message"]) == (
        "crashed",
        "OSError",
        "no annotation file",
    )
