"""TensorBoard event files, written here byte by byte and, in one test, read by TensorBoard too."""

import gzip
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2check import sources
from d2check.errors import InputError
from d2check.sources.tfevents import read_events, read_events_stream
from d2check.sources.tfevents.wire import Records, masked_crc


def varint(number):
    number &= (1 << 64) - 1
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def event(step, values, wall_s=1.7e9, tensors=()):
    """One event of {tag: value}."""
    parts = [field(1, field(1, t.encode()) + b"\x15" + struct.pack("<f", v))
             for t, v in values.items()]  # fmt: skip
    parts += [field(1, field(1, tag.encode()) + field(8, tensor)) for tag, tensor in tensors]
    head = b"\x09" + struct.pack("<d", wall_s) + b"\x10" + varint(step)
    return head + field(5, b"".join(parts))


def record(data):
    header = struct.pack("<Q", len(data))
    return (header + struct.pack("<I", masked_crc(header)) + data
            + struct.pack("<I", masked_crc(data)))  # fmt: skip


VERSION = b"\x09" + struct.pack("<d", 1.7e9) + field(3, b"brain.Event:2")


def training(last=199, start=19, begin_s=1.7e9):
    return [
        record(event(i, {"total_loss": 2.0 - i / 1000, "lr": 0.02}, begin_s + i))
        for i in range(start, last + 1, 20)
    ]


def read(*pieces):
    return read_events_stream(io.BytesIO(b"".join(pieces)), "events")


def test_crc_is_that_of_the_castagnoli_check_value():
    # 0xe3069283 is the CRC-32C of "123456789" (RFC 3720); the mask is TensorFlow's.
    crc = 0xE3069283
    assert masked_crc(b"123456789") == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def test_a_training_becomes_series_with_a_clock():
    found = read(record(VERSION), *training())
    (one,) = found.segments
    assert one.rows == 10 and one.period == 20 and one.last_training == 199
    assert one.series["total_loss"].statistic == "median"
    assert one.series["lr"].statistic == "raw"
    assert one.clock.values[-1] - one.clock.values[0] == 180
    assert found.damaged is None


@pytest.mark.parametrize(
    ("data_type", "content"),
    [
        (1, field(4, struct.pack("<f", 2.5))),
        (2, field(4, struct.pack("<d", 2.5))),
        (1, b"\x2d" + struct.pack("<f", 2.5)),
        (1, field(5, struct.pack("<f", 2.5))),
    ],
)
def test_scalars_in_tensors_are_read(data_type, content):
    tensor = b"\x08" + varint(data_type) + content
    found = read(record(event(5, {}, tensors=[("loss", tensor)])))
    assert found.segments[0].series["loss"].values.tolist() == [2.5]


def test_a_tensor_of_many_numbers_is_no_scalar():
    tensor = b"\x08\x01" + field(4, struct.pack("<2f", 1, 2))
    assert read(record(event(5, {}, tensors=[("histogram", tensor)]))).segments == ()


def test_a_cut_last_record_costs_only_itself():
    whole = training()
    found = read(*whole[:-1], whole[-1][:-9])
    assert found.segments[0].rows == 9
    assert found.damaged == "its last record is cut"


def test_records_behind_a_broken_one_are_found_by_their_checksum():
    rows = training()
    broken = b"\xff" * 7 + rows[3][7:]
    found = read(record(VERSION), *rows[:3], broken, *rows[4:])
    assert found.segments[0].series["total_loss"].iterations.tolist() == [
        19, 39, 59, 99, 119, 139, 159, 179, 199,
    ]  # fmt: skip
    assert found.malformed_records == 1


def test_a_run_of_nul_bytes_is_stepped_over():
    rows = training()
    found = read(*rows[:5], b"\x00" * 100_000, *rows[5:])
    assert found.segments[0].rows == 10


def test_a_second_training_in_the_same_file_is_split_off():
    found = read(*training(), *training(99, begin_s=1.8e9))
    assert [s.last_training for s in found.segments] == [199, 99]


