"""The predicted worst-batch peak against the peaks of counted iterations.

    OMP_NUM_THREADS=1 python benchmarks/memory/measure.py worst MODEL --images 2 [--rows 34]
    OMP_NUM_THREADS=1 python benchmarks/memory/measure.py learnt --images 4 --iterations 300
    OMP_NUM_THREADS=1 python benchmarks/memory/measure.py check MODEL --images 1

`worst`: a config of Detectron2's model zoo on images like COCO's. `learnt`: the demo's micro model,
which trains for real. `check`: the same iterations with every operator computed and with features
told by their size. One JSON line on stdout; README.md tells what was found.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import coco_like
import numpy as np
import torch
from caching_allocator import least_capacity
from detectron2.data import build_detection_train_loader
from detectron2.utils.events import EventStorage
from training import KINDS, MIB, Counted, Meter, config, mapper_of

from d2check.checks.batches.forecast import MIN_ROWS
from d2check.demo.shapes import write_demo
from d2check.model import Series
from d2check.probe import extremes, wire
from d2check.probe.plan import Plan
from d2check.probe.recorder import Recorder
from d2check.probe.session import Session
from d2check.sources import _forecast

ZOO = {
    "mask": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
    "faster": "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
    "retinanet": "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
    "mask-c4": "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml",
    "cascade": "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml",
    "keypoint": "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml",
}
PLANNED = 90_000
SIDES = (256, 272, 288, 304, 320)
WORST = (384, 640)  # which the mapper makes 800 x 1333
COLUMNS = ("images", "padded_pixels", "instances", "most_instances")


def padded(batch: list[dict], divisor: int) -> dict[str, int]:
    """The size of a batch, as the probe records it."""
    tall = max(one["image"].shape[-2] for one in batch)
    wide = max(one["image"].shape[-1] for one in batch)
    counts = [len(one["instances"]) for one in batch]
    return {
        "images": len(batch),
        "padded_pixels": -(-tall // divisor) * divisor * (-(-wide // divisor) * divisor),
        "instances": sum(counts),
        "most_instances": max(counts),
    }


class Training:
    """A counted training with its data set, its loader and a session of the probe."""

    def __init__(self, counted: Counted, dicts: list[dict], images: int, folder: Path) -> None:
        self.counted = counted
        self.cfg = counted.cfg
        self.images = images
        self.folder = folder
        self.dicts = dicts
        self.shapes = [(d["height"], d["width"], len(d["annotations"])) for d in dicts]
        mapper = mapper_of(self.cfg)
        counted.trainer.data_loader = build_detection_train_loader(
            dicts, mapper=mapper, total_batch_size=images, num_workers=0
        )
        counted.trainer.cfg = self.cfg
        self.batches = iter(counted.trainer.data_loader)
        self.divisor = counted.model.backbone.size_divisibility or 1
        self.session = Session(Plan({"folder": str(folder)}), Recorder(str(folder)))
        self.session.recorder.open(0)
        entry = {"names": list(self.cfg.DATASETS.TRAIN), "images": len(dicts)}
        entry.update(shapes=self.shapes, files=[d["file_name"] for d in dicts])
        self.session.data_sets.append(entry)
        self.rows: list[dict[str, float]] = []

    def step(self, batch: list[dict]) -> dict[str, float]:
        row = dict(padded(batch, self.divisor), **self.counted.step(batch))
        self.rows.append(row)
        return row

    def try_worst(self, template: list[dict]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """What the phase tells: its facts and its trials."""
        for parameter in self.counted.model.parameters():
            parameter.grad = None  # the phase has them wait on the processor, which is this one
        meter = Meter(self.counted.heap)
        trainer = self.counted.trainer
        with EventStorage(0), self.counted.counted():
            facts = extremes.measure(self.session, trainer, trainer, template, meter)
        lines = (self.folder / wire.RECORDS).read_text().splitlines()
        records = [wire.decode(line) for line in lines]
        return facts, [record for record in records if record["t"] == "trial"]


def told(found: dict, capacity_mib: float, planned: int = PLANNED) -> dict[str, Any]:
    """What the checker makes of a result for a GPU of this size."""
    names = {"batch_images": "images", "padded_pixels": "padded_pixels",
             "batch_instances": "instances", "batch_most_instances": "most_instances",
             "peak_allocated_mib": "allocated_mib", "peak_reserved_mib": "reserved_mib",
             }  # fmt: skip
    rows, facts, trials = found["rows"], found["facts"], found["trials"]
    at = np.arange(len(rows))
    series = {
        name: Series(name, at, np.array([row[key] for row in rows], float))
        for name, key in names.items()
    }
    known = {"gpu_total_mib": capacity_mib, "gpu_other_mib": 0.0, "max_iter": planned,
             "start_iter": 0, "world_size": 1}  # fmt: skip
    if facts["worst_batch_mib"] <= capacity_mib:
        known["worst_batch_mib"] = facts["worst_batch_mib"]
    else:
        known["worst_batch_oom"] = True
        trials = [_as_on(trial, capacity_mib) for trial in trials]
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / wire.DATA_SET).write_text(json.dumps(found["data_set"]))
        return _forecast.memory_facts(Path(name), series, known, trials, [])


def _as_on(trial: dict, capacity_mib: float) -> dict:
    """The record of a trial on a smaller GPU."""
    if trial["peak_reserved_mib"] <= capacity_mib:
        return trial
    kept = {k: v for k, v in trial.items() if not k.startswith("peak_")}
    return dict(kept, oom=True)


def alone(events: list[tuple[int, int]], begun: int, ended: int) -> list[tuple[int, int]]:
    """What was held as an iteration began, and its own events: nothing else is cached."""
    held: dict[int, int] = {}
    for name, size in events[:begun]:
        if size < 0:
            held.pop(name, None)
        else:
            held[name] = size
    return [*held.items(), *events[begun:ended]]


def worst(model: str, images: int, rows: int, count: int, seed: int, kind: str) -> dict[str, Any]:
    started_s = time.process_time()
    cfg = config(ZOO[model])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = coco_like.shapes(20_000, seed)
        keypoints = model == "keypoint"
        dicts = [coco_like.sample_of(*shape, folder, k, keypoints) for k, shape in enumerate(sizes)]
        training = Training(Counted(cfg, computed=False, kind=kind), dicts, images, folder)
        counted = training.counted
        counted.foreground = 0.75
        for _ in range(rows):
            template = next(training.batches)
            training.step(template)
        ordinary = list(training.rows)
        found: dict[str, Any] = {"model": model, "images": images, "kind": kind, "rows": ordinary}
        # The same size through the mapper, each image with as many objects as any.
        largest = mapper_of(cfg, short=800)
        dicts = [
            coco_like.sample_of(*WORST, coco_like.MOST, folder, 10**6 + k, keypoints)
            for k in range(images)
        ]
        found["measured"] = []
        for foreground in (1.0, 0.75)[: 2 if rows > 1 else 1]:
            counted.foreground = foreground
            row = training.step([largest(one) for one in dicts])
            found["measured"].append(dict(row, foreground=foreground))
        events = counted.heap.events
        found["later"] = []
        for _ in range(count):
            begun = len(events)
            row = training.step(next(training.batches))
            found["later"].append(dict(row, begun=begun, ended=len(events)))
        for row in found["later"]:
            once = alone(events, row["begun"], row["ended"])
            peak = row["allocated_mib"] * MIB
            row["needed_mib"] = least_capacity(once, int(0.99 * peak), int(1.6 * peak)) / MIB
        peaks = [row["allocated_mib"] for row in training.rows]
        grown = max(row["reserved_mib"] for row in training.rows)
        found["grown_mib"] = grown
        found["needed_mib"] = least_capacity(events, int(max(peaks) * MIB), int(grown * MIB)) / MIB
        counted.foreground = None
        if rows + count < MIN_ROWS:  # no model of memory is asked for: the worst batch alone
            design = extremes.design
            extremes.design = lambda *a: design(*a)[-1:]
        facts, trials = training.try_worst(template)
        found.update(facts=facts, trials=trials)
        found["data_set"] = json.loads((folder / wire.DATA_SET).read_text())
    found["cpu_s"] = round(time.process_time() - started_s, 1)
    return found


def learnt(images: int, iterations: int, count: int, seed: int) -> dict[str, Any]:
    """The micro model: it trains, tries the worst batch, and goes on to be counted."""
    from detectron2.config import get_cfg

    found: dict[str, Any] = {"model": "micro", "images": images}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        demo = write_demo(folder / "demo")
        sys.path.insert(0, str(demo.parent))
        import demo_setup  # noqa: F401  registers data set and backbone
        from detectron2.data import DatasetCatalog

        cfg = get_cfg()
        cfg.merge_from_file(str(demo))
        cfg.merge_from_list(["MODEL.DEVICE", "cpu", "SOLVER.IMS_PER_BATCH", images])
        # Sizes that differ, and so large that features matter beside the allocator's segments.
        cfg.merge_from_list(["INPUT.MIN_SIZE_TRAIN", SIDES, "INPUT.MAX_SIZE_TRAIN", 448])
        cfg.SOLVER.BASE_LR = 0.00125 * images
        dicts = DatasetCatalog.get("shapes_train")
        training = Training(Counted(cfg, computed=True), dicts, images, folder)
        counted = training.counted
        for k in range(iterations):
            for group in counted.optimizer.param_groups:
                group["lr"] = cfg.SOLVER.BASE_LR * min(1.0, k / 30)
            template = next(training.batches)
            row = training.step(template)
            row["foreground"] = counted.seen["roi_head/num_fg_samples"]
            row["loss"] = counted.seen["total_loss"]
        ordinary = list(training.rows)
        facts, trials = training.try_worst(template)
        training.step(next(training.batches))
        later = []
        for _ in range(count):
            row = training.step(next(training.batches))
            later.append(dict(row, foreground=counted.seen["roi_head/num_fg_samples"]))
        wide = facts["worst_batch_width"] > facts["worst_batch_height"]  # as the loader groups
        heavy = sorted(
            (d for d in dicts if (d["width"] > d["height"]) == wide),
            key=lambda d: (abs(d["width"] - d["height"]), len(d["annotations"])),
        )[-images:]
        largest = mapper_of(cfg, short=max(SIDES))
        found["measured"] = []
        for _ in range(3):
            row = training.step([largest(one) for one in heavy])
            row["foreground"] = counted.seen["roi_head/num_fg_samples"]
            found["measured"].append(row)
        found.update(facts=facts, trials=trials, rows=ordinary, later=later)
        found["data_set"] = json.loads((folder / wire.DATA_SET).read_text())
    return found


def check(model: str, images: int) -> dict[str, Any]:
    """Peaks of the same three batches, computed and by size."""
    found: dict[str, Any] = {"model": model, "images": images}
    for name in ("sizes", "computed"):
        with tempfile.TemporaryDirectory() as place:
            torch.manual_seed(0)
            cfg = config(ZOO[model])
            counted = Counted(cfg, computed=name == "computed")
            counted.foreground = 1.0
            mapper = mapper_of(cfg, short=800)
            found[name] = []
            for objects in (7, 7, 40):
                random.seed(0)
                np.random.seed(0)
                batch = [
                    mapper(coco_like.sample_of(360, 640, objects, Path(place), k, "key" in model))
                    for k in range(images)
                ]
                found[name].append(dict(counted.step(batch), **counted.seen))
                print(name, found[name][-1], file=sys.stderr, flush=True)
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("what", choices=["worst", "learnt", "check"])
    options.add_argument("model", choices=list(ZOO), nargs="?", default="mask")
    options.add_argument("--images", type=int, default=2)
    options.add_argument("--rows", type=int, default=34, help="iterations as configured")
    options.add_argument("--iterations", type=int, default=300, help="until it has learnt")
    options.add_argument("--count", type=int, default=300, help="iterations to count afterwards")
    options.add_argument("--kind", default="sgd", choices=KINDS)
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(chosen.seed)
    if chosen.what == "worst":
        found = worst(
            chosen.model, chosen.images, chosen.rows, chosen.count, chosen.seed, chosen.kind
        )
    elif chosen.what == "learnt":
        found = learnt(chosen.images, chosen.iterations, chosen.count, chosen.seed)
    else:
        found = check(chosen.model, chosen.images)
    print(json.dumps(found, default=str))


if __name__ == "__main__":
    main()
