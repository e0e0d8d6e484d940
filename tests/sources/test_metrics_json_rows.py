"""Lines to columns: the fast way and the exact way agree, and every line is accounted for."""

import gzip
import io
import json
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from d2check.sources.metrics_json import rows as rows_module
from d2check.sources.metrics_json.rows import Table, read_table


def table_of(data: bytes, *, fast: bool = True) -> Table:
    return read_table(io.BytesIO(data), fast=fast)


def rows_of(table: Table) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = [{"iteration": int(i)} for i in table.iteration]
    for key, column in table.columns.items():
        for row, value in zip(column.rows.tolist(), column.values.tolist(), strict=True):
            rows[row][key] = value
    return rows


def written(rows: list[dict[str, float]], end: str = "\n") -> bytes:
    return "".join(json.dumps(row, sort_keys=True) + end for row in rows).encode()


def same(one: object, other: object) -> bool:
    """Equal, with NaN equal to NaN."""
    return repr(one) == repr(other)


def both_ways(data: bytes) -> Table:
    """The table, after making sure that both ways of reading give the same one."""
    fast, exact = table_of(data), table_of(data, fast=False)
    assert same([sorted(r.items()) for r in rows_of(fast)],
                [sorted(r.items()) for r in rows_of(exact)])  # fmt: skip
    assert (fast.malformed, fast.malformed_lines) == (exact.malformed, exact.malformed_lines)
    assert (fast.lines, fast.not_numbers) == (exact.lines, exact.not_numbers)
    assert fast.lost_before.tolist() == exact.lost_before.tolist()
    return fast


ROW = {"iteration": 19, "loss": 1.5, "lr": 0.001}


def test_rows_come_back_in_file_order_with_absent_keys_absent():
    rows = [ROW, {"iteration": 29, "bbox/AP": 3.0}, {"iteration": 39, "loss": 1.25, "lr": 0.002}]
    assert rows_of(both_ways(written(rows))) == rows


def test_nan_and_infinities_are_values_and_not_absent():
    rows = [ROW, {"iteration": 39, "loss": math.nan, "lr": math.inf}]
    rows += [{"iteration": 59, "lr": -math.inf}]
    assert same(rows_of(both_ways(written(rows))), rows)


def test_nan_without_a_space_before_it_is_read():
    assert math.isnan(rows_of(both_ways(b'{"iteration":1,"loss":NaN}\n'))[0]["loss"])


def test_a_key_that_contains_nan_keeps_its_name():
    rows = [{"iteration": 1, "a: NaN": 2.0, "x": math.nan}]
    rows += [{"iteration": 2, "a: NaN": 3.0, "x": 4.0}]
    assert same([sorted(r.items()) for r in rows_of(both_ways(written(rows)))],
                [sorted(r.items()) for r in rows])  # fmt: skip


@pytest.mark.parametrize("value", ['"text"', "null", "true", "[1, 2]", '{"a": 1}'])
def test_what_is_no_number_is_counted_and_costs_only_its_key(value):
    data = written([ROW]) + b'{"iteration": 39, "loss": 1.0, "lr": %s}\n' % value.encode()
    table = both_ways(data + written([{"iteration": 59, "loss": 0.5, "lr": 0.1}]))
    assert rows_of(table)[1] == {"iteration": 39, "loss": 1.0}
    assert rows_of(table)[2]["lr"] == 0.1
    assert table.not_numbers == {"lr": 1}
    assert table.malformed_lines == 0


def test_two_rows_on_one_line_are_both_kept_and_nothing_is_lost():
    one, two = json.dumps(ROW), json.dumps({**ROW, "iteration": 39})
    table = both_ways(f"{one}{two}\n{json.dumps({**ROW, 'iteration': 59})}\n".encode())
    assert table.iteration.tolist() == [19, 39, 59]
    assert table.malformed_lines == 0


def test_a_blank_line_does_not_hide_that_a_line_held_two_objects():
    table = both_ways(b'{"iteration": 7}{"iteration": 8.5}\n\n{"iteration": 9}\n')
    assert [(m.line, m.saved_rows) for m in table.malformed] == [(1, 1)]


