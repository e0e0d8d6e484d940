"""A generated run, written as Detectron2 or d2check would have written it.

Raw rows become a run folder (records.jsonl), medians an OUTPUT_DIR (metrics.json). So the score
includes the readers, and what the formats cannot say is not known to the rules.
"""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

_MEMORY = {"mem_peak": "peak_reserved_mib", "mem_alloc": "allocated_mib"}
WEIGHTS = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"  # score.py --weights names others
_ARCHITECTURE = {
    "retina": "RetinaNet", "fcos": "FCOS", "deep": "MaskFormer", "diffusion": "DiffusionInst",
}  # fmt: skip


def write(run: dict[str, Any], folder: Path) -> Path:
    """The folder that now holds the run."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config_text(run["cfg"]))
    rows_repeat = bool(np.any(np.diff(run["it"]) <= 0))
    if run["mode"] == "short" and not rows_repeat:
        _records(run, folder)
    else:
        _metrics(run, folder)
    return folder


def config_text(cfg: dict[str, Any]) -> str:
    """What Detectron2 would dump of it. JSON is YAML."""
    return json.dumps(
        {
            "VERSION": 2,
            "MODEL": {
                "META_ARCHITECTURE": _ARCHITECTURE.get(cfg["arch"], "GeneralizedRCNN"),
                "ROI_HEADS": {"NUM_CLASSES": cfg["num_classes"]},
                "RETINANET": {"NUM_CLASSES": cfg["num_classes"]},
                "MASK_ON": cfg["arch"] == "mask",
                "WEIGHTS": WEIGHTS,
                "PIXEL_MEAN": [103.53, 116.28, 123.675],
                "PIXEL_STD": [1.0, 1.0, 1.0],
                "RESNETS": {"NORM": "FrozenBN"},
                "BACKBONE": {"FREEZE_AT": 2},
            },
            "INPUT": {"FORMAT": "BGR"},
            "DATASETS": {"TRAIN": ["shapes_train"], "TEST": ["shapes_val"]},
            "TEST": {"EVAL_PERIOD": max(1, cfg["max_iter"] // 10)},
            "SOLVER": {
                "BASE_LR": cfg["base_lr"],
                "IMS_PER_BATCH": cfg["ims_per_batch"],
                "MAX_ITER": cfg["max_iter"],
                "STEPS": cfg["steps"],
                "GAMMA": cfg["gamma"],
                "WARMUP_ITERS": cfg["warmup_iters"],
                "WARMUP_FACTOR": cfg["warmup_factor"],
                "LR_SCHEDULER_NAME": cfg["sched"],
            },
        },
        indent=1,
    )


def _records(run: dict[str, Any], folder: Path) -> None:
    cfg, m = run["cfg"], run["m"]
    facts = {
        "world_size": 1,
        "images_per_batch": cfg["ims_per_batch"],
        "classes": cfg["num_classes"],
        "gpu_total_mib": cfg["gpu_mem"],
        "device": "cuda",
        "meta_architecture": _ARCHITECTURE.get(cfg["arch"], "GeneralizedRCNN"),
    }
    lines: list[dict[str, Any]] = [
        {"t": "begin", "schema": 1, "rank": 0, "world_size": 1, "facts": facts},
        {"t": "phase", "name": "as-configured", "first_iteration": 0},
    ]
    clock = 1.7e9
    for row, iteration in enumerate(run["it"]):
        whole, wait = float(m["time"][row]), float(m["data_time"][row])
        clock += whole
        scalars = {k: _word(m[k][row]) for k in m if k.startswith("loss_") or k == "lr"}
        scalars["total_loss"] = _word(m["total_loss"][row])
        lines.append(
            {
                "t": "iter",
                "i": int(iteration),
                "clock": clock,
                "scalars": scalars,
                "total_s": whole,
                "data_s": wait,
                "hooks_s": 0.0,
                "memory": {_MEMORY[k]: float(m[k][row]) for k in _MEMORY if k in m},
            }
        )
    with (folder / "records.jsonl").open("w") as out:
        out.writelines(json.dumps(line) + "\n" for line in lines)
    kind = "stopped" if math.isfinite(float(m["total_loss"][-1])) else "non-finite"
    ending = {"schema": 1, "kind": kind, "iteration": int(run["it"][-1])}
    (folder / "ending.json").write_text(json.dumps(ending))


def _metrics(run: dict[str, Any], folder: Path) -> None:
    m = run["m"]
    with (folder / "metrics.json").open("w") as out:
        for row, iteration in enumerate(run["it"]):
            values = {k: float(m[k][row]) for k in m if k not in ("max_mem", *_MEMORY)}
            out.write(json.dumps({"iteration": int(iteration), **values}) + "\n")


def _word(value: float) -> float | str:
    value = float(value)
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def write_log(run: dict[str, Any], path: Path) -> Path:
    """The same medians as a log.txt: four digits, `time` as the mean since the process began.

    What a run of medians lacks, the mean of 20 waits, is taken to be their median.
    """
    m, cfg = run["m"], run["cfg"]
    order = ["total_loss", *(name for name in m if name.startswith("loss_"))]
    at = np.asarray(run["it"], np.float64)
    lengths = np.diff(at, prepend=-1.0)
    means = np.cumsum(m["time"] * lengths) / np.cumsum(lengths)
    clock = np.cumsum(m["time"] * lengths)
    out = [
        _line(0.0, "detectron2", "Rank of current process: 0. World size: 1"),
        _line(0.0, "detectron2", "Running with full config:"),
        config_text(cfg),
        _line(0.0, "d2.engine.train_loop", "Starting training from iteration 0"),
    ]
    for row, iteration in enumerate(run["it"]):
        losses = "  ".join(f"{name}: {m[name][row]:.4g}" for name in order)
        left = timedelta(seconds=int((cfg["max_iter"] - iteration) * means[row]))
        text = (
            f" eta: {left}  iter: {iteration}  {losses}  time: {means[row]:.4f}  "
            f"data_time: {m['data_time'][row]:.4f}  lr: {m['lr'][row]:.5g}  "
            f"max_mem: {m['max_mem'][row]:.0f}M"
        )
        out.append(_line(float(clock[row]), "d2.utils.events", text))
    path.write_text("\n".join(out) + "\n")
    return path


def _line(seconds: float, logger: str, text: str) -> str:
    moment = datetime(2026, 3, 1, 9) + timedelta(seconds=seconds)
    return f"[{moment:%m/%d %H:%M:%S} {logger}]: {text}"
