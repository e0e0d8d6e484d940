"""A training whose loss does not fall is ended, by all of its ranks at the same iteration."""

from __future__ import annotations

import json

import pytest

from d2check.probe import wire

pytestmark = pytest.mark.training

# Nothing moves at such a rate: certain after some hundred of the 300 iterations.
CERTAIN = {
    "loss/not-decreasing was certain (held for 6 looks)",
    "loss/head-stuck was certain (held for 4 looks)",
}
FLAT = ["demo/config.yaml", "SOLVER.BASE_LR", "1e-8", "--setup", "demo/demo_setup.py"]


def test_all_ranks_end_where_the_failure_is_certain(project):
    # Of two that fail, which is certain first is a matter of the looks that time allows.
    asked = "not-decreasing or data-bound or ruined"
    ran = project.check(*FLAT, "--num-gpus", 2, "-k", asked)
    assert ran.code == 1
    assert ran.ending["kind"] == "stopped"
    ends = [ran.records("end", rank)[0] for rank in (0, 1)]
    assert {end["reason"] for end in ends} == {"verdict"}
    assert len({end["i"] for end in ends}) == 1
    assert 90 <= ends[0]["i"] < 299
    (note,) = (r for r in ran.records("note") if r["kind"] == "ended-early")
    ended, _, why = note["message"].partition(": ")
    assert ended == f"at iteration {note['i'] + 1} of 300"
    # How often is looked depends on the machine, and with it which of the two is certain first.
    assert why in CERTAIN
    assert note["i"] <= ends[0]["i"]
    assert ran.finding(why.split()[0])["verdict"] == "FAIL"
    # What the phases before it have measured is there; the ramp would have shown nothing more.
    assert ran.finding("time/data-bound")["verdict"] != "SKIP"
    ramp = ran.finding("loss/ruined-at-peak-lr")
    assert ramp["verdict"] == "SKIP"
    assert ramp["reason"] in (
        f"the run had no phase 'ramp': the run ended early, as {why}",
        # where so many were made before the failure was certain
        "the run had no phase 'ramp': as configured the rate was near its peak for 100 iterations",
    )
    told = json.loads((ran.folder / wire.REPORT).read_text())["runs"][0]["events"]
    assert "ended-early" in {event["kind"] for event in told}
