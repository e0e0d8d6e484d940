import json
import os

import pytest


def test_the_demo_writes_its_files_and_is_judged(d2check, fake_python, tmp_path):
    ran = d2check("demo", "--python", fake_python, "--iterations", 80)
    assert ran.code == 0, ran.err
    assert (tmp_path / "d2check-demo/config.yaml").is_file()
    plan = json.loads((tmp_path / "d2check-demo/run-1/plan.json").read_text())
    assert plan["entry"]["setup"] == [str(tmp_path / "d2check-demo/demo_setup.py")]


def test_a_second_demo_uses_the_folder_again(d2check, fake_python, tmp_path):
    for _ in range(2):
        assert d2check("demo", "--python", fake_python, "--iterations", 80).code == 0
    assert (tmp_path / "d2check-demo/run-2/report.json").is_file()


def test_a_folder_of_the_users_is_never_written_into(d2check, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "cat.jpg").write_bytes(b"meow")
    ran = d2check("demo", "--output", folder)
    assert ran.code == 4
    assert "not of a demo" in ran.err
    assert os.listdir(folder) == ["cat.jpg"]


def test_an_unknown_sickness_names_the_known(d2check):
    ran = d2check("demo", "--sick", "flu")
    assert ran.code == 4
    assert "loader" in ran.err


@pytest.mark.training
def test_the_healthy_demo_trains_for_real_and_has_nothing_to_complain_about(d2check, tmp_path):
    # Times are left out: other work on the machine must not decide a test.
    ran = d2check("demo", "--device", "cpu", "--seed", "1", "--json", "r.json", "-k", "not time/")
    report = json.loads((tmp_path / "r.json").read_text())
    assert ran.code == 0, ran.out
    assert (report["summary"]["failed"], report["summary"]["warned"]) == (0, 0), ran.out
    skipped = [f["rule"] for f in report["runs"][0]["findings"] if f["verdict"] == "SKIP"]
    assert all(reason_given(report, rule) for rule in skipped)


def reason_given(report, rule):
    return any(f["rule"] == rule and f["reason"] for f in report["runs"][0]["findings"])


@pytest.mark.training
def test_a_rate_far_too_high_fails_and_a_lower_one_is_proposed(d2check, tmp_path):
    ran = d2check("demo", "--sick", "lr", "--device", "cpu", "--json", "r.json")
    findings = json.loads((tmp_path / "r.json").read_text())["runs"][0]["findings"]
    failed = {f["rule"] for f in findings if f["verdict"] == "FAIL"}
    assert ran.code == 1
    assert failed & {"loss/diverges", "loss/non-finite"}
    proposed = [x for f in findings for x in f["fixes"] if x["key"] == "SOLVER.BASE_LR"]
    assert proposed
    assert all(x["proposed"] < x["current"] for x in proposed)
