"""A config for more GPUs than there are: one GPU's share of its batch is trained."""

from __future__ import annotations

import json

import pytest
import yaml

pytestmark = pytest.mark.training

CONFIG = ["demo/config.yaml", "--setup", "demo/demo_setup.py", "--iterations", 12]


def test_the_share_is_trained_and_only_what_holds_for_the_whole_is_judged(project):
    ran = project.check(*CONFIG, "--as-configured-for", 2)
    assert ran.code == 0, ran.out + ran.err
    assert {record["batch"]["images"] for record in ran.records("iter")} == {2}
    # The rate is the config's own, and so is what is kept of the config.
    config = yaml.safe_load((ran.folder / "config.yaml").read_text())
    assert config["SOLVER"]["IMS_PER_BATCH"] == 4
    assert ran.finding("schedule/lr-not-as-configured")["verdict"] == "PASS"
    assert ran.finding("schedule/lr-unscaled")["value"] == pytest.approx(1.0)
    for rule in ("loss/not-decreasing", "loss/diverges", "loss/starts-too-high"):
        finding = ran.finding(rule)
        assert finding["verdict"] == "SKIP"
        assert "only the share of 1 of 2 GPUs was trained" in finding["reason"]
    run = json.loads((ran.folder / "report.json").read_text())["runs"][0]
    assert run["facts"]["images_per_batch"] == 4
    assert run["facts"]["epochs_observed"] == pytest.approx(12 * 2 / 50)
    assert run["facts"]["epochs_planned"] == pytest.approx(300 * 4 / 50)


def test_a_batch_that_no_such_number_of_gpus_could_share_is_refused(project):
    ran = project.check(*CONFIG, "--as-configured-for", 3)
    assert ran.code == 1
    assert "4 images does not divide by 3 GPUs" in ran.ending["message"]
