"""Real trainings of small detectors on the CPU, healthy and sick, recorded raw and kept small.

`python benchmarks/verdicts/trainings.py record FOLDER` trains what is missing there (half a minute
each), `pack FOLDER` writes them to tests/runs/trainings/NAME.jsonl.gz: the records of d2check's
probe with rounded numbers, after a first line with what is true of the run.

The models are the demo's Mask R-CNN, the same without masks, and a RetinaNet on its backbone. The
linear rule's rate is x1. Rates from 1/1000 to 400 times that, three seeds; labels, boxes, weights,
loaders and hooks with a planted fault.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2check.demo.shapes import write_demo

PACKED = Path(__file__).resolve().parents[2] / "tests" / "runs" / "trainings"

MODELS: dict[str, tuple[tuple[str, ...], float]] = {
    "mask": ((), 0.005),
    "faster": (("MODEL.MASK_ON", "False"), 0.005),
    "retina": (
        (
            "MODEL.META_ARCHITECTURE", "RetinaNet",
            "MODEL.RETINANET.IN_FEATURES", '["p2","p3","p4","p5","p6"]',
            "MODEL.RETINANET.NUM_CLASSES", "3", "MODEL.RETINANET.NUM_CONVS", "1",
        ),
        0.0025,
    ),
}  # fmt: skip

# Put into a second --setup file. Each plants one fault in Detectron2 before the training starts.
FAULTS = {
    "bursty": """
_calls, _load = itertools.count(), DatasetMapper.__call__
def _call(self, record):
    if next(_calls) % 16 == 0:
        time.sleep(0.45)
    return _load(self, record)
DatasetMapper.__call__ = _call
""",
    "frozen": """
_build = DefaultTrainer.build_model.__func__
def _frozen(cls, cfg):
    model = _build(cls, cfg)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in model.roi_heads.mask_head.parameters():
        parameter.requires_grad_(True)
    return model
DefaultTrainer.build_model = classmethod(_frozen)
""",
    "boxes": """
_load = DatasetMapper.__call__
def _call(self, record):
    record = copy.deepcopy(record)
    for note in record["annotations"]:
        x, y, w, h = note["bbox"]
        note["bbox_mode"] = BoxMode.XYXY_ABS
        note["bbox"] = [min(x, w), min(y, h), max(x, w), max(y, h)]
    return _load(self, record)
DatasetMapper.__call__ = _call
""",
    "leak": """
class Leak(HookBase):
    kept = []
    def after_step(self):
        self.kept.append(numpy.ones(200_000))
_hooks = DefaultTrainer.build_hooks
DefaultTrainer.build_hooks = lambda self: [Leak(), *_hooks(self)]
""",
    "shuffle": """
_load, _dice = DatasetMapper.__call__, random.Random(0)
def _call(self, record):
    record = copy.deepcopy(record)
    for note in record["annotations"]:
        note["category_id"] = _dice.randrange(3)
    return _load(self, record)
