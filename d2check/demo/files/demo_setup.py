"""Registers the demo's data set and its small backbone with Detectron2.

Run before the training: `d2check run config.yaml --setup demo_setup.py`. The data set lies in the
folder of this file.
"""

import json
import time
from pathlib import Path

import torch
from detectron2.data import DatasetMapper
from detectron2.data.datasets import register_coco_instances
from detectron2.modeling import BACKBONE_REGISTRY, ShapeSpec
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, ResNet

FOLDER = Path(__file__).resolve().parent

# So small a model gains nothing from a second thread, and beside another busy program OpenMP's
# threads spin: an iteration of 0.1 s then takes 2.5 s.
torch.set_num_threads(1)

for split in ("train", "val"):
    register_coco_instances("shapes_" + split, {}, str(FOLDER / (split + ".json")), str(FOLDER))


@BACKBONE_REGISTRY.register()
def build_micro_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """A ResNet of four BasicBlocks (16, 32, 64, 128 channels) under an FPN: 0.1 M parameters."""
    norm = cfg.MODEL.RESNETS.NORM
    stages, channels = [], 16
    for stage, out_channels in enumerate((16, 32, 64, 128)):
        stride = 1 if stage == 0 else 2
        stages.append(
            ResNet.make_stage(
                BasicBlock,
                1,
                stride_per_block=[stride],
                in_channels=channels,
                out_channels=out_channels,
                norm=norm,
            )
        )
        channels = out_channels
    stem = BasicStem(in_channels=input_shape.channels, out_channels=16, norm=norm)
    features = cfg.MODEL.FPN.IN_FEATURES
    return FPN(
        bottom_up=ResNet(stem, stages, out_features=features),
        in_features=features,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
    )


def put_images_on_a_slow_disk(load_s: float) -> None:
    """Make every image take `load_s` seconds longer to load, for `d2check demo --sick loader`."""
    load = DatasetMapper.__call__

    def load_slowly(self, dataset_dict):
        time.sleep(load_s)
        return load(self, dataset_dict)

    DatasetMapper.__call__ = load_slowly


demo = json.loads((FOLDER / "demo.json").read_text())
if demo["load_s"] > 0:
    put_images_on_a_slow_disk(demo["load_s"])
