import xml.etree.ElementTree as ET

import pytest
import report_samples
from hypothesis import given, settings
from hypothesis import strategies as st
from junitparser import Error, Failure, JUnitXml, Skipped

from d2check.report import junit


def cases(report):
    xml = JUnitXml.fromstring(junit.render(report).encode())
    return {case.name: case for suite in xml for case in suite}


def kinds(case):
    return [type(result) for result in case.result]


def test_verdicts_map_as_a_ci_server_expects():
    found = cases(report_samples.sick())
    assert kinds(found["time/data-bound"]) == [Failure]
    assert kinds(found["memory/growth"]) == [Error]
    assert kinds(found["memory/headroom"]) == [Skipped]
    assert kinds(found["ending/crashed"]) == []
    assert kinds(found["schedule/never-decays"]) == []
    assert "WARN" in found["schedule/never-decays"].system_out


def test_a_failure_says_what_was_seen_and_how_to_mend_it():
    (failure,) = cases(report_samples.sick())["time/data-bound"].result
    assert failure.message == "61 % of the time waits for data"
    assert "fix: DATALOADER.NUM_WORKERS 6" in failure.text


def test_a_skip_says_why():
    (skip,) = cases(report_samples.sick())["memory/headroom"].result
    assert skip.message == "could not be judged: no GPU was used"


def test_a_trial_rule_never_fails_a_job_unless_strict():
    assert kinds(cases(report_samples.sick())["loss/spikes"]) == []
    judged = report_samples.RunReport(report_samples.run(), report_samples.sick_findings())
    strict = report_samples.report(judged, strict=True)
    assert kinds(cases(strict)["loss/spikes"]) == [Failure]
    assert kinds(cases(strict)["schedule/never-decays"]) == [Failure]


def test_an_ignored_rule_is_skipped_with_the_users_reason():
    (skip,) = cases(report_samples.sick())["loss/plateau"].result
    assert skip.message == "ignored: a frozen backbone, as meant"


def test_one_suite_a_run_and_one_for_what_could_not_be_read():
    xml = JUnitXml.fromstring(junit.render(report_samples.many()).encode())
    names = [suite.name for suite in xml]
    assert len(names) == 20
    assert "out/sick-0 (training 2)" in names
    assert names[-1] == "could not be read"
    assert xml.errors == 12 + 1
    assert xml.failures == 12 * 2 + 1


@pytest.mark.parametrize("name", ["hostile", "crashed"])
def test_whatever_users_write_the_file_can_be_read_again(name):
    ET.fromstring(junit.render(getattr(report_samples, name)()))


@given(st.text(max_size=60))
@settings(max_examples=80, deadline=None)
def test_any_message_gives_well_formed_xml(message):
    item = report_samples.finding("loss/diverges", "FAIL", message, reason=message)
    judged = report_samples.RunReport(report_samples.run(message or "x"), (item,))
    ET.fromstring(junit.render(report_samples.report(judged)).encode())