DatasetMapper.__call__ = _call
""",
}
_IMPORTS = """
import copy, itertools, random, time
import numpy
from detectron2.data import DatasetMapper
from detectron2.engine import DefaultTrainer, HookBase
from detectron2.structures import BoxMode
"""


@dataclass(frozen=True)
class Training:
    """One training: its name, what is true of it, and how it is made."""

    name: str
    truth: str
    model: str
    factor: float = 1.0
    seed: int = 1
    sick: str | None = None
    fault: str | None = None


def all_trainings() -> list[Training]:
    """The matrix of models, rates, seeds and faults."""
    found = [
        Training(f"{model}-x1-s{seed}", "healthy", model, 1.0, seed)
        for model in MODELS
        for seed in (1, 2, 3)
    ]
    rates = {0.001: "rate too low", 0.01: "rate too low", 40: "rate too high"}
    rates |= {100: "rate too high", 400: "rate too high"}
    for model in MODELS:
        for factor, truth in rates.items():
            for seed in (1, 2) if model != "retina" else (1,):
                found.append(Training(f"{model}-x{factor:g}-s{seed}", truth, model, factor, seed))
    for model in ("mask", "faster"):
        for factor in (0.3, 3.0):
            for seed in (4, 5):
                name = f"{model}-x{factor:g}-s{seed}"
                found.append(Training(name, "workable rate", model, factor, seed))
    for seed in (1, 2):
        found.append(Training(f"mask-labels-s{seed}", "no foreground", "mask", 1, seed, "labels"))
        found.append(Training(f"mask-loader-s{seed}", "slow loader", "mask", 1, seed, "loader"))
        for fault, truth in (
            ("bursty", "bursty loader"), ("frozen", "frozen weights"), ("boxes", "box format"),
            ("leak", "host memory leak"), ("shuffle", "random classes"),
        ):  # fmt: skip
            found.append(Training(f"mask-{fault}-s{seed}", truth, "mask", 1, seed, fault=fault))
    return found


def record(training: Training, folder: Path, iterations: int = 300) -> None:
    """Train it through the command line, unless it is there."""
    place = folder / training.name
    if (place / "run" / "ending.json").exists():
        return
    shutil.rmtree(place, ignore_errors=True)
    config = write_demo(place / "demo", training.sick)  # type: ignore[arg-type]
    overrides, base = MODELS[training.model]
    setup = ["--setup", str(place / "demo" / "demo_setup.py")]
    if training.fault:
        (place / "fault.py").write_text(_IMPORTS + FAULTS[training.fault])
        setup += ["--setup", str(place / "fault.py")]
    command = [
        sys.executable, "-m", "d2check", "run", str(config),
        *overrides, "SOLVER.BASE_LR", repr(base * training.factor), *setup,
        "--output", str(place / "run"), "--iterations", str(iterations),
        "--seed", str(training.seed), "--device", "cpu", "-qq",
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=place, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    print(training.name, done.returncode, flush=True)


def pack(training: Training, folder: Path) -> None:
    """Write the small copy of one recorded training."""
    run = folder / training.name / "run"
    timed = training.sick == "loader" or training.fault == "bursty"
    header = {
        "truth": training.truth,
        "config": (run / "config.yaml").read_text(),
        "ending": json.loads((run / "ending.json").read_text()),
    }
    lines = [header]
    for line in (run / "records.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["t"] == "iter":
            record = _small(record, timed, training.fault == "leak")
        if record["t"] != "note" or record["kind"] == "untouched":
            lines.append(record)
    PACKED.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    # No time inside: the same recording packs to the same bytes.
    (PACKED / f"{training.name}.jsonl.gz").write_bytes(gzip.compress(text.encode(), mtime=0))


_KEPT = ("total_loss", "loss_", "lr", "roi_head/num_fg", "rpn/num_pos", "num_pos", "fast_rcnn/fg_")


def _small(record: dict[str, Any], timed: bool, memory: bool) -> dict[str, Any]:
    """Losses, rate and label counts; times and memory only where the fault is in them."""
    small: dict[str, Any] = {"t": "iter", "i": record["i"]}
    scalars = record["scalars"]
    small["scalars"] = {k: _rounded(v) for k, v in scalars.items() if k.startswith(_KEPT)}
    if timed:
        small |= {k: _rounded(record[k]) for k in ("total_s", "data_s", "hooks_s") if k in record}
    if memory and "rss_mib" in record:
        small["rss_mib"] = _rounded(record["rss_mib"])
    return small


def _rounded(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def main() -> None:
    """Record or pack."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("what", choices=["record", "pack"])
    ask.add_argument("folder", type=Path)
    given = ask.parse_args()
    for training in all_trainings():
        if given.what == "record":
            record(training, given.folder)
        elif (given.folder / training.name / "run" / "ending.json").exists():
            pack(training, given.folder)


if __name__ == "__main__":
    main()