def test_a_cut_line_that_another_row_follows_loses_only_its_own_half():
    table = both_ways(b'{"iteration": 19, "lo{"iteration": 39, "loss": 2.0}\n' + written([ROW]))
    assert rows_of(table)[0] == {"iteration": 39, "loss": 2.0}
    assert [(m.line, m.saved_rows) for m in table.malformed] == [(1, 1)]


def test_a_last_line_that_is_cut_off_is_counted():
    table = both_ways(written([ROW]) + b'{"iteration": 39, "loss": 1.')
    assert table.iteration.tolist() == [19]
    assert [(m.line, m.saved_rows) for m in table.malformed] == [(2, 0)]


def test_a_whole_last_line_without_its_newline_is_a_row():
    table = both_ways(written([ROW]) + b'{"iteration": 39}')
    assert table.iteration.tolist() == [19, 39]
    assert table.malformed_lines == 0


def test_a_line_of_nul_bytes_is_counted_with_its_number():
    table = both_ways(written([ROW]) + b"\0" * 5000 + b"\n" + written([{**ROW, "iteration": 39}]))
    assert table.iteration.tolist() == [19, 39]
    assert [m.line for m in table.malformed] == [2]


def test_a_row_behind_nul_bytes_is_kept_and_the_line_counted():
    table = both_ways(b"\0" * 300000 + b'{"iteration": 39}\n')
    assert table.iteration.tolist() == [39]
    assert [(m.line, m.saved_rows) for m in table.malformed] == [(1, 1)]


@pytest.mark.parametrize("end", ["\r\n", "\n\n", "  \n", "\n\r\n"])
def test_line_ends_of_other_systems_and_blank_lines_are_no_loss(end):
    table = both_ways(written([ROW, {**ROW, "iteration": 39}], end))
    assert table.iteration.tolist() == [19, 39]
    assert table.malformed_lines == 0


def test_a_byte_order_mark_is_no_loss():
    table = both_ways(b"\xef\xbb\xbf" + written([ROW]))
    assert (len(table), table.malformed_lines) == (1, 0)


@pytest.mark.parametrize(
    "iteration", ["-1", "19.5", "NaN", "1e300", '"19"', "null", "true", "[19]"]
)
def test_a_row_without_a_usable_iteration_is_malformed(iteration):
    table = both_ways(
        written([ROW]) + b'{"iteration": %s, "loss": 1.0, "lr": 1.0}\n' % iteration.encode()
    )
    assert table.iteration.tolist() == [19]
    assert [m.line for m in table.malformed] == [2]


@pytest.mark.parametrize(
    "line", [b"[1, 2]", b"17", b'"text"', b"{}", b"plain text", b"\xff\xfe", b"{" * 9000]
)
def test_a_line_that_is_no_row_is_malformed(line):
    table = both_ways(written([ROW]) + line + b"\n" + written([ROW]))
    assert len(table) == 2
    assert [m.line for m in table.malformed] == [2]


def test_numbers_too_large_for_a_float_become_infinite():
    table = both_ways(b'{"iteration": 1, "a": 1e999, "b": -%s}\n' % (b"9" * 400))
    assert rows_of(table) == [{"iteration": 1, "a": math.inf, "b": -math.inf}]


def test_line_numbers_hold_across_chunks(monkeypatch):
    monkeypatch.setattr(rows_module, "CHUNK_BYTES", 100)
    lines = [json.dumps({**ROW, "iteration": i}) for i in range(50)]
    lines[7] = "broken"
    lines[31] = '{"iteration": 31, "loss": NaN, "new": 2}'
    lines[44] = '{"iteration": "x"}'
    table = both_ways("\n".join(lines).encode())
    assert [m.line for m in table.malformed] == [8, 45]
    assert table.lost_before.tolist() == [7, 43]
    assert len(table) == 48


