"""Real trainings of small detectors on the CPU, healthy and sick, recorded raw and kept small.

`python benchmarks/verdicts/trainings.py record FOLDER` trains what is missing there (half a minute
each), `pack FOLDER` writes them to tests/runs/trainings/NAME.jsonl.gz: the records of d2check's
probe with rounded numbers, after a first line with what is true of the run. `judge` tells what the
shipped rules say of all that are packed.

The models are the demo's Mask R-CNN, the same without masks, and a RetinaNet on its backbone. The
linear rule's rate is x1. Rates from 1/1000 to 400 times that; labels, boxes, weights, loaders and
hooks with a planted fault. Those called held out (seeds above 10) were trained once the rules were
fixed, and no threshold has seen them; what they missed was worked on, and the second set of them
(seeds above 80) was planned before that and judged after it, once.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from side_by_side import wilson

from d2check import sources
from d2check.demo import shapes
from d2check.model import Verdict
from d2check.rules.judge import judge
from d2check.rules.load import load_rules
from d2check.rules.model import Rule

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

# Changes to the annotations of the training set, as a wrong export would make them.
DATA: dict[str, Callable[[Sequence[float], Mapping[str, float]], list[float]]] = {
    "xyxy": lambda box, _: [box[0], box[1], box[0] + box[2], box[1] + box[3]],
    "centre": lambda box, _: [box[0] + box[2] / 2, box[1] + box[3] / 2, box[2], box[3]],
    "relative": lambda box, image: [
        box[0] / image["width"], box[1] / image["height"],
        box[2] / image["width"], box[3] / image["height"],
    ],
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
    "ids from one": """
_load = DatasetMapper.__call__
def _call(self, record):
    record = copy.deepcopy(record)
    for note in record["annotations"]:
        note["category_id"] += 1
    return _load(self, record)
DatasetMapper.__call__ = _call
""",
    "says corners": """
_dicts = DatasetCatalog.get("shapes_train")
for _record in _dicts:
    for _note in _record["annotations"]:
        _note["bbox_mode"] = BoxMode.XYXY_ABS
DatasetCatalog.pop("shapes_train")
DatasetCatalog.register("shapes_train", lambda: _dicts)
""",
    "unflipped": """
_transform = detection_utils.transform_instance_annotations
def _unflipped(annotation, transforms, *rest, **more):
    kept = TransformList([t for t in transforms.transforms if not isinstance(t, HFlipTransform)])
    box = _transform(copy.deepcopy(annotation), kept, *rest, **more)["bbox"]
    done = _transform(annotation, transforms, *rest, **more)
    done["bbox"] = box
    return done
detection_utils.transform_instance_annotations = _unflipped
""",
    "unloaded": """
torch.save({"model": {"other.weight": torch.zeros(3)}}, "other.pth")
""",
    "all frozen": """
_build = DefaultTrainer.build_model.__func__
def _frozen(cls, cfg):
    model = _build(cls, cfg)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("bbox_pred" in name)
    return model
DefaultTrainer.build_model = classmethod(_frozen)
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
# What must be found: one of these rules, warned or failed. Three times the linear rule is told, and
# is no fault by itself.
RIGHT = {
    "rate too low": {"loss/head-stuck", "schedule/lr-unscaled"},
    "rate too high": {"schedule/lr-unscaled", "loss/roi-stalled", "loss/non-finite"},
    "no foreground": {"labels/no-foreground"},
    "ids from one": {"labels/class-out-of-range"},
    "labels of other images": {
        "labels/boxes-misplaced",
        "labels/foreground-stuck",
        "labels/classes-guessed",
    },
    "random classes": {"labels/classes-guessed"},
    "half of the classes random": {"labels/classes-guessed"},
    "frozen weights": {"loss/head-stuck", "weights/untouched", "weights/frozen-norm-from-scratch"},
    "weights not loaded": {"weights/not-loaded", "weights/mostly-skipped"},
    "box format": {"labels/box-format", "labels/boxes-off-masks", "labels/boxes-left-behind"},
    "boxes not flipped": {"labels/boxes-off-masks", "labels/boxes-left-behind"},
    "slow loader": {"time/data-bound"},
    "bursty loader": {"time/data-bound"},
    "host memory leak": {"memory/host-growth"},
}
WORKABLE = ("healthy", "workable rate")
_IMPORTS = """
import copy, itertools, random, time
import numpy, torch
from fvcore.transforms.transform import HFlipTransform, TransformList
from detectron2.data import DatasetCatalog, DatasetMapper, detection_utils
from detectron2.engine import DefaultTrainer, HookBase
from detectron2.structures import BoxMode
"""


