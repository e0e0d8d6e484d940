"""A LazyConfig of the demo's micro model, on the demo's data set (`demo_setup` registers both)."""

import torch
from detectron2.config import LazyCall as L
from detectron2.data import (
    DatasetMapper,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.layers import ShapeSpec
from detectron2.solver import WarmupParamScheduler
from detectron2.solver.build import get_default_optimizer_params
from fvcore.common.param_scheduler import MultiStepParamScheduler
from micro_model import micro_model

model = L(micro_model)(num_classes=3, input_shape=L(ShapeSpec)(channels=3))

dataloader = {
    "train": L(build_detection_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names="shapes_train"),
        mapper=L(DatasetMapper)(
            is_train=True,
            augmentations=[L(ResizeShortestEdge)(short_edge_length=(128, 160), max_size=192)],
            image_format="BGR",
            use_instance_mask=True,
        ),
        total_batch_size=4,
        num_workers=0,
    )
}
optimizer = L(torch.optim.SGD)(
    params=L(get_default_optimizer_params)(weight_decay_norm=0.0),
    lr=0.005,
    momentum=0.9,
)
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1], milestones=[250, 300]),
    warmup_length=0.1,
    warmup_factor=0.001,
    warmup_method="linear",
)
train = {
    "output_dir": "precious",
    "init_checkpoint": "",
    "max_iter": 300,
    "amp": {"enabled": False},
    "ddp": {"broadcast_buffers": False},
    "checkpointer": {"period": 1, "max_to_keep": 1},
    "eval_period": 2,
    "log_period": 20,
    "device": "cpu",
    "seed": 1,
}
