from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from d2check.errors import RuleFileError
from d2check.model import Verdict
from d2check.rules.judge import judge
from d2check.rules.load import find_project, load_project

from .conftest import run_with


@pytest.fixture
def project(tmp_path: Path, rule):
    def load(text: str, name: str = "d2check.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return load_project(path, [rule])

    return load


def test_a_threshold_is_replaced_and_shown(project, rule):
    changed = project("rules:\n  family/name:\n    fail: {above: 30}\n    because: noisy data\n")
    assert judge(changed.apply([rule]), run_with(20))[0].verdict is Verdict.PASS
    assert judge(changed.apply([rule]), run_with(31))[0].verdict is Verdict.FAIL
    assert changed.notes()[0].endswith("family/name fails when value above 30 (noisy data)")


def test_an_ignored_rule_is_judged_all_the_same_and_carries_the_reason(project, rule):
    changed = project("rules: {family/name: {ignore: known since May}}")
    finding = judge(changed.apply([rule]), run_with(20))[0]
    assert finding.verdict is Verdict.FAIL
    assert finding.ignored == "known since May"
    assert not finding.gates(strict=True)
    assert changed.notes()[0].endswith("family/name is ignored: known since May")


def test_a_parameter_is_replaced(project, rule):
    changed = project("rules: {family/name: {with: {offset: 100}}}")
    assert judge(changed.apply([rule]), run_with(1))[0].verdict is Verdict.FAIL


def test_other_rules_stay_as_they_are(project, rule):
    other = replace(rule, id="family/other")
    changed = project("rules: {family/name: {ignore: why not}}")
    assert changed.apply([rule, other])[1] == other


def test_pyproject_holds_the_same(project, rule):
    text = '[project]\nname = "x"\n[tool.d2check.rules."family/name"]\nignore = "known"\n'
    changed = project(text, "pyproject.toml")
    assert changed.apply([rule])[0].ignored == "known"


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("rules:\n  family/nme: {ignore: x}", 2, "did you mean 'family/name'"),
        ("rules:\n  family/name: {ignore: true}", 2, "the reason, in words"),
        ("rules:\n  family/name: {ignore: x, fail: {above: 1}}", 2, "choose one"),
        ("rules:\n  family/name: {because: x}", 2, "changes nothing"),
        ("rules:\n  family/name: {fail: {above: x}}", 2, "expected a number"),
        ("rules:\n  family/name:\n    with: {ofset: 1}", 3, "did you mean 'offset'"),
        ("rules:\n  family/name:\n    with: {series: 1}", 3, "no parameter"),
        ("rule: {}", 1, "did you mean 'rules'"),
        ("[1, 2]", 1, "expected a mapping"),
        ("rules: }", 1, "not YAML"),
    ],
)
def test_mistakes_are_told_as_in_rule_files(project, text, line, said):
    with pytest.raises(RuleFileError, match="the project file") as caught:
        project(text)
    assert any(said in p.message and p.line == line for p in caught.value.problems)


def test_mistakes_in_toml_have_a_place(project):
    text = '[tool.other]\nx = 1\n\n[tool.d2check.rules."family/name"]\nfial = {above = 1}\n'
    with pytest.raises(RuleFileError) as caught:
        project(text, "pyproject.toml")
    assert caught.value.problems[0].line == 5
    with pytest.raises(RuleFileError, match="is not TOML"):
        project("[tool.d2check\n", "pyproject.toml")


def test_the_nearest_project_file_above_is_found(tmp_path):
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text("[tool.d2check]\n")
    (inner / "pyproject.toml").write_text("[project]\n")
    assert find_project(inner) == tmp_path / "pyproject.toml"
    (tmp_path / "a" / "d2check.yaml").write_text("rules: {}\n")
    assert find_project(inner) == tmp_path / "a" / "d2check.yaml"
