"""The wheel: what is in it, and that it moves no version of the environment it is put into."""

import email
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]

# Versions of a training environment of early 2023 (torch 1.13.1), with black 22.3's click.
OLD_ENVIRONMENT = {
    "click": "8.0.4",
    "numpy": "1.23.5",
    "pyyaml": "5.4.1",
    "rich": "12.6.0",
    "junitparser": "2.8.0",
    "msgspec": "0.18.6",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


@pytest.fixture(scope="module")
def requirements(wheel):
    name = next(name for name in wheel.namelist() if name.endswith("METADATA"))
    metadata = email.message_from_bytes(wheel.read(name))
    return [Requirement(line) for line in metadata.get_all("Requires-Dist")]


def test_every_rule_of_the_checkout_is_in_the_wheel(wheel):
    rules = {str(path.relative_to(ROOT / "rules")) for path in (ROOT / "rules").rglob("*.yaml")}

    packed = {
        name.removeprefix("d2check/_rules/")
        for name in wheel.namelist()
        if name.startswith("d2check/_rules/")
    }

    assert rules
    assert packed == rules


def test_every_file_of_the_package_is_in_the_wheel(wheel):
    tracked = subprocess.run(
        ["git", "ls-files", "d2check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if tracked.returncode != 0:
        pytest.skip("not a git checkout")

    present = {name for name in tracked.stdout.splitlines() if (ROOT / name).exists()}

    assert present - set(wheel.namelist()) == set()


def test_wheel_holds_the_package_only(wheel):
    tops = {name.split("/")[0] for name in wheel.namelist()}

    assert {re.sub(r"-.*", "", top) for top in tops} == {"d2check"}


def test_torch_and_detectron2_are_never_required(requirements):
    names = {requirement.name.lower() for requirement in requirements}

    assert names.isdisjoint({"torch", "torchvision", "detectron2", "fvcore", "iopath", "omegaconf"})


def test_core_requirements_are_floors_that_an_old_environment_meets(requirements):
    """Only a floor never asks pip to move a version that is newer; a low one asks for nothing."""
    core = {r.name.lower(): r.specifier for r in requirements if r.marker is None}

    assert set(core) == set(OLD_ENVIRONMENT)
    for name, specifier in core.items():
        assert [part.operator for part in specifier] == [">="], name
        assert specifier.contains(OLD_ENVIRONMENT[name]), name


def test_each_extra_adds_one_package(requirements):
    extras = sorted(r.name for r in requirements if r.marker is not None)

    assert extras == ["nvidia-ml-py", "scipy"]
