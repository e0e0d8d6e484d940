from __future__ import annotations

import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest

from d2check.errors import InputError, RuleFileError
from d2check.rules.load import load_rules, shipped_rules

from .conftest import CHECKS, RULE


def told(load, **texts):
    with pytest.raises(RuleFileError) as caught:
        load(**texts)
    return [(p.path.rpartition("/")[2], p.line, p.message) for p in caught.value.problems]


def test_a_small_rule_loads(rule):
    assert rule.id == "family/name"
    assert [example.name for example in rule.examples] == ["low", "high"]


def test_all_mistakes_of_all_files_are_told_at_once_with_their_places(load):
    one = RULE.replace("severity: medium", "severity: enormous").replace("why:", "wy:")
    two = RULE.replace("fail: {above: 10}", "fail: {above: 1e-3}").replace("/name", "/other")
    problems = told(load, name=one, other=two)
    assert [(path, line) for path, line, _ in problems] == [
        ("name.yaml", 1),
        ("name.yaml", 4),
        ("name.yaml", 5),
        ("other.yaml", 8),
    ]
    words = " ".join(message for _, _, message in problems)
    assert "has no 'why'" in words
    assert "did you mean 'why'" in words
    assert "low, medium" in words.replace("info, low", "low")
    assert "write 0.001" in words


def test_places_are_line_and_column_of_the_value(load):
    with pytest.raises(RuleFileError) as caught:
        load(name=RULE.replace("above: 10", "above: ten"))
    problem = caught.value.problems[0]
    assert (problem.line, problem.column) == (8, 15)
    assert str(problem).endswith("fail.above is 'ten' (text); expected a number")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("check: level", "check: levl", "did you mean 'level'"),
        ("{series: series", "{serie: series", "did you mean 'series'"),
        ("reads: {series: series.total_loss}\n", "", "needs 'series'"),
        ("series.total_loss}", "total_loss}", "names begin with"),
        ("series.total_loss}", "facts.imges}", "did you mean"),
        ("series.total_loss}", "run.endng}", "did you mean 'ending'"),
        ("series.total_loss}", "config.SOLVER.BASE_LRR}", "no key of Detectron2"),
        ("fail: {above: 10}", "fail: {over: 10}", "did you mean"),
        ("fail: {above: 10}", "fail: {above: 1, below: 0}", "one of above, below, equals"),
        ("fail: {above: 10}", "fail: {all_of: []}", "is empty"),
        ("fail: {above: 10}", "fail: {above: .nan}", "can be compared"),
        ("fail: {above: 10}", "fail: {of: a.b, above: 1}", "expected the name"),
        ("fail: {above: 10}\n", "", "neither 'fail' nor 'warn'"),
        ("fail: {above: 10}", "fail: {above: 10}\npass: {below: 1}", "needs 'undecided'"),
        ("fail: {above: 10}", "fail: {above: 10}\nwarn: {above: 5}", "'expect: warn'"),
        ("expect: pass", "expect: fail", "'expect: pass'"),
        ("{value:.1f}", "{value.real}", "names begin with"),
        ("{value:.1f}", "{value!r}", "more than a plain format"),
        ("{value:.1f}", "{value[0]}", "a name in the braces"),
        ("{value:.1f}", "{value:{value}}", "more than a plain format"),
        ("{value:.1f}", "{value:.1q}", "formats value"),
        ("{value:.1f}", "{value", "expected '}'"),
        ('"1 x5"', '"1 x"', "no piece of a series"),
        ('"1 x5"', "[]", "is empty"),
        ("name: low", "name: high", "two examples named"),
        ("status: stable", "status: [stable]", "expected stable or trial"),
        ("id: family/name", "id: family/Name", "small letters"),
        ("id: family/name", "id: family/nam", "the file's place says"),
        ("why: Because.", "why: Because.\nexplained_by: [family/gone]", "no such rule"),
        ("why: Because.", "why: Because.\nlinks: [javascript:x]", "expected an address"),
        ("why: Because.", "why: Because.\nneeds: {rows: {lr: 3}}", "reads no series"),
        ("why: Because.", "why: Because.\nwith: {offst: 1}", "did you mean 'offset'"),
        ("why: Because.", "why: Because.\nfixes: [{because: x}]", "either 'set' or 'action'"),
        (
            "why: Because.",
            "why: Because.\nfixes: [{set: {SOLVER.BASE_RL: 1}, because: x}]",
            "no key of Detectron2",
        ),
        (
            "why: Because.",
            "why: Because.\nfixes: [{set: {SOLVER.BASE_LR: value ** 2}, because: x}]",
            "operator Pow",
        ),
        (
            "why: Because.",
            "why: Because.\nfixes: [{set: {SOLVER.BASE_LR: value / 2}, because: x}]",
            "proposes SOLVER.BASE_LR",
        ),
    ],
)
def test_a_mistake_is_told_in_words(load, old, new, said):
    assert old in RULE
    messages = [message for _, _, message in told(load, name=RULE.replace(old, new))]
    assert any(said in message for message in messages), messages


