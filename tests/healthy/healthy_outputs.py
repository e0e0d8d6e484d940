"""Output folders of sound trainings, as Detectron2 writes them: metrics.json, config.yaml, log.txt.

Losses follow the curves of the real logs that the rules were read against: chance level first, a
dip of the classes to background, a box loss that rises before it falls, log-normal noise.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from d2check.config import keys
from d2check.config.load import load_config
from d2check.config.schedule import for_world_size, planned_lr

Floats = NDArray[np.float64]

R50 = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
COCO = (
    "detectron2://COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl"
)


@dataclass(frozen=True)
class Curve:
    """A loss: from `start` to `end`, `tau` effective iterations for two thirds of the way.

    bump: a rise by that much that comes first and goes, as a box loss makes while objects begin to
    be found.
    """

    start: float
    end: float
    tau: float = 400.0
    bump: float = 0.0

    def at(self, effective: Floats) -> Floats:
        """The curve at so many iterations at the full rate."""
        x = effective / self.tau
        return self.end + (self.start - self.end) * np.exp(-x) + self.bump * 2.7 * x * np.exp(-x)


def rcnn(classes: int, *, mask: bool = False, keypoints: bool = False) -> dict[str, Curve]:
    """Losses of a Faster, Mask or Keypoint R-CNN that begins with ImageNet weights."""
    losses = {
        "loss_cls": Curve(math.log(classes + 1), 0.16, 300),
        "loss_box_reg": Curve(0.05, 0.18, 900, bump=0.2),
        "loss_rpn_cls": Curve(0.69, 0.04, 200),
        "loss_rpn_loc": Curve(0.16, 0.06, 700),
    }
    if mask:
        losses["loss_mask"] = Curve(0.69, 0.24, 500)
    if keypoints:
        losses["loss_keypoint"] = Curve(8.0, 2.4, 900)
    return losses


def fine_tuned() -> dict[str, Curve]:
    """Losses of a Mask R-CNN that begins with COCO weights and one new class."""
    return {
        "loss_cls": Curve(0.55, 0.07, 250),
        "loss_box_reg": Curve(0.42, 0.14, 500),
        "loss_mask": Curve(0.45, 0.10, 400),
        "loss_rpn_cls": Curve(0.05, 0.012, 300),
        "loss_rpn_loc": Curve(0.03, 0.012, 500),
    }


def retinanet() -> dict[str, Curve]:
    """Losses of a RetinaNet: focal, so that it begins near 1.1 whatever the classes."""
    return {"loss_cls": Curve(1.13, 0.35, 900), "loss_box_reg": Curve(0.72, 0.3, 1200)}


def set_prediction(layers: int) -> dict[str, Curve]:
    """Losses of a Mask2Former: every decoder layer has its own three."""
    tails = ["", *(f"_{layer}" for layer in range(layers - 1))]
    return {
        f"{name}{tail}": curve
        for tail in tails
        for name, curve in (
            ("loss_ce", Curve(4.2, 1.3, 900)),
            ("loss_mask", Curve(0.9, 0.35, 700)),
            ("loss_dice", Curve(3.2, 1.4, 900)),
        )
    }


@dataclass(frozen=True)
class Healthy:
    """A sound training and how it was recorded.

    config: settings over Detectron2's defaults; lazy: a LazyConfig dump instead. rows: how many
    iterations were trained, all by default. world_size: GPUs, told by a log. images: after
    filtering, told by a log. scalars: constant scalars beside the losses. evaluations: AP of each
    evaluation. rate_factor: constant factor of the logged parameter group. log_only: no
    metrics.json, and a log as Detectron2 before v0.3 prints it. log: further messages.
    expected: rules outside loss/ that warn rightly.
    """

    name: str
    losses: Mapping[str, Curve]
    config: Mapping[str, Any] = field(default_factory=dict)
    lazy: str | None = None
    first: int = 0
    trained: int | None = None
    period: int = 20
    world_size: int | None = None
    images: int | None = None
    scalars: Mapping[str, float] = field(default_factory=dict)
    evaluations: Sequence[float] = ()
    eval_period: int = 500
    rate_factor: float = 1.0
    log_only: bool = False
    log: Sequence[str] = ()
    expected: frozenset[str] = frozenset()
    seed: int = 0


RCNN_SCALARS = {
    "fast_rcnn/cls_accuracy": 0.94,
    "fast_rcnn/false_negative": 0.2,
    "fast_rcnn/fg_cls_accuracy": 0.75,
    "roi_head/num_bg_samples": 110.0,
    "roi_head/num_fg_samples": 18.0,
    "rpn/num_neg_anchors": 240.0,
    "rpn/num_pos_anchors": 16.0,
}


def write_output(folder: Path, training: Healthy) -> Path:
    """The training's OUTPUT_DIR."""
    folder.mkdir(parents=True, exist_ok=True)
    if training.lazy is not None:
        text = training.lazy
    else:
        text = yaml.safe_dump(_nested({**keys.defaults(), **training.config}))
    (folder / "config.yaml").write_text(text)
    config = for_world_size(load_config(folder / "config.yaml"), training.world_size)
    length = int(config.get("SOLVER.MAX_ITER") or config.get("train.max_iter"))
    end = training.first + (training.trained or length - training.first)
    every = np.arange(training.first, end)
    rate = planned_lr(config, every) * training.rate_factor
    rows = _rows(training, every, rate, length)
    if not training.log_only:
        lines = [json.dumps(row, sort_keys=True) for row in rows]
        (folder / "metrics.json").write_text("\n".join(lines) + "\n")
    if training.log_only or training.world_size or training.images or training.log:
        printed = [_printed(row) for row in rows] if training.log_only else []
        (folder / "log.txt").write_text("\n".join(_log(training, end, printed)) + "\n")
    return folder


