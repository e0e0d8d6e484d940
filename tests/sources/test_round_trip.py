"""A training written in any format that is supported reads back as it was, in the digits given."""

import contextlib
import gzip
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2check import sources
from d2check.errors import InputError
from d2check.model import Run
from d2check.probe import wire
from d2check.sources.tfevents.wire import masked_crc

NAMES = ("loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "aux_loss_0", "loss_[a]/b")


@dataclass(frozen=True)
class Training:
    """values: losses by name, float64[n] each, no two rows of one alike."""

    iterations: list[int]
    values: dict[str, list[float]]
    lr: list[float]
    began_s: float


@st.composite
def trainings(draw):
    period = draw(st.sampled_from([1, 5, 20, 100]))
    rows = draw(st.integers(2, 25))
    numbers = st.floats(0.001, 5000).map(lambda x: float(f"{x:.4g}"))
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
    columns = {n: draw(st.lists(numbers, min_size=rows, max_size=rows)) for n in names}
    columns["total_loss"] = draw(st.lists(numbers, min_size=rows, max_size=rows, unique=True))
    rates = draw(st.lists(st.floats(1e-6, 0.1).map(lambda x: float(f"{x:.3g}")),
                          min_size=rows, max_size=rows))  # fmt: skip
    iterations = [period * (row + 1) - 1 for row in range(rows)]
    return Training(iterations, columns, rates, draw(st.integers(0, 10**6)))


# ------------------------------------------------------------------------------------ writers


def as_rows(one: Training) -> bytes:
    lines = [
        json.dumps({"iteration": at, "lr": one.lr[k], **{n: v[k] for n, v in one.values.items()}})
        for k, at in enumerate(one.iterations)
    ]
    return ("\n".join(lines) + "\n").encode()


def as_log(one: Training, *, main: bool) -> bytes:
    stamp = "[11/21 10:00:00 d2.{where}]: "
    lines = [stamp.format(where="engine.train_loop") + "Starting training from iteration 0"]
    for k, at in enumerate(one.iterations):
        losses = "  ".join(f"{name}: {values[k]:.4g}" for name, values in one.values.items())
        times = "time: 0.5000  last_time: 0.4000  " if main else "time: 0.5000  "
        waits = "data_time: 0.0100  last_data_time: 0.0100   " if main else "data_time: 0.0100  "
        lines.append(
            f"{stamp.format(where='utils.events')} eta: 0:01:00  iter: {at}  {losses}  "
            f"{'  ' if main else ''}{times}{waits}lr: {one.lr[k]:.5g}  max_mem: 512M"
        )
    return ("\n".join(lines) + "\n").encode()


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def record(data: bytes) -> bytes:
    head = struct.pack("<Q", len(data))
    checks = struct.pack("<I", masked_crc(head)), struct.pack("<I", masked_crc(data))
    return head + checks[0] + data + checks[1]


def as_events(one: Training) -> bytes:
    records = [b"\x09" + struct.pack("<d", one.began_s) + field(3, b"brain.Event:2")]
    for k, at in enumerate(one.iterations):
        values = {"lr": one.lr[k], **{name: v[k] for name, v in one.values.items()}}
        for name, value in values.items():
            scalar = field(1, field(1, name.encode()) + b"\x15" + struct.pack("<f", value))
            head = b"\x09" + struct.pack("<d", one.began_s + at) + b"\x10" + varint(at)
            records.append(head + field(5, scalar))
    return b"".join(map(record, records))


def as_run_folder(one: Training, folder: Path) -> None:
    lines = [{"t": "begin", "schema": 1, "clock": one.began_s, "rank": 0, "world_size": 1}]
    lines += [
        {"t": "iter", "i": at, "clock": one.began_s + at, "total_s": 0.5, "data_s": 0.01,
         "scalars": {"lr": one.lr[k], **{name: v[k] for name, v in one.values.items()}}}
        for k, at in enumerate(one.iterations)
    ]  # fmt: skip
    folder.mkdir()
    (folder / wire.RECORDS).write_text("".join(json.dumps(line) + "\n" for line in lines))


EXACT, PRINTED, SINGLE = (0.0, 0.0), (6e-5, 0.0), (1e-7, 1e-45)
FORMATS = {
    "metrics.json": (as_rows, EXACT),
    "rows.jsonl": (as_rows, EXACT),
    "log.txt": (lambda one: as_log(one, main=False), PRINTED),
    "console.out": (lambda one: as_log(one, main=True), PRINTED),
    "events.out.tfevents.1.host.1.0": (as_events, SINGLE),
}


def assert_told(run: Run, one: Training, digits: tuple[float, float]) -> None:
    for name, values in {"lr": one.lr, **one.values}.items():
        series = run.series[name]
        assert series.iterations.tolist() == one.iterations
        np.testing.assert_allclose(series.values, values, rtol=digits[0], atol=digits[1])


# ------------------------------------------------------------------------------------ the tests


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=25, deadline=None)
@given(one=trainings())
def test_a_training_in_any_format_reads_back_equal(name, packed, one):
    write, digits = FORMATS[name]
    data = write(one)
    with TemporaryDirectory() as root:
        path = Path(root) / (name + ".gz" * packed)
        path.write_bytes(gzip.compress(data, 1) if packed else data)
        (run,) = sources.read(path)
        assert_told(run, one, digits)
        assert (run.rows, run.malformed_lines) == (len(one.iterations), 0)
        (found,) = sources.discover([Path(root)])
        (again,) = sources.read(found)
        assert_told(again, one, digits)


