"""A training whose loss does not fall is ended, by all of its ranks at the same iteration."""

from __future__ import annotations

import json

import pytest

from d2check.probe import wire

pytestmark = pytest.mark.training

# Nothing moves at such a rate: certain after some hundred of the 300 iterations.
FLAT = ["demo/config.yaml", "SOLVER.BASE_LR", "1e-8", "--setup", "demo/demo_setup.py"]


def test_all_ranks_end_where_the_failure_is_certain(project):
    ran = project.check(*FLAT, "--num-gpus", 2)
    assert ran.code == 1
    assert ran.ending["kind"] == "stopped"
    ends = [ran.records("end", rank)[0] for rank in (0, 1)]
    assert {end["reason"] for end in ends} == {"verdict"}
    assert len({end["i"] for end in ends}) == 1
    assert 90 <= ends[0]["i"] < 299
    why = "loss/not-decreasing was certain (held for 6 looks)"
    (note,) = (r for r in ran.records("note") if r["kind"] == "ended-early")
    assert note["message"] == f"at iteration {note['i'] + 1} of 300: {why}"
    assert note["i"] <= ends[0]["i"]
    assert ran.finding("loss/not-decreasing")["verdict"] == "FAIL"
    # What the phases before it have measured is there; the ramp would have shown nothing more.
    assert ran.finding("time/data-bound")["verdict"] != "SKIP"
    ramp = ran.finding("loss/ruined-at-peak-lr")
    assert (ramp["verdict"], ramp["reason"]) == (
        "SKIP",
        f"the run had no phase 'ramp': the run ended early, as {why}",
    )
    told = json.loads((ran.folder / wire.REPORT).read_text())["runs"][0]["events"]
    assert "ended-early" in {event["kind"] for event in told}