LOOKED_AT, HELD_OUT, AGAIN = "looked at", "held out", "held out again"


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
    data: str | None = None
    bare: bool = False  # annotations without polygons
    one_colour: bool = False  # classes differ in their shape alone
    overrides: tuple[str, ...] = ()
    group: str = LOOKED_AT

    @property
    def held_out(self) -> bool:
        """Whether it was recorded with the rules fixed."""
        return self.group != LOOKED_AT


def all_trainings() -> list[Training]:
    """Those that were looked at while rules were made, and those that were not."""
    return looked_at() + held_out() + held_out_again()


OTHER_WEIGHTS = ("MODEL.WEIGHTS", "other.pth")  # which the fault "unloaded" writes


def in_group(
    group: str, seed: int, truth: str, name: str, factor: float = 1.0, **more: Any
) -> Training:
    """One of a group, its model told by the first word of its name."""
    model = name.partition("-")[0]
    return Training(f"{name}-s{seed}", truth, model, factor, seed, group=group, **more)


def warm_up(iterations: int) -> tuple[str, ...]:
    """Overrides for a warm-up of so many iterations."""
    return ("SOLVER.WARMUP_ITERS", str(iterations))


def batch(images: int) -> tuple[str, ...]:
    """Overrides for so many images per batch."""
    return ("SOLVER.IMS_PER_BATCH", str(images))


def held_out() -> list[Training]:
    """Trained after the rules were fixed; other seeds, rates, batches, warm-ups and faults."""
    of = partial(in_group, HELD_OUT)
    low, high, box = "rate too low", "rate too high", "box format"
    return [
        of(11, "healthy", "mask-x1"),
        of(12, "workable rate", "mask-x0.5", 0.5),
        of(13, "workable rate", "mask-x2", 2.0),
        of(14, "healthy", "faster-x1"),
        of(15, "workable rate", "faster-x2", 2.0, bare=True),
        of(16, "healthy", "retina-x1", bare=True),
        of(17, "workable rate", "retina-x2", 2.0),
        of(18, "workable rate", "retina-x0.5", 0.5),
        of(19, "healthy", "mask-warmup100", overrides=warm_up(100)),
        of(20, "healthy", "faster-warmup5", overrides=warm_up(5)),
        of(21, "healthy", "faster-batch2", 0.5, overrides=batch(2)),
        of(22, "healthy", "mask-batch6", 1.5, overrides=batch(6)),
        of(23, "healthy", "retina-batch2", 0.5, overrides=batch(2)),
        of(24, "workable rate", "mask-onecolour", one_colour=True),
        of(25, "workable rate", "faster-onecolour", one_colour=True),
        of(31, low, "mask-x0.002", 0.002),
        of(33, low, "retina-x0.005", 0.005),
        of(34, low, "faster-x0.001", 0.001),
        of(35, high, "mask-x60", 60.0),
        of(36, high, "faster-x100", 100.0),
        of(38, high, "faster-x100-warmup100", 100.0, overrides=warm_up(100)),
        of(41, "no foreground", "mask-labels", sick="labels"),
        of(42, "no foreground", "faster-labels", sick="labels"),
        of(43, "ids from one", "faster-ids", fault="ids from one"),
        of(44, "ids from one", "retina-ids", fault="ids from one"),
        of(45, "labels of other images", "mask-moved", data="moved"),
        of(46, "labels of other images", "faster-moved", data="moved"),
        of(47, "random classes", "faster-shuffle", fault="shuffle"),
        of(48, "random classes", "mask-classes", data="classes"),
        of(49, "half of the classes random", "faster-halfclasses", data="half the classes"),
        of(50, "random classes", "retina-shuffle", fault="shuffle"),
        of(51, "frozen weights", "faster-allfrozen", fault="all frozen"),
        of(52, "frozen weights", "mask-allfrozen", fault="all frozen"),
        of(53, "weights not loaded", "mask-unloaded", fault="unloaded", overrides=OTHER_WEIGHTS),
        of(61, box, "mask-xyxy", data="xyxy"),
        of(62, box, "faster-xyxy", data="xyxy", bare=True),
        of(64, box, "faster-corners", fault="says corners"),
        of(65, box, "retina-corners", fault="says corners", bare=True),
        of(66, box, "mask-relative", data="relative"),
        of(67, box, "faster-centre", data="centre", bare=True),
        of(68, "boxes not flipped", "mask-unflipped", fault="unflipped"),
        of(69, "boxes not flipped", "faster-unflipped", fault="unflipped"),
        of(71, "slow loader", "faster-loader", sick="loader"),
        of(72, "bursty loader", "retina-bursty", fault="bursty"),
        of(73, "bursty loader", "faster-bursty", fault="bursty"),
        of(74, "host memory leak", "faster-leak", fault="leak"),
        of(75, "host memory leak", "retina-leak", fault="leak"),
    ]


