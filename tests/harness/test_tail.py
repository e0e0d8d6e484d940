from __future__ import annotations

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from d2check.harness import tail
from d2check.harness.tail import RecordTail


def test_no_file_yet_is_no_record(tmp_path):
    assert RecordTail(tmp_path / "records.jsonl").poll() == []


def test_partial_line_waits_for_its_rest(tmp_path):
    path = tmp_path / "r"
    reader = RecordTail(path)
    path.write_bytes(b'{"t": "iter", ')
    assert reader.poll() == []
    with path.open("ab") as file:
        file.write(b'"i": 1}\n{"t"')
    assert reader.poll() == [{"t": "iter", "i": 1}]
    assert reader.poll() == []


def test_lines_that_hold_no_record_are_left_out(tmp_path):
    path = tmp_path / "r"
    path.write_bytes(b'\xff\xfe\n\0\0\n[1]\n{"i": 2}\n' + b"[" * 100_000 + b'\n{"t": "end"}\n')
    assert RecordTail(path).poll() == [{"t": "end"}]


def test_endless_line_is_dropped_and_the_next_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(tail, "LONGEST_RECORD_BYTES", 100)
    monkeypatch.setattr(tail, "READ_BYTES", 64)
    path = tmp_path / "r"
    path.write_bytes(b"x" * 1000 + b'\n{"t": "end"}\n')
    assert RecordTail(path).poll() == [{"t": "end"}]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(cuts=st.lists(st.integers(0, 400), max_size=12), count=st.integers(0, 12))
def test_records_are_the_same_however_the_file_grows(tmp_path, cuts, count):
    records = [{"t": "iter", "i": i, "text": "é" * i} for i in range(count)]
    data = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records).encode()
    path = tmp_path / "r"
    path.write_bytes(b"")
    reader, read = RecordTail(path), []
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)], strict=True):
        with path.open("ab") as file:
            file.write(data[start:end])
        read += reader.poll()
    assert read == records
