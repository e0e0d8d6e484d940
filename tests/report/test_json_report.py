import json
from pathlib import Path

import jsonschema
import pytest
import report_samples

import d2check.report
from d2check.report import json_report

SCHEMA = json.loads(
    (Path(d2check.report.__file__).parent / "report.schema.json").read_text(encoding="utf-8")
)


def data(report):
    return json.loads(json_report.render(report))


@pytest.mark.parametrize("name", ["healthy", "sick", "crashed", "many", "hostile"])
def test_every_report_fits_the_published_schema(name):
    report = data(getattr(report_samples, name)())
    jsonschema.Draft202012Validator(SCHEMA).validate(report)


def test_the_schema_names_every_key_so_that_none_is_undocumented():
    def undocumented(value, schema, at):
        if "$ref" in schema:
            schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
        for choice in schema.get("oneOf", []):
            if isinstance(value, dict) and "properties" in choice:
                schema = choice
        if isinstance(value, dict) and "properties" in schema:
            for key, item in value.items():
                if key not in schema["properties"]:
                    yield f"{at}.{key}"
                else:
                    yield from undocumented(item, schema["properties"][key], f"{at}.{key}")
        elif isinstance(value, list):
            for item in value:
                yield from undocumented(item, schema.get("items", {}), at)

    assert list(undocumented(data(report_samples.sick()), SCHEMA, "")) == []


def test_numbers_that_json_does_not_know_become_null():
    item = report_samples.finding("loss/non-finite", "FAIL", "NaN", value=float("nan"))
    report = report_samples.report(report_samples.RunReport(report_samples.run(), (item,)))
    assert data(report)["runs"][0]["findings"][0]["value"] is None


def test_a_fix_of_several_settings_keeps_them_together():
    (fix,) = data(report_samples.sick())["runs"][0]["findings"][0]["fixes"]
    assert fix["command_line"] == "SOLVER.BASE_LR 0.0025 SOLVER.WARMUP_ITERS 8000"
    assert (fix["key"], fix["current"], fix["proposed"]) == ("SOLVER.BASE_LR", 0.02, 0.0025)
    assert [o["key"] for o in fix["overrides"]] == ["SOLVER.BASE_LR", "SOLVER.WARMUP_ITERS"]


def test_an_action_has_no_key():
    fixes = data(report_samples.sick())["runs"][0]["findings"][2]["fixes"]
    assert fixes[1]["key"] is None
    assert fixes[1]["action"].startswith("Store the images")


def test_what_is_the_same_for_every_run_stands_once():
    report = data(report_samples.many())
    assert len(report["runs"]) == 19
    assert report["rules"]["schedule/lr-unscaled"]["links"] == ["https://arxiv.org/abs/1706.02677"]
    assert "why" not in report["runs"][0]["findings"][0]