def held_out_again() -> list[Training]:
    """Planned when the first set was known, before the rules changed for what it had missed."""
    of = partial(in_group, AGAIN)
    low, high, box = "rate too low", "rate too high", "box format"
    return [
        of(81, "healthy", "mask-x1"),
        of(82, "healthy", "faster-x1", bare=True),
        of(83, "healthy", "retina-x1"),
        of(84, "workable rate", "mask-x0.7", 0.7),
        of(85, "workable rate", "faster-x0.5", 0.5),
        of(86, "workable rate", "retina-x1.5", 1.5),
        of(87, "workable rate", "mask-x1.5", 1.5),
        of(88, "workable rate", "faster-x2", 2.0),
        of(89, "healthy", "faster-batch6", 1.5, overrides=batch(6)),
        of(90, "healthy", "retina-batch6", 1.5, overrides=batch(6)),
        of(91, "healthy", "mask-batch2", 0.5, overrides=batch(2)),
        of(92, "healthy", "mask-warmup60", overrides=warm_up(60)),
        of(93, "healthy", "retina-warmup100", overrides=warm_up(100)),
        of(94, "workable rate", "mask-onecolour", one_colour=True),
        of(95, "workable rate", "faster-onecolour", one_colour=True),
        of(96, "workable rate", "retina-onecolour", one_colour=True),
        of(101, low, "mask-x0.005", 0.005),
        of(102, low, "faster-x0.002", 0.002),
        of(103, low, "retina-x0.001", 0.001),
        of(104, high, "mask-x100", 100.0),
        of(105, high, "faster-x60", 60.0),
        of(106, high, "retina-x60", 60.0),
        of(107, high, "mask-x40-warmup100", 40.0, overrides=warm_up(100)),
        of(108, "no foreground", "mask-labels", sick="labels"),
        of(109, "no foreground", "faster-labels", sick="labels"),
        of(110, "ids from one", "mask-ids", fault="ids from one"),
        of(111, "ids from one", "retina-ids", fault="ids from one"),
        of(112, "labels of other images", "mask-moved", data="moved"),
        of(113, "labels of other images", "faster-moved", data="moved"),
        of(114, "labels of other images", "retina-moved", data="moved"),
        of(115, "random classes", "mask-shuffle", fault="shuffle"),
        of(116, "random classes", "faster-classes", data="classes"),
        of(117, "random classes", "retina-shuffle", fault="shuffle"),
        of(118, "random classes", "retina-classes", data="classes"),
        of(119, "half of the classes random", "mask-halfclasses", data="half the classes"),
        of(120, "frozen weights", "mask-frozen", fault="frozen"),
        of(121, "frozen weights", "faster-allfrozen", fault="all frozen"),
        of(122, "frozen weights", "mask-allfrozen", fault="all frozen"),
        of(123, "weights not loaded", "faster-unloaded", fault="unloaded", overrides=OTHER_WEIGHTS),
        of(124, "weights not loaded", "retina-unloaded", fault="unloaded", overrides=OTHER_WEIGHTS),
        of(125, box, "mask-centre", data="centre"),
        of(126, box, "faster-relative", data="relative"),
        of(127, box, "mask-corners", fault="says corners"),
        of(128, box, "retina-xyxy", data="xyxy", bare=True),
        of(129, "boxes not flipped", "mask-unflipped", fault="unflipped"),
        of(130, "boxes not flipped", "faster-unflipped", fault="unflipped", bare=True),
        of(131, "boxes not flipped", "retina-unflipped", fault="unflipped", bare=True),
        of(132, "slow loader", "retina-loader", sick="loader"),
        of(133, "slow loader", "mask-loader", sick="loader"),
        of(134, "bursty loader", "mask-bursty", fault="bursty"),
        of(135, "host memory leak", "mask-leak", fault="leak"),
        of(136, "host memory leak", "retina-leak", fault="leak"),
    ]