def _printed(row: Mapping[str, float]) -> str:
    """A row as v0.1 and v0.2 print it: three digits of a loss, six decimals of the rate."""
    losses = "  ".join(f"{name}: {value:.3f}" for name, value in row.items() if "loss" in name)
    return (
        f"eta: 0:10:00  iter: {row['iteration']}  {losses}  time: {row['time']:.4f}  "
        f"data_time: {row['data_time']:.4f}  lr: {row['lr']:.6f}  max_mem: 2800M"
    )


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *above, last = key.split(".")
        node = tree
        for part in above:
            node = node.setdefault(part, {})
        node[last] = list(value) if isinstance(value, tuple) else value
    return tree


def _rows(
    training: Healthy, every: NDArray[np.int64], rate: Floats, length: int
) -> list[dict[str, float]]:
    """One row per writing period, medians of the last 20 iterations, the rate of the last one."""
    rng = np.random.default_rng(training.seed)
    effective = np.cumsum(rate) / rate.max() + training.first
    quality = rng.lognormal(0.0, 0.2, len(every))  # some batches are harder for every head
    raw = {
        name: curve.at(effective) * quality * rng.lognormal(0.0, 0.2, len(every))
        for name, curve in training.losses.items()
    }
    raw["total_loss"] = np.sum(list(raw.values()), axis=0)
    raw["time"] = 0.35 * rng.lognormal(0.0, 0.08, len(every))
    raw["data_time"] = 0.008 * rng.lognormal(0.0, 0.4, len(every))
    rows: list[dict[str, float]] = []
    for number, iteration in enumerate(every.tolist()):
        due = (iteration + 1) % training.period == 0 or iteration == every[-1]
        evaluated = (iteration + 1) // training.eval_period
        is_evaluation = (iteration + 1) % training.eval_period == 0
        row: dict[str, float] = {}
        if due:
            window = slice(max(0, number - 19), number + 1)
            row = {name: float(np.median(values[window])) for name, values in raw.items()}
            row |= {k: v * float(rng.lognormal(0, 0.05)) for k, v in training.scalars.items()}
            row["lr"] = float(rate[number])
            row["eta_seconds"] = 0.35 * (length - iteration - 1)
        if is_evaluation and evaluated <= len(training.evaluations):
            ap = training.evaluations[evaluated - 1]
            row |= {"bbox/AP": ap, "bbox/AP50": 1.6 * ap, "bbox/APs": math.nan}
        if row:
            rows.append({**row, "iteration": iteration})
    return rows


def _log(training: Healthy, end: int, printed: Sequence[str]) -> list[str]:
    messages = [
        ("detectron2", f"Rank of current process: 0. World size: {training.world_size or 1}"),
        ("d2.data.datasets.coco", "Loaded 5000 images in COCO format from train.json"),
    ]
    if training.images:
        text = f"Removed 0 images with no usable annotations. {training.images} images left."
        messages.append(("d2.data.build", text))
    messages += [("fvcore.common.checkpoint", text) for text in training.log]
    messages.append(("d2.engine.train_loop", f"Starting training from iteration {training.first}"))
    messages += [("d2.utils.events", text) for text in printed]
    seconds = int(0.35 * (end - training.first))
    spent = f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    done = end - training.first - 2
    text = f"Overall training speed: {done} iterations in {spent} (0.3500 s / it)"
    messages += [
        ("d2.engine.hooks", text),
        ("d2.engine.hooks", f"Total training time: {spent} (0:00:01 on hooks)"),
    ]
    return [
        f"[05/04 {10 + n // 720:02d}:{n // 12 % 60:02d}:{n * 5 % 60:02d}] {name} INFO: {text}"
        for n, (name, text) in enumerate(messages)
    ]