def test_one_id_in_two_folders_is_refused(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder / "family").mkdir(parents=True)
        (tmp_path / folder / "family" / "name.yaml").write_text(RULE)
    with pytest.raises(RuleFileError, match="is taken by"):
        load_rules([tmp_path / "a", tmp_path / "b"], checks=CHECKS)


def test_rules_that_explain_each_other_in_a_circle_are_refused(load):
    texts = {
        name: RULE.replace("/name", f"/{name}") + f"explained_by: [family/{cause}]\n"
        for name, cause in (("a", "b"), ("b", "c"), ("c", "a"))
    }
    problems = told(load, **texts)
    assert len(problems) == 3
    assert "itself explained by" in problems[0][2]


def test_a_users_flat_folder_needs_no_family_folder(tmp_path):
    (tmp_path / "name.yaml").write_text(RULE)
    assert load_rules([tmp_path], checks=CHECKS)[0].id == "family/name"


@pytest.mark.parametrize("content", [b"\xff\xfe\x00binary", b"", b"[]", b"just text"])
def test_what_is_no_rule_file_is_told_with_its_path(tmp_path, content):
    (tmp_path / "name.yaml").write_bytes(content)
    with pytest.raises(RuleFileError, match=r"name\.yaml:1:1: "):
        load_rules([tmp_path], checks=CHECKS)


def test_a_folder_that_is_none_is_told(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_rules([tmp_path / "gone"])
    with pytest.raises(InputError, match="holds no rule file"):
        load_rules([tmp_path])


def test_a_byte_order_mark_and_windows_lines_are_fine(tmp_path):
    (tmp_path / "name.yaml").write_bytes(b"\xef\xbb\xbf" + RULE.replace("\n", "\r\n").encode())
    assert load_rules([tmp_path], checks=CHECKS)[0].title == "Too high"


def test_the_shipped_rules_load():
    rules = load_rules()
    assert "schedule/lr-unscaled" in {rule.id for rule in rules}
    assert all(rule.path.startswith(str(shipped_rules())) for rule in rules)


def test_examples_of_the_shipped_rules_can_be_left_out_and_of_no_others(tmp_path):
    (tmp_path / "family").mkdir()
    own = tmp_path / "family" / "name.yaml"
    own.write_text(RULE.partition("examples:")[0].replace("check: level", "check: is_finite_word"))
    with pytest.raises(RuleFileError) as caught:
        load_rules([shipped_rules(), tmp_path], shipped_examples=False)
    told = [problem.message for problem in caught.value.problems]
    assert any("has no 'examples'" in message for message in told)
    assert any("no check has that name" in message for message in told)


def test_leaving_out_examples_changes_nothing_else_in_a_shipped_rule():
    def words(rule):
        return repr(replace(rule, examples=()))

    assert all(rule.examples for rule in load_rules())
    without = load_rules(shipped_examples=False)
    assert not any(rule.examples for rule in without)
    assert [words(rule) for rule in without] == [words(rule) for rule in load_rules()]


def test_a_rule_may_read_one_of_several_sources_and_lists(load):
    text = textwrap.dedent(RULE).replace("series.total_loss}", "series.other or series.total_loss}")
    assert load(name=text)[0].reads[0].full_name == "series.other or series.total_loss"


def test_the_shipped_rules_load_without_libyaml():
    code = (
        "import sys; sys.modules['yaml._yaml'] = None\n"
        "from d2check.rules.load import load_rules\n"
        "from d2check.rules import yaml_text\n"
        "assert not hasattr(yaml_text, '_CParser')\n"
        "print(*[rule.id for rule in load_rules()])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == [rule.id for rule in load_rules()]
