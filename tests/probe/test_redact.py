"""Secrets go, everything else stays as it was."""

from __future__ import annotations

import pytest

from d2check.probe.redact import HIDDEN, redact, redact_text


@pytest.mark.parametrize(
    "key", ["API_KEY", "apikey", "WANDB_TOKEN", "password", "CLIENT_SECRET", "AWS_CREDENTIALS"]
)
def test_values_of_telling_keys_are_hidden(key):
    assert redact({"A": {key: "hunter2"}}) == {"A": {key: HIDDEN}}


def test_everything_else_stays():
    config = {"SOLVER": {"STEPS": (1, 2), "BASE_LR": 0.1}, "TOKENIZER": "bert", "PASSWORD": ""}
    assert redact(config) == config


def test_logins_in_urls_are_hidden_wherever_they_are():
    assert redact(["s3://key:pw@bucket/x"]) == ["s3://***@bucket/x"]


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ('rf = Roboflow(api_key="pSQh1234")', 'rf = Roboflow(api_key="***")'),
        ("os.environ['WANDB_API_KEY'] = 'abcdef'", "os.environ['WANDB_API_KEY'] = '***'"),
        ("tokenizer = load('bert')", "tokenizer = load('bert')"),
        ("key = os.getenv('API_KEY')", "key = os.getenv('API_KEY')"),
    ],
)
def test_a_secret_in_a_line_of_source_is_hidden(line, kept):
    assert redact_text(line) == kept
