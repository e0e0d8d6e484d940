"""What the worst-batch phase foretells against counted iterations of a model that trains."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("detectron2")

from tests.conftest import child_environment

pytestmark = pytest.mark.training
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "memory" / "measure.py"


def test_the_worst_batch_needs_what_was_foretold(tmp_path):
    """Tensors alone: of so small a model, the allocator's segments are larger than its features."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", SCRIPT, "learnt", "--images", "2",
         "--iterations", "8", "--count", "2"],
        capture_output=True, text=True, timeout=500, check=False,
        env=child_environment(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    foretold = found["trials"][-1]
    for measured in found["measured"]:
        assert measured["padded_pixels"] == foretold["padded_pixels"]
        assert measured["allocated_mib"] == pytest.approx(foretold["peak_allocated_mib"], rel=0.05)
    assert (
        max(row["allocated_mib"] for row in found["rows"]) < 1.05 * foretold["peak_allocated_mib"]
    )