def test_a_line_longer_than_a_chunk_is_read(monkeypatch):
    monkeypatch.setattr(rows_module, "CHUNK_BYTES", 64)
    row = {"iteration": 1, **{f"bbox/AP-{i}": float(i) for i in range(2000)}}
    assert rows_of(both_ways(written([ROW, row, ROW])))[1] == row


def test_wide_rows_between_narrow_ones_are_all_read():
    """AP for each of a thousand classes comes with every evaluation."""
    wide = {f"bbox/AP-{i}": i / 7 for i in range(1203)}
    rows = [{**ROW, "iteration": i} if i % 20 else {"iteration": i, **wide} for i in range(200)]
    assert rows_of(both_ways(written(rows))) == rows


def test_a_file_that_begins_with_a_wide_row_is_read():
    rows = [{"iteration": 0, **{f"k{i}": 1.0 for i in range(600)}}]
    rows += [{**ROW, "iteration": i} for i in range(1, 400)]
    assert rows_of(both_ways(written(rows))) == rows


def test_gzip_streams_are_read(tmp_path):
    path = tmp_path / "metrics.json.gz"
    path.write_bytes(gzip.compress(written([ROW])))
    with gzip.open(path) as stream:
        assert len(read_table(stream)) == 1


keys = st.text(max_size=12) | st.sampled_from(
    ["loss", "lr", "a/b", "x: NaN", "Infinity", "iteration "]
)
# Between 1e308 and the largest double lie the numbers that stand for NaN and Infinity meanwhile.
numbers = st.floats(allow_nan=True, allow_infinity=True).filter(
    lambda value: not 1e308 < abs(value) < math.inf
) | st.integers(-(2**60), 2**60)
json_rows = st.dictionaries(keys.filter(lambda k: k != "iteration"), numbers, max_size=6)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**52), json_rows), max_size=30), st.booleans())
def test_any_rows_that_json_can_write_read_back_equal(rows, ascii_only):
    rows = [{"iteration": at, **row} for at, row in rows]
    data = "".join(
        json.dumps(row, sort_keys=True, ensure_ascii=ascii_only) + "\n" for row in rows
    ).encode("utf-8", "surrogatepass" if not ascii_only else "strict")
    if any("\ud800" <= c <= "\udfff" for row in rows for key in row for c in key):
        return  # a lone surrogate has no UTF-8
    table = both_ways(data)
    wanted = [{k: int(v) if k == "iteration" else float(v) for k, v in row.items()} for row in rows]
    assert same([sorted(r.items()) for r in rows_of(table)], [sorted(r.items()) for r in wanted])
    assert table.malformed_lines == 0


pieces = st.sampled_from(
    [
        b'{"iteration": 19, "loss": 1.0}', b'{"iteration": 39, "loss": NaN, "lr": -Infinity}',
        b'{"iteration": 4, "lr": "x"}', b'{"iteration"', b"{", b"}", b"\n", b"\n", b"\r\n", b"\0",
        b'"', b"NaN", b"\xef\xbb\xbf", b"\xff", b": Infinity", b" ", b",", b'{"iteration": 1e999}',
        b'{"a": {"iteration": 3}}', b"1.1938475610293847e308",
    ]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300) | st.lists(pieces, max_size=40).map(b"".join))
@example(b'{"iteration":\n1}{"iteration":2}\n')
@example(b'{"a": {"iteration": 3}')
def test_any_bytes_read_without_an_exception_and_every_line_is_accounted_for(data):
    table = table_of(data)
    body = data.removeprefix(b"\xef\xbb\xbf")
    lines = body.removesuffix(b"\n").split(b"\n") if body else []
    blank = sum(not line.strip(b" \t\r") for line in lines)
    with_rows = len(lines) - blank - sum(m.saved_rows == 0 for m in table.malformed)
    assert table.lines == len(lines)
    assert len(table) >= with_rows
    assert np.all(np.diff([m.line for m in table.malformed]) > 0)


@settings(max_examples=300, deadline=None)
@given(st.lists(pieces, max_size=40).map(b"".join))
def test_both_ways_agree_on_broken_files(data):
    both_ways(data)
