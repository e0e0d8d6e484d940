"""What a project's LazyConfig names: a function that builds its model."""

from pathlib import Path

import demo_setup
from detectron2.config import get_cfg
from detectron2.modeling import build_model


def micro_model(num_classes, input_shape):
    """The demo's Mask R-CNN."""
    assert input_shape.channels == 3
    cfg = get_cfg()
    cfg.merge_from_file(str(Path(demo_setup.__file__).parent / "config.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = num_classes
    return build_model(cfg)
