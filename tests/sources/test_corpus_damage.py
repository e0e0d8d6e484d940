"""Real outputs, damaged as machines damage them: what comes back is what was lost."""

import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from d2check import sources
from d2check.model import Run

CORPUS = Path(os.environ.get("D2CHECK_CORPUS") or "/nonexistent")
# Outputs of one training, with an event file that holds all of it.
FOLDERS = (
    "Aaryan004-Pothole-Detection-Model-RCNNs--output",
    "Programmer-RD-AI-Find-Card--V2-output",
    "Programmer-RD-AI-Find-Card--V2-output-v5",
    "Programmer-RD-AI-Find-Card--V2-output-v6",
    "Vijayraven95-Vehicle-damage-detection--output",
)
needs_corpus = pytest.mark.skipif(
    not CORPUS.is_dir(),
    reason="needs the real outputs, which are not part of the project: set D2CHECK_CORPUS to them",
)


def damaged(lines: list[bytes], how: str, rng: random.Random) -> list[bytes]:
    count = rng.randint(1, min(20, len(lines) // 3))
    at = rng.randrange(len(lines) - count)
    if how == "tail":
        return lines[: len(lines) - max(count, 3)]
    left = {"nul": [b"\0" * 300], "cut": [lines[at][:30]], "gone": []}[how]
    return lines[:at] + left + lines[at + count :]


def only(path: Path) -> Run:
    (run,) = sources.read(path)
    return run


@needs_corpus
@pytest.mark.parametrize("how", ["nul", "cut", "gone", "tail"])
@pytest.mark.parametrize("name", FOLDERS)
def test_rows_that_are_lost_come_back_from_the_event_file(tmp_path, name, how):
    folder = tmp_path / "output"
    shutil.copytree(CORPUS / name, folder, copy_function=shutil.copyfile)
    whole = only(folder)
    metrics = folder / "metrics.json"
    lines = metrics.read_bytes().splitlines(keepends=True)
    metrics.write_bytes(b"".join(damaged(lines, how, random.Random(f"{name}{how}"))))
    run = only(folder)
    assert any(event.kind == "filled" for event in run.events)
    for key in json.loads(lines[len(lines) // 2]):
        before, after = whole.series.get(key), run.series.get(key)
        if before is None or after is None or "loss" not in key:
            continue
        assert after.iterations.tolist() == before.iterations.tolist()
        np.testing.assert_allclose(after.values, before.values, rtol=1e-5, atol=1e-30)
        assert (after.statistic, after.window) == (before.statistic, before.window)