def looked_at() -> list[Training]:
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
    hues = dict.fromkeys(shapes.CLASSES, (200, 120, 60)) if training.one_colour else {}
    with patch.dict(shapes._HUES, hues):
        config = shapes.write_demo(place / "demo", training.sick)  # type: ignore[arg-type]
    if training.data or training.bare:
        spoil(place / "demo" / "train.json", training)
    overrides, base = MODELS[training.model]
    setup = ["--setup", str(place / "demo" / "demo_setup.py")]
    if training.fault:
        (place / "fault.py").write_text(_IMPORTS + FAULTS[training.fault])
        setup += ["--setup", str(place / "fault.py")]
    command = [
        sys.executable, "-m", "d2check", "run", str(config),
        *overrides, *training.overrides, "SOLVER.BASE_LR", repr(base * training.factor), *setup,
        "--output", str(place / "run"), "--iterations", str(iterations),
        "--seed", str(training.seed), "--device", "cpu", "-qq",
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=place, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    print(training.name, done.returncode, flush=True)


def spoil(path: Path, training: Training) -> None:
    """Change the annotations of a COCO file as a training wants them."""
    coco = json.loads(path.read_text())
    images = {image["id"]: image for image in coco["images"]}
    dice, how = random.Random(training.seed), training.data
    for note in coco["annotations"]:
        if training.bare:
            del note["segmentation"]
        if how in DATA:
            note["bbox"] = DATA[how](note["bbox"], images[note["image_id"]])
        elif how == "moved":
            note["image_id"] = (note["image_id"] + 7) % len(images)
        elif how == "classes" or (how == "half the classes" and dice.random() < 0.5):
            note["category_id"] = dice.choice([1, 2, 3])
    path.write_text(json.dumps(coco))


def pack(training: Training, folder: Path) -> None:
    """Write the small copy of one recorded training."""
    run = folder / training.name / "run"
    timed = training.sick == "loader" or training.fault == "bursty"
    header = {
        "truth": training.truth,
        "held_out": training.held_out,
        "config": (run / "config.yaml").read_text(),
        "ending": json.loads((run / "ending.json").read_text()),
    }
    lines = [header]
    for line in (run / "records.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["t"] == "iter":
            record = _small(record, timed, training.fault == "leak")
        if record["t"] != "note" or record["kind"] in _NOTES:
            lines.append(record)
    PACKED.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    text = _MACHINE.sub(r'"\1', text)
    # No time inside: the same recording packs to the same bytes.
    (PACKED / f"{training.name}.jsonl.gz").write_bytes(gzip.compress(text.encode(), mtime=0))


_KEPT = (
    "total_loss", "loss_", "lr", "roi_head/num_", "rpn/num_pos", "num_pos",
    "fast_rcnn/fg_", "fast_rcnn/cls_", "fast_rcnn/false_negative", "dense/",
)  # fmt: skip
# Where it was trained is nobody's business.
_MACHINE = re.compile(r'"/[^"]*?/(site-packages/|demo/images/)')
_NOTES = ("untouched", "dataset", "missing-weights", "skipped-weights")


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


def unpack(path: Path, folder: Path) -> dict[str, Any]:
    """Make a run folder of a packed training, as d2check's probe writes it; what is true of it."""
    header, *records = gzip.decompress(path.read_bytes()).decode().splitlines()
    known: dict[str, Any] = json.loads(header)
    (folder / "config.yaml").write_text(known["config"])
    (folder / "ending.json").write_text(json.dumps(known["ending"]))
    (folder / "records.jsonl").write_text("".join(line + "\n" for line in records))
    return known


def flagged(path: Path, rules: Sequence[Rule]) -> tuple[dict[str, Any], dict[str, Verdict]]:
    """(what is true of a packed training, its warned and failed rules).

    Notes, which are rules of severity info, leave a training healthy in every report.
    """
    with tempfile.TemporaryDirectory() as folder:
        known = unpack(path, Path(folder))
        (run,) = sources.read(Path(folder))
        found = judge(rules, run)
    bad = (Verdict.WARN, Verdict.FAIL)
    told = (f for f in found if f.verdict in bad and f.severity != "info")
    return known, {f.rule: f.verdict for f in told}


def is_right(truth: str, found: Mapping[str, Verdict]) -> bool:
    """Whether a sick training is flagged with its cause, or a sound one with nothing."""
    if truth in WORKABLE:
        return set(found) <= {"schedule/lr-unscaled"} and Verdict.FAIL not in found.values()
    return bool(set(found) & RIGHT[truth])


def report() -> None:
    """Print what the rules say of every packed training, and how often they are right."""
    rules, right = load_rules(), Counter[tuple[str, bool, bool]]()
    groups = {training.name: training.group for training in all_trainings()}
    for path in sorted(PACKED.glob("*.jsonl.gz")):
        known, found = flagged(path, rules)
        good = is_right(known["truth"], found)
        name = path.name.removesuffix(".jsonl.gz")
        group = groups[name]
        right[group, known["truth"] in WORKABLE, good] += 1
        said = ", ".join(f"{verdict.name} {rule}" for rule, verdict in sorted(found.items()))
        print(f"{'right' if good else 'WRONG':6}{group:15}{name:26}{known['truth']:28}{said}")
    for group, sound in sorted({key[:2] for key in right}):
        hits = right[group, sound, True]
        count = hits + right[group, sound, False]
        low, high = wilson(hits, count)
        print(
            f"{group}, {'sound' if sound else 'sick'}: "
            f"{hits} of {count} right ({low:.0%} to {high:.0%})"
        )


def main() -> None:
    """Record, pack or judge."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("what", choices=["record", "pack", "judge"])
    ask.add_argument("folder", type=Path, nargs="?", help="of the recordings; not for judge")
    given = ask.parse_args()
    if given.what == "judge":
        report()
        return
    if given.folder is None:
        ask.error("name the folder of the recordings")
    for training in all_trainings():
        if given.what == "record":
            record(training, given.folder)
        elif (given.folder / training.name / "run" / "ending.json").exists():
            pack(training, given.folder)


if __name__ == "__main__":
    main()
