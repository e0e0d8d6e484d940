from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import jsonschema
import pytest
import yaml

from d2check.rules.load import shipped_rules
from d2check.rules.schema import rule_schema

from .conftest import RULE

FILES = sorted(shipped_rules().rglob("*.yaml"))


def errors(data):
    return list(jsonschema.Draft7Validator(rule_schema()).iter_errors(data))


def test_the_schema_is_one_of_draft_7():
    jsonschema.Draft7Validator.check_schema(rule_schema())


def test_the_file_in_the_package_is_up_to_date():
    text = resources.files("d2check.rules").joinpath("rule.schema.json").read_text("utf-8")
    assert json.loads(text) == rule_schema(), (
        "d2check rules schema > d2check/rules/rule.schema.json"
    )


@pytest.mark.parametrize("path", FILES, ids=[f"{p.parent.name}/{p.stem}" for p in FILES])
def test_every_shipped_rule_is_valid_to_editors_and_to_any_yaml_reader(path: Path):
    data = yaml.load(path.read_text("utf-8"), Loader=yaml.SafeLoader)
    assert errors(data) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("why:", "wy:"),
        ("severity: medium", "severity: big"),
        ("{above: 10}", "{over: 10}"),
        ("{above: 10}", "{above: 10, below: 3}"),
        ("fail: {above: 10}", ""),
        ("expect: pass", "expect: good"),
        ("id: family/name", "id: Family"),
    ],
)
def test_editors_see_what_the_loader_would_refuse(old, new):
    assert not errors(yaml.safe_load(RULE))
    assert errors(yaml.safe_load(RULE.replace(old, new)))
