"""How fast metrics.json is read, beside other readers of JSON lines that Python can call.

    python benchmarks/reading.py [--rows 50000] [--folders 10000] [--repeats 5]

Every reader gets the same bytes from the same file and must end with one float64 array per key.
The readers take turns, so that a slow moment of the machine meets them all; the best CPU time of
each counts, all threads together (polars is held to one). Three files: sound, 1 % of the rows with
NaN, and broken (cut, doubled, NUL-filled and blank lines). `error` means that the whole file is
lost. orjson and polars are compared where they are installed.

Then folders of 100 rows, each found, read and compared with its config, in one process.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

os.environ["POLARS_MAX_THREADS"] = "1"  # read when polars is first imported

import msgspec
import numpy as np

from d2check import sources
from d2check.sources.metrics_json.rows import read_table

KEYS = (
    "data_time", "eta_seconds", "fast_rcnn/cls_accuracy", "fast_rcnn/false_negative",
    "fast_rcnn/fg_cls_accuracy", "loss_box_reg", "loss_cls", "loss_mask", "loss_rpn_cls",
    "loss_rpn_loc", "lr", "mask_rcnn/accuracy", "mask_rcnn/false_negative",
    "mask_rcnn/false_positive", "rank_data_time", "roi_head/num_bg_samples",
    "roi_head/num_fg_samples", "rpn/num_neg_anchors", "rpn/num_pos_anchors", "time", "total_loss",
    "stage1/roi_head/num_bg_samples", "stage1/roi_head/num_fg_samples",
    "stage2/roi_head/num_bg_samples", "stage2/roi_head/num_fg_samples",
)  # fmt: skip
EVALUATION = ("AP", "AP50", "AP75", "APs", "APm", "APl")
CONFIG = "VERSION: 2\nSOLVER: {BASE_LR: 0.02, MAX_ITER: 90000, IMS_PER_BATCH: 16}\n"

Columns = dict[str, np.ndarray]
Reader = Callable[[Path], Columns]


def rows(count: int, seed: int, *, nan_share: float = 0.0) -> Iterator[str]:
    """Lines as JSONWriter writes them, an evaluation every 500 rows."""
    rng = random.Random(seed)
    for i in range(count):
        row: dict[str, float] = {key: rng.random() for key in KEYS}
        row["iteration"] = 20 * i + 19
        if i % 500 == 499:
            row.update({f"bbox/{name}": 100 * rng.random() for name in EVALUATION})
        if rng.random() < nan_share:
            row["loss_mask"] = float("nan")
        yield json.dumps(row, sort_keys=True) + "\n"


def break_lines(lines: Iterable[str]) -> Iterator[str]:
    """One line in a thousand is damaged."""
    for i, line in enumerate(lines):
        if i % 1000 == 200:
            yield line.rstrip("\n")
        elif i % 1000 == 400:
            yield line[: len(line) // 2] + "\n"
        elif i % 1000 == 600:
            yield "\0" * 500 + "\n" + line
        elif i % 1000 == 800:
            yield "\n" + line
        else:
            yield line


# ------------------------------------------------------------------------------- the readers


def by_d2check(path: Path) -> Columns:
    with path.open("rb") as stream:
        table = read_table(stream)
    return {key: column.values for key, column in table.columns.items()}


def _columns(found: Iterable[dict[str, float]]) -> Columns:
    columns: dict[str, list[float]] = {}
    for row in found:
        for key, value in row.items():
            columns.setdefault(key, []).append(value)
    return {key: np.array(values, np.float64) for key, values in columns.items()}


def by_json(path: Path) -> Columns:
    with path.open("rb") as stream:
        return _columns(map(json.loads, stream))


def by_msgspec_dicts(path: Path) -> Columns:
    return _columns(msgspec.json.Decoder().decode_lines(path.read_bytes()))


def by_orjson(path: Path) -> Columns:
    import orjson

    with path.open("rb") as stream:
        return _columns(map(orjson.loads, stream))


def by_polars(path: Path) -> Columns:
    import polars

    frame = polars.read_ndjson(path, infer_schema_length=1000)
    return {name: frame[name].to_numpy() for name in frame.columns}


def readers() -> dict[str, Reader]:
    """Those that can be tried here."""
    found: dict[str, Reader] = {"d2check": by_d2check, "json": by_json}
    found["msgspec, dicts"] = by_msgspec_dicts
    if importlib.util.find_spec("orjson"):
        found["orjson"] = by_orjson
    if importlib.util.find_spec("polars"):
        found["polars"] = by_polars
    return found


def timed(reader: Reader, path: Path) -> float | None:
    """Seconds, or None when the reader gave up."""
    start = time.process_time()
    try:
        reader(path)
    except Exception:  # noqa: BLE001  # each reader has its own
        return None
    return time.process_time() - start


def compare(path: Path, repeats: int) -> None:
    """Print the megabytes a second of all readers on one file."""
    size_mb = path.stat().st_size / 1e6
    best: dict[str, float | None] = {}
    for _ in range(repeats):
        for name, reader in readers().items():
            seconds = timed(reader, path)
            if seconds is not None:
                best[name] = min(best.get(name) or seconds, seconds)
            else:
                best[name] = None
    own = best["d2check"]
    assert own is not None, "our own reader never gives up"
    print(f"\n{path.name}: {size_mb:.1f} MB")
    for name, seconds in best.items():
        text = f"{size_mb / seconds:6.0f} MB/s   {seconds / own:5.2f}" if seconds else " error"
        print(f"  {name:16}{text}")


def folders(root: Path, count: int) -> None:
    """Print how long many small outputs take."""
    lines = list(rows(100, 7))
    for i in range(count):
        folder = root / f"{i // 100:03}" / f"{i:05}"
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text("".join(lines))
        (folder / "config.yaml").write_text(CONFIG)
    start = time.perf_counter()
    runs = sum(len(sources.read(found)) for found in sources.discover([root]))
    seconds = time.perf_counter() - start
    print(
        f"\n{runs} folders of 100 rows and a config: {seconds:.1f} s, {runs / seconds:.0f} a second"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--folders", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "sound.json").write_text("".join(rows(wanted.rows, 1)))
        (root / "nan.json").write_text("".join(rows(wanted.rows, 2, nan_share=0.01)))
        (root / "broken.json").write_text("".join(break_lines(rows(wanted.rows, 3))))
        print("fastest of each; the last column is the time as a multiple of d2check's")
        for kind in ("sound", "nan", "broken"):
            compare(root / f"{kind}.json", wanted.repeats)
        folders(root / "outputs", wanted.folders)


if __name__ == "__main__":
    main()
