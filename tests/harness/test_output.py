from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from d2check.harness import output
from d2check.harness.output import OutputCopy
from d2check.harness.redact import Redactor, redactor


def copied(path, chunks, redact=None):
    """The copy of a stream that came in these chunks."""
    read, write = os.pipe()
    copy = OutputCopy(os.fdopen(read, "rb"), path, redact or Redactor())
    copy.start()
    for chunk in chunks:
        while chunk:
            chunk = chunk[os.write(write, chunk) :]
    os.close(write)
    copy.join(30)
    assert not copy.is_alive()
    return copy


def test_progress_bars_are_lines_of_their_own_and_kept_as_printed(tmp_path):
    copy = copied(tmp_path / "o", [b"\r 10%", b"\r 20%\r\n", b"done"])
    assert (tmp_path / "o").read_bytes() == b"\r 10%\r 20%\r\ndone"
    assert list(copy.tail) == [" 10%", " 20%", "done"]


def test_words_of_the_probe_on_a_stopped_recording_are_kept(tmp_path):
    copy = copied(tmp_path / "o", [b"x\nd2check: recording stopped: disk is full\ny\n"])
    assert copy.recording_failed == "disk is full"


def test_file_that_cannot_be_made_is_told_and_the_stream_drained(tmp_path):
    copy = copied(tmp_path / "no" / "o", [b"line\n"] * 50_000)
    assert copy.failed == f"o: {os.strerror(2)}"
    assert len(copy.tail) == output.KEPT_LINES


def test_only_the_last_lines_stay_in_memory(tmp_path):
    copy = copied(tmp_path / "o", [b"%d\n" % n for n in range(3000)])
    assert copy.tail[-1] == "2999"
    assert len(copy.tail) == output.KEPT_LINES
    assert len(copy.take()) == 1000
    assert copy.take() == []
    assert (tmp_path / "o").read_text().count("\n") == 3000


SECRET = "s3cr3t-value-of-the-user"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    before=st.text("ab \n\r=:", max_size=40),
    after=st.text("ab \n\r=:", max_size=40),
    cuts=st.lists(st.integers(0, 120), max_size=6),
)
def test_secret_is_masked_however_the_output_is_cut(tmp_path, before, after, cuts):
    data = f"{before}{SECRET}{after}".encode()
    chunks = [
        data[a:b] for a, b in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)], strict=True)
    ]
    copied(tmp_path / "o", chunks, redactor({"MY_TOKEN": SECRET}))
    text = (tmp_path / "o").read_bytes().decode()
    assert SECRET not in text
    assert text == f"{before}***{after}"


@pytest.mark.parametrize("offset", range(-30, 31, 6))
def test_secret_across_the_cut_of_an_endless_line_is_masked(tmp_path, monkeypatch, offset):
    monkeypatch.setattr(output, "LONGEST_LINE_CHARS", 1000)
    line = "word " * 200
    data = f"{line[: 1000 + offset]}{SECRET} {line}".encode()
    copied(tmp_path / "o", [data], redactor({"MY_TOKEN": SECRET}))
    assert SECRET not in (tmp_path / "o").read_text()
