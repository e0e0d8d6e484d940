"""Whatever lies in a folder, reading it ends in runs or in one clear error, and changes nothing."""

import gzip
import struct
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import example, given, settings
from hypothesis import strategies as st

from d2check import sources
from d2check.errors import InputError
from d2check.model import Run
from d2check.sources.tfevents.wire import masked_crc


def record(data: bytes) -> bytes:
    head = struct.pack("<Q", len(data))
    return head + struct.pack("<I", masked_crc(head)) + data + struct.pack("<I", masked_crc(data))


FRAGMENTS = st.sampled_from([
    b'{"iteration": 19, "total_loss": 1.5, "lr": 0.01}\n',
    b'{"iteration": 39, "total_loss": NaN, "lr": 0.01}', b'{"iteration": ', b"}{", b"\r\n",
    b"[03/01 09:00:00 d2.utils.events]:  eta: 1:00:00  iter: 19  total_loss: 1.5  time: 0.4  ",
    b"lr: 0.01  max_mem: 900M\n", b"[03/01 09:00:00 d2.engine.train_loop]: ",
    b"Starting training from iteration 0\n", b"Traceback (most recent call last):\n",
    b"Running with full config:\n", b"SOLVER:\n  MAX_ITER: 90\n", b"_BASE_: config.yaml\n",
    b"!!python/object/apply:os.system [\"true\"]\n", b"\x00" * 40, b"\xff\xfe", b"\xef\xbb\xbf",
    record(b"\x09" + struct.pack("<d", 1.7e9) + b"\x1a\x0dbrain.Event:2"), b"\x1f\x8b\x08",
])  # fmt: skip
SOUP = st.lists(FRAGMENTS | st.binary(max_size=24), max_size=25).map(b"".join)
NAMES = (
    "metrics.json", "log.txt", "log.txt.rank1", "config.yaml", "metrics.json.gz", "console.txt",
    "events.out.tfevents.1.host.1", "records.jsonl", "manifest.json", "ending.json",
)  # fmt: skip


def read(path: Path) -> tuple[Run, ...]:
    try:
        return sources.read(path)
    except InputError as error:
        if not error.where.startswith(str(path)):
            raise
        return ()


def contents(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), SOUP, min_size=1, max_size=5), st.booleans())
def test_any_folder_reads_without_another_exception_and_is_left_as_it_was(files, packed):
    with TemporaryDirectory() as name:
        root = Path(name)
        for file, data in files.items():
            whole = gzip.compress(data) if packed and file.endswith(".gz") else data
            (root / file).write_bytes(whole)
        before = contents(root)
        for path in (root, *before):
            for run in read(path):
                assert run.rows >= 0
                assert run.malformed_lines >= 0
        list(sources.discover([root]))
        assert contents(root) == before


@settings(max_examples=150, deadline=None)
@given(SOUP)
@example(b"brain.Event:")
def test_a_sound_row_is_never_lost_in_what_surrounds_it(soup):
    row = b'{"iteration": 123459, "total_loss": 1.25, "lr": 0.5}\n'
    with TemporaryDirectory() as name:
        path = Path(name) / "metrics.json"
        path.write_bytes(b'{"iteration": 9, "total_loss": 2.0}\n' + soup + b"\n" + row)
        runs = read(path)
        assert any(1.25 in run.series["total_loss"].values for run in runs)


CONFIGS = st.sampled_from([
    b"VERSION: 2\n", b"SOLVER: {BASE_LR: 0.01, MAX_ITER: 400}\n", b"SOLVER:\n  STEPS: (1, 2)\n",
    b"_BASE_: config.yaml\n", b"_BASE_: ../other.yaml\n", b"_BASE_: [a, 1]\n", b"MODEL: [\n",
    b"train: {max_iter: 90, init_checkpoint: '${model.x}'}\n", b"optimizer: {lr: ${..lr}}\n",
    b"model:\n  _target_: detectron2.modeling.GeneralizedRCNN\n", b"lr: ${lr}\n",
    b"shape: !!python/object:detectron2.layers.shape_spec.ShapeSpec {channels: 3}\n",
    b"f: !!python/name:os.system ''\n", b"x: !!python/object/apply:os.mkdir [CANARY]\n",
    b"y: !!python/object/new:os.mkdir {args: [CANARY]}\n", b"z: !!python/tuple [1, 2]\n",
    b"a: &id001 [1]\nb: *id001\n", b"<<: {a: 1}\n", b"? [a]\n: b\n", b"on: 1e-3\n", b"---\n", b"\t",
    b"\x00", b"\xff\xfe", b"dataloader: {train: {total_batch_size: 1e9}}\n", b"SOLVER: 3\n",
])  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(CONFIGS | st.binary(max_size=16), max_size=12).map(b"".join))
def test_whatever_the_config_is_its_rows_are_read_and_nothing_in_it_is_done(soup):
    """yacs dumps, LazyConfig dumps with Python in them, and what is neither."""
    rows = b"".join(
        b'{"iteration": %d, "total_loss": 1.5, "lr": 0.01, "time": 0.5}\n' % (20 * row + 19)
        for row in range(20)
    )
    with TemporaryDirectory() as name:
        root = Path(name)
        (root / "metrics.json").write_bytes(rows)
        (root / "config.yaml").write_bytes(soup.replace(b"CANARY", bytes(root / "canary")))
        (run,) = sources.read(root)
        assert (run.rows, run.malformed_lines) == (20, 0)
        assert run.config is not None or run.absent["config"]
        assert sorted(path.name for path in root.iterdir()) == ["config.yaml", "metrics.json"]