def test_results_of_evaluations_are_raw():
    found = read(*training(), record(event(99, {"bbox/AP": 30.5}, 1.7e9 + 99.5)))
    assert found.segments[0].series["bbox/AP"].statistic == "raw"


def test_an_empty_file_has_no_trainings_and_is_whole(tmp_path: Path):
    path = tmp_path / "events.out.tfevents.1.host"
    path.write_bytes(record(VERSION))
    assert read_events(path).segments == ()
    path.write_bytes(b"")
    assert read_events(path).damaged is None


def test_another_binary_file_is_refused(tmp_path: Path):
    path = tmp_path / "events.out.tfevents.1.host"
    path.write_bytes(bytes(range(256)) * 40)
    with pytest.raises(InputError, match="no records"):
        read_events(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_events(tmp_path / "absent")


def same(one, other):
    return one.series.keys() == other.series.keys() and all(
        np.array_equal(one.series[name].iterations, other.series[name].iterations)
        and np.array_equal(one.series[name].values, other.series[name].values)
        for name in one.series
    )


def test_a_packed_file_reads_as_the_file_itself(tmp_path: Path):
    data = b"".join([record(VERSION), *training()])
    path = tmp_path / "events.out.tfevents.1.host.gz"
    path.write_bytes(gzip.compress(data))
    packed, plain = read_events(path), read(data)
    assert same(packed.segments[0], plain.segments[0])
    assert (packed.records, packed.damaged) == (plain.records, None)
    (by_name,), (by_folder,) = sources.read(path), sources.read(tmp_path)
    assert same(by_name, by_folder)
    assert by_name.rows == 10


def test_of_a_packed_file_that_is_cut_the_beginning_is_read_and_the_cut_told(tmp_path: Path):
    rng = np.random.default_rng(1)
    rows = [record(event(i, {"total_loss": rng.random()})) for i in range(19, 4000, 20)]
    packed = gzip.compress(b"".join([record(VERSION), *rows]))
    path = tmp_path / "events.out.tfevents.1.host.gz"
    path.write_bytes(packed[: len(packed) // 2])
    (run,) = sources.read(path)
    assert 50 < run.rows < 150
    (told,) = (event for event in run.events if event.kind == "damaged")
    assert "it ends early" in told.message
    assert read_events(path).damaged == told.message


def test_a_packed_file_beside_the_file_itself_is_not_another_training(tmp_path: Path):
    data = b"".join([record(VERSION), *training()])
    (tmp_path / "events.out.tfevents.1.host").write_bytes(data)
    (tmp_path / "events.out.tfevents.1.host.gz").write_bytes(gzip.compress(data))
    assert [run.rows for run in sources.read(tmp_path)] == [10]


def test_packed_bytes_that_are_no_gzip_are_refused(tmp_path: Path):
    path = tmp_path / "events.out.tfevents.1.host.gz"
    path.write_bytes(b"\x1f\x8b" + bytes(100))
    with pytest.raises(InputError, match="packed file is damaged"):
        read_events(path)


def test_events_without_losses_are_no_training_by_themselves(tmp_path: Path):
    path = tmp_path / "events.out.tfevents.1.host"
    path.write_bytes(record(VERSION) + record(event(0, {"rpn/num_pos_anchors": 3.0})))
    for named in (path, tmp_path):
        with pytest.raises(InputError, match=r"no total_loss .* hold rpn/num_pos_anchors"):
            sources.read(named)
    path.write_bytes(record(VERSION))
    with pytest.raises(InputError, match="no losses of a training"):
        sources.read(path)


def test_a_broken_record_is_told_and_counted(tmp_path: Path):
    rows = training()
    path = tmp_path / "events.out.tfevents.1.host"
    path.write_bytes(b"".join([record(VERSION), *rows[:3], b"\xff" * 7 + rows[3][7:], *rows[4:]]))
    (run,) = sources.read(path)
    assert run.malformed_lines == 1
    assert [e.message for e in run.events if e.kind == "damaged"] == [
        f"broken in 1 place, {len(rows[3])} bytes are lost"
    ]


def test_two_rows_of_a_broken_start_are_no_resume(tmp_path: Path):
    """Seen in 0YJ/TomatoMAP: rows 19 and 20, the second one flushed by the exception."""
    path = tmp_path / "events.out.tfevents.1.host"
    rows = [record(event(step, {"total_loss": 4.0})) for step in (19, 20)]
    path.write_bytes(b"".join([record(VERSION), *rows]))
    (run,) = sources.read(path)
    assert [event.kind for event in run.events] == []


@given(st.binary(max_size=400), st.integers(0, 9))
@settings(max_examples=200, deadline=None)
def test_any_bytes_in_between_cost_no_other_record(junk, place):
    rows = training()
    found = read(*rows[:place], junk, *rows[place:])
    at = found.segments[0].series["total_loss"].iterations if found.segments else np.array([])
    # Junk that looks like a header may swallow what follows it; what stands before is safe.
    assert set(range(19, 20 * place, 20)) <= set(at.tolist())


PIECES = st.sampled_from([
    record(VERSION), *training(59), record(event(5, {}, tensors=[("a", b"\x08\x01")])), record(b""),
    record(b"\x09no event"), b"\x00" * 30, struct.pack("<Q", 2**40), b"\x18" + bytes(7),
    b"\xff" * 13,    training(19)[0][:-9], training(19)[0][5:], b"\x1f\x8b\x08" + bytes(9),
])  # fmt: skip
SOUP = st.lists(PIECES | st.binary(max_size=40), max_size=25).map(b"".join)


@given(SOUP)
@settings(max_examples=300, deadline=None)
def test_every_byte_of_any_soup_is_of_a_record_or_counted_as_lost(data):
    records = Records(io.BytesIO(data))
    read_bytes = sum(len(one) + 16 for one in records)
    packed = records.unpacked is not None
    assert packed or records.size_bytes == len(data)
    assert read_bytes + records.lost_bytes == records.size_bytes
    assert (records.lost_bytes > 0) == bool(records.broken or records.truncated)


@given(SOUP, st.floats(0, 1), st.booleans())
@settings(max_examples=200, deadline=None)
def test_any_soup_packed_and_cut_reads_without_an_exception(data, share, is_cut):
    packed = gzip.compress(data, 1)
    cut = int(share * len(packed)) if is_cut else len(packed)
    found = read_events_stream(io.BytesIO(packed[:cut]), "events")
    whole = read_events_stream(io.BytesIO(data), "events")
    if data.startswith(b"\x1f\x8b"):  # taken for a packed file itself
        return
    assert found.records <= whole.records
    if not is_cut:
        assert (found.records, found.damaged) == (whole.records, whole.damaged)
    elif found.records < whole.records and cut:
        assert found.damaged


@given(st.lists(st.tuples(st.integers(0, 10**12), st.floats(width=32, allow_nan=False))))
@settings(max_examples=100, deadline=None)
def test_any_values_read_back_equal(points):
    points = sorted(dict(points).items())
    found = read(*[record(event(step, {"total_loss": value})) for step, value in points])
    series = found.segments[0].series["total_loss"] if found.segments else None
    expected = [] if series is None else list(zip(series.iterations, series.values, strict=True))
    assert expected == points


def test_reads_what_tensorboard_reads(tmp_path: Path):
    """TensorBoard's own reader is the oracle for the whole format."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    tensor_util = pytest.importorskip("tensorboard.util.tensor_util")
    path = tmp_path / "events.out.tfevents.1.host"
    tensor = b"\x08\x01" + field(4, struct.pack("<f", 0.25))
    last = record(event(220, {}, tensors=[("a/b", tensor)]))
    path.write_bytes(b"".join([record(VERSION), *training(), last]))
    expected = {}
    for one in loader.EventFileLoader(str(path)).Load():
        for value in one.summary.value:
            number = float(tensor_util.make_ndarray(value.tensor))
            expected.setdefault(value.tag, []).append((one.step, number))
    found = read_events(path).segments[0].series
    mine = {
        tag: [(int(i), float(v)) for i, v in zip(s.iterations, s.values, strict=True)]
        for tag, s in found.items()
    }
    assert mine == expected
