import json

import pytest
from click.testing import CliRunner

from d2check.cli import main


@pytest.fixture
def rules(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        return CliRunner().invoke(main, ["rules", *arguments])

    return call


def test_every_rule_is_listed_with_its_title(rules):
    shown = rules("list")
    assert shown.exit_code == 0
    assert "time/data-bound" in shown.output
    assert "The training waits for data" in shown.output


def test_the_list_can_be_narrowed_and_an_empty_one_is_no_success(rules):
    lines = rules("list", "-k", "schedule").output.splitlines()
    assert lines
    assert all(line.startswith("schedule/") for line in lines)
    assert rules("list", "-k", "no-such-rule").exit_code == 5


def test_the_measuring_functions_are_listed_for_authors(rules):
    assert "data_share" in rules("list", "--checks").output


def test_a_rule_is_shown_with_thresholds_and_fixes(rules):
    text = rules("show", "time/data-bound").output
    assert "fails" in text
    assert "above 0.25" in text
    assert "DATALOADER.NUM_WORKERS = " in text
    assert rules("show", "data-bound").output == text


def test_an_unknown_rule_names_the_nearest(rules):
    shown = rules("show", "time/data-bond")
    assert shown.exit_code == 4
    assert "Did you mean time/data-bound?" in shown.output


def test_the_examples_of_a_rule_are_run(rules):
    shown = rules("test", "time/data-bound", "-v")
    assert shown.exit_code == 0
    assert "time/data-bound::starved PASSED" in shown.output
    assert " passed in 1 rule" in shown.output.splitlines()[-1]


def test_a_new_rule_works_as_it_is_written_and_is_never_overwritten(rules, tmp_path):
    assert rules("new", "loss/mask-slow", "--rules", "mine").exit_code == 0
    assert rules("test", "loss/mask-slow", "--rules", "mine").exit_code == 0
    path = tmp_path / "mine/loss/mask-slow.yaml"
    before = path.read_text()
    assert rules("new", "loss/mask-slow", "--rules", "mine").exit_code == 4
    assert path.read_text() == before


def test_a_failing_example_is_exit_1_and_says_what_was_expected(rules, tmp_path):
    rules("new", "loss/mask-slow", "--rules", "mine")
    path = tmp_path / "mine/loss/mask-slow.yaml"
    text = path.read_text()
    path.write_text(text.replace("above: 1.5", "above: 1000.0"))
    shown = rules("test", "loss/mask-slow", "--rules", "mine")
    assert shown.exit_code == 1
    assert "loss/mask-slow::climbs back" in shown.output
    assert "expected" in shown.output


def test_the_schema_is_json(rules):
    assert json.loads(rules("schema").output)["title"]
