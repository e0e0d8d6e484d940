"""Many small trainings on disk, all from a seed: what an audit of a whole team's outputs meets.

Three of four are healthy, the others have one fault each; every folder holds a metrics.json of 100
rows of 25 keys (1 KB a row) and the config that Detectron2 would have dumped.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from verdicts import curves, written

ROWS = 100
_TEMPLATES = 64
_SICK = ("flat", "late_plateau", "climb", "head_stuck", "loader_steady", "leap")
# What Detectron2 logs besides losses, rate and times; their values do not matter here.
COUNTERS = (
    "eta_seconds", "fast_rcnn/cls_accuracy", "fast_rcnn/false_negative",
    "fast_rcnn/fg_cls_accuracy", "mask_rcnn/accuracy", "mask_rcnn/false_negative",
    "mask_rcnn/false_positive", "rank_data_time", "roi_head/num_bg_samples",
    "roi_head/num_fg_samples", "rpn/num_neg_anchors", "rpn/num_pos_anchors",
    "stage1/roi_head/num_bg_samples", "stage1/roi_head/num_fg_samples",
    "stage2/roi_head/num_bg_samples", "stage2/roi_head/num_fg_samples",
)  # fmt: skip


def make_outputs(root: Path, count: int, seed: int = 0) -> int:
    """Write so many output folders below root, 100 to a folder. Returns the bytes of their rows."""
    templates = [(_lines(run, number), run["cfg"]) for number, run in enumerate(_runs(seed))]
    size = 0
    for number in range(count):
        lines, cfg = templates[number % len(templates)]
        folder = root / f"{number // 100:03}" / f"{number:05}"
        folder.mkdir(parents=True)
        size += (folder / "metrics.json").write_text(lines)
        dump = json.loads(written.config_text(cfg)) | {"OUTPUT_DIR": f"output/{number:05}"}
        (folder / "config.yaml").write_text(json.dumps(dump, indent=1))
    return size


def _runs(seed: int) -> Iterator[dict[str, Any]]:
    """_TEMPLATES runs of exactly ROWS rows."""
    found = 0
    for number in itertools.count(1000 * seed):
        cls = "healthy" if number % 4 else _SICK[number // 4 % len(_SICK)]
        run = curves.make(cls, curves.LEVELS[number % 3], "long", number)
        if len(run["it"]) == ROWS:
            yield run
            found += 1
            if found == _TEMPLATES:
                return


def _lines(run: dict[str, Any], seed: int) -> str:
    rng = random.Random(seed)
    rows = []
    for row, iteration in enumerate(run["it"]):
        values = {name: float(column[row]) for name, column in run["m"].items()}
        values |= {name: rng.random() for name in COUNTERS}
        values.pop("max_mem", None)
        rows.append(json.dumps({"iteration": int(iteration), **values}, sort_keys=True) + "\n")
    return "".join(rows)
