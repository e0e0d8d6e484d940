"""Real trainings, looked at as they went: no healthy one is ended, and a flat one is."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from d2check import sources
from d2check.looks import Looks
from d2check.rules.load import load_rules

TRAININGS = sorted((Path(__file__).parent / "runs" / "trainings").glob("*.jsonl.gz"))
RULES = load_rules()
HEALTHY = {"healthy", "workable rate"}


def follow(path: Path, folder: Path):
    """What is true of a training, and the failure that would have ended it."""
    header, *records = gzip.decompress(path.read_bytes()).decode().splitlines()
    known = json.loads(header)
    (folder / "config.yaml").write_text(known["config"])
    looks = Looks(RULES, sources.GrowingRun(folder), cost_s=lambda: 0.0)
    found = (looks.take(json.loads(record)) for record in records)
    return known["truth"], next(filter(None, found), None)


@pytest.mark.parametrize("path", TRAININGS, ids=lambda p: p.name.removesuffix(".jsonl.gz"))
def test_only_a_training_that_fails_is_ended_early(path, tmp_path):
    truth, certain = follow(path, tmp_path)
    if truth in HEALTHY:
        assert certain is None
    elif any(rate in path.name for rate in ("-x0.001-s1.", "-x0.01-s1.")):
        assert certain is not None
        assert certain.rule in ("loss/head-stuck", "loss/not-decreasing")
        assert certain.iterations < 200