@settings(max_examples=40, deadline=None)
@given(one=trainings())
def test_a_run_folder_reads_back_equal(one):
    with TemporaryDirectory() as root:
        as_run_folder(one, Path(root) / "run")
        (run,) = sources.read(Path(root) / "run")
        assert_told(run, one, EXACT)
        assert run.rows == len(one.iterations)


@pytest.mark.parametrize("name", ["metrics.json", "log.txt"])
@settings(max_examples=30, deadline=None)
@given(several=st.lists(trainings(), min_size=2, max_size=4))
def test_trainings_that_were_appended_read_back_one_by_one(name, several):
    write, digits = FORMATS[name]
    with TemporaryDirectory() as root:
        path = Path(root) / name
        path.write_bytes(b"".join(map(write, several)))
        if name == "metrics.json":
            # Rows do not tell where a training begins that goes on above the one before it.
            periods = {one.iterations[0] for one in several}
            if len(periods) > 1:
                return
        runs = sources.read(path)
        assert len(runs) == len(several)
        for run, one in zip(runs, several, strict=True):
            assert_told(run, one, digits)


@settings(max_examples=40, deadline=None)
@given(one=trainings(), names=st.sets(st.sampled_from(sorted(FORMATS)), min_size=2))
def test_all_sources_of_one_training_become_one_run(one, names):
    names -= {"rows.jsonl"}  # rows under another name are an output of their own
    with TemporaryDirectory() as root:
        for name in names:
            (Path(root) / name).write_bytes(FORMATS[name][0](one))
        if not names:
            return
        (run,) = sources.read(Path(root))
        best = next(n for n in FORMATS if n in names)
        assert_told(run, one, EXACT if best == "metrics.json" else PRINTED)


@pytest.mark.parametrize("name", [n for n in FORMATS if n != "rows.jsonl"])
@settings(max_examples=40, deadline=None)
@given(one=trainings(), share=st.floats(0, 1))
def test_a_packed_file_cut_anywhere_gives_the_rows_before_the_cut(name, one, share):
    packed = gzip.compress(FORMATS[name][0](one), 1)
    with TemporaryDirectory() as root:
        path = Path(root) / (name + ".gz")
        path.write_bytes(packed[: int(share * len(packed))])
        runs = ()
        with contextlib.suppress(InputError):
            runs = sources.read(path)
        for run in runs:
            loss = run.series.get("total_loss")
            at = [] if loss is None else loss.iterations.tolist()
            count = len(at)
            assert at == one.iterations[:count]
            if count < len(one.iterations):
                assert "damaged" in {event.kind for event in run.events}
