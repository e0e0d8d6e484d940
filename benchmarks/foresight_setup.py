"""What the demo has not, for foresight.py: FCOS by name, and trained weights to begin with.

As a setup file (`d2check run --setup`) it registers FCOS as a META_ARCHITECTURE, which Detectron2
itself builds from a LazyConfig only. As a script it trains a RetinaNet and saves it:

    python benchmarks/foresight_setup.py CONFIG OUTPUT_DIR [KEY VALUE ...]
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from detectron2.config import get_cfg
from detectron2.engine import DefaultTrainer
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.modeling.meta_arch.fcos import FCOS, FCOSHead
from detectron2.utils.env import seed_all_rng


@META_ARCH_REGISTRY.register()
def build_micro_fcos(cfg: Any) -> FCOS:
    """FCOS over the demo's backbone, with one convolution of 32 channels in each of its heads."""
    backbone = build_backbone(cfg)
    levels = cfg.MODEL.RPN.IN_FEATURES
    shapes = backbone.output_shape()
    classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    head = FCOSHead(
        input_shape=[shapes[level] for level in levels], num_classes=classes, conv_dims=[32]
    )
    return FCOS(
        backbone=backbone,
        head=head,
        head_in_features=levels,
        num_classes=classes,
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
    )


def main(config: Path, output: str, overrides: list[str]) -> None:
    """Train to the end; Detectron2 saves model_final.pth in `output`."""
    spec = importlib.util.spec_from_file_location("setup", config.with_name("demo_setup.py"))
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    cfg = get_cfg()
    cfg.merge_from_file(str(config))
    cfg.merge_from_list([*overrides, "MODEL.DEVICE", "cpu", "OUTPUT_DIR", output])
    cfg.merge_from_list(["TEST.EVAL_PERIOD", 0, "DATASETS.TEST", "()"])
    Path(output).mkdir(parents=True, exist_ok=True)
    seed_all_rng(cfg.SEED)
    trainer = DefaultTrainer(cfg)
    trainer.resume_or_load()
    trainer.train()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
