from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2check.harness.redact import Redactor, is_secret_name, redactor

PLAIN = Redactor()


@pytest.mark.parametrize(
    "name",
    ["WANDB_API_KEY", "apikey", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "db_password", "PGPASSWD",
     "GOOGLE_APPLICATION_CREDENTIALS", "SSH_PRIVATE_KEY", "TRACKER.API_KEY", "--api-key"],
)  # fmt: skip
def test_name_of_a_secret_is_known(name):
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["TOKENIZERS_PARALLELISM", "SOLVER.BASE_LR", "PATH", "TOKEN.SIZE", "KEYPOINT_ON"]
)
def test_name_of_a_setting_is_left_alone(name):
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("export WANDB_API_KEY=abc123def", "export WANDB_API_KEY=***"),
        ('{"password": "hunter2"}', '{"password": "***"}'),
        ("train.py --api-key s3cr3t --lr 1", "train.py --api-key *** --lr 1"),
        ("clone https://me:pa55@host/x.git", "clone https://me:***@host/x.git"),
        (
            "https://abcdefghijklmnopqrstuvwxyz@host/x",
            "https://***@host/x",
        ),
        ("push with ghp_" + "a1" * 18, "push with ***"),
        ("id AKIAIOSFODNN7EXAMPLE used", "id *** used"),
        ("hf_" + "Ab3" * 11, "***"),
        ("wandb login " + "0a" * 20, "wandb login ***"),
        ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer ***"),
        ("s3://b/k?X-Amz-Signature=deadbeef01&x=1", "s3://b/k?X-Amz-Signature=***&x=1"),
    ],
)
def test_secret_in_text_is_masked(text, expected):
    assert PLAIN.text(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "total_loss: 2.3 loss_cls: 0.7 time: 0.05 lr: 0.001",
        "commit 0123456789abcdef0123456789abcdef01234567",
        "MAX_TOKENS=512 use_token: true",
        "token = tokenize(line)",
        "https://dl.fbaipublicfiles.com/detectron2/model.pkl",
        "Loading weights from /data/my-secret-free/path.pkl",
        "time 12:30:01 user@host",
    ],
)
def test_harmless_text_stays_as_it_is(text):
    assert PLAIN.text(text) == text


def test_word_after_a_secret_option_or_key_is_masked_in_commands():
    command = ["train.py", "--token", "abc", "SOLVER.BASE_LR", "0.1", "X.PASSWORD", "1234"]
    expected = ["train.py", "--token", "***", "SOLVER.BASE_LR", "0.1", "X.PASSWORD", "***"]
    assert PLAIN.command(command) == expected


def test_environment_is_masked_by_name_and_by_shape():
    environment = {"HF_TOKEN": "abc", "PROXY": "http://u:pw@p:80", "CUDA_VISIBLE_DEVICES": "0"}
    assert PLAIN.environment(environment) == {
        "HF_TOKEN": "***", "PROXY": "http://u:***@p:80", "CUDA_VISIBLE_DEVICES": "0",
    }  # fmt: skip


def test_known_values_are_masked_wherever_they_appear():
    redact = redactor({"DB_PASSWORD": "correct horse", "USER": "me"}, ["K.SECRET", "abcdefgh1"])
    assert redact.text("correct horse, abcdefgh1, me") == "***, ***, me"


def test_short_value_is_not_masked_everywhere():
    assert redactor({"MY_TOKEN": "the"}).text("the loss") == "the loss"


def test_key_of_several_lines_is_masked_line_by_line():
    key = "-----BEGIN KEY-----\nMIIEpAIBAAKCAQEA\nAAAA\n-----END KEY-----"
    redact = redactor({"DEPLOY_PRIVATE_KEY": key})
    assert redact.text("got MIIEpAIBAAKCAQEA") == "got ***"


def test_nested_data_is_masked_by_key_and_in_lists():
    data = {"entry": {"api_key": "abc", "overrides": ["A.TOKEN", "xyz", "LR", "1"], "n": 3}}
    expected = {"entry": {"api_key": "***", "overrides": ["A.TOKEN", "***", "LR", "1"], "n": 3}}
    assert PLAIN.data(data) == expected


SECRET = st.text("abcdefghijklmnopqrstuvwxyzABCDEF0123456789+/=_-.!$%", min_size=8, max_size=60)


@given(secret=SECRET, before=st.text(max_size=50), after=st.text(max_size=50))
def test_known_secret_never_survives(secret, before, after):
    cleaned = redactor({"X_SECRET": secret}).text(f"{before}{secret}{after}")
    assert secret not in cleaned


@given(st.text())
def test_masking_twice_changes_nothing_more(text):
    once = PLAIN.text(text)
    assert PLAIN.text(once) == once


@pytest.mark.parametrize("unit", ["a", "a.", "--", "key ", "://a", "\t ", "Bearer "])
def test_longest_line_without_a_secret_stays_as_it_is(unit):
    # A pattern that costs the square of the length would make this test stand out by minutes.
    line = unit * (65536 // len(unit))
    assert PLAIN.text(line) == line
