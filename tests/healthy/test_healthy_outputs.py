"""Sound trainings of every kind: no rule that looks at anything but the loss may complain."""

from __future__ import annotations

from pathlib import Path

import pytest
from healthy_outputs import (
    COCO,
    R50,
    RCNN_SCALARS,
    Curve,
    Healthy,
    fine_tuned,
    rcnn,
    retinanet,
    set_prediction,
    write_output,
)

from d2check import sources
from d2check.model import Finding, Verdict
from d2check.rules.judge import judge
from d2check.rules.load import load_rules

BAD = (Verdict.WARN, Verdict.FAIL, Verdict.ERROR)

FASTER = {
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.WEIGHTS": R50,
    "MODEL.ROI_HEADS.NUM_CLASSES": 80,
    "SOLVER.BASE_LR": 0.02,
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.MAX_ITER": 3000,
    "SOLVER.STEPS": [2000, 2666],
    "SOLVER.WARMUP_ITERS": 100,
    "DATASETS.TEST": ["coco_2017_val"],
    "TEST.EVAL_PERIOD": 500,
}
TUNED = {
    **FASTER,
    "MODEL.WEIGHTS": COCO,
    "MODEL.ROI_HEADS.NUM_CLASSES": 1,
    "SOLVER.BASE_LR": 0.0025,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.MAX_ITER": 1000,
    "SOLVER.STEPS": [],
}
RETINA = {
    **FASTER,
    "MODEL.META_ARCHITECTURE": "RetinaNet",
    "SOLVER.BASE_LR": 0.01,
}
MASK2FORMER = {
    **FASTER,
    "MODEL.META_ARCHITECTURE": "MaskFormer",
    "SOLVER.BASE_LR": 0.0001,
    "SOLVER.OPTIMIZER": "ADAMW",
    "SOLVER.BACKBONE_MULTIPLIER": 0.1,
    "SOLVER.WARMUP_ITERS": 10,
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "INPUT.FORMAT": "RGB",
    "MODEL.WEIGHTS": "swin_tiny_patch4_window7_224.pkl",
}
VITDET = """
dataloader:
  train: {total_batch_size: 64, num_workers: 4, _target_: detectron2.data.build_detection_train_loader}
lr_multiplier:
  _target_: detectron2.solver.WarmupParamScheduler
  scheduler:
    _target_: fvcore.common.param_scheduler.MultiStepParamScheduler
    values: [1.0, 0.1, 0.01]
    milestones: [2600, 2850]
    num_updates: 3000
  warmup_factor: 0.001
  warmup_length: 0.08333333333333333
model:
  _target_: detectron2.modeling.GeneralizedRCNN
  roi_heads: {_target_: detectron2.modeling.StandardROIHeads, num_classes: 80}
optimizer:
  _target_: torch.optim.AdamW
  lr: 0.0001
  betas: [0.9, 0.999]
  weight_decay: 0.1
train: {max_iter: 3000, amp: {enabled: true}, eval_period: 1000, init_checkpoint: mae_pretrain_vit_base.pth, device: cuda}
"""  # noqa: E501  as a dump has it

TRAININGS = (
    Healthy("faster-rcnn", rcnn(80), FASTER, scalars=RCNN_SCALARS, images=20000, world_size=8),
    Healthy("mask-rcnn", rcnn(80, mask=True), FASTER, scalars=RCNN_SCALARS),
    Healthy("retinanet", retinanet(), RETINA, scalars={"num_pos_anchors": 30.0}),
    Healthy(
        "cascade",
        {
            "loss_rpn_cls": Curve(0.69, 0.04, 200),
            "loss_rpn_loc": Curve(0.16, 0.06, 700),
            "loss_cls_stage0": Curve(4.4, 0.2, 300),
            "loss_box_reg_stage0": Curve(0.05, 0.2, 900, bump=0.2),
            "loss_cls_stage1": Curve(4.4, 0.2, 300),
            "loss_box_reg_stage1": Curve(0.02, 0.3, 1200, bump=0.2),
            "loss_cls_stage2": Curve(4.4, 0.2, 300),
            "loss_box_reg_stage2": Curve(0.005, 0.25, 1500, bump=0.1),
        },
        {**FASTER, "MODEL.ROI_HEADS.NAME": "CascadeROIHeads"},
    ),
    Healthy(
        "keypoint",
        rcnn(1, keypoints=True),
        {**FASTER, "MODEL.ROI_HEADS.NUM_CLASSES": 1, "MODEL.KEYPOINT_ON": True},
        scalars=RCNN_SCALARS,
    ),
    Healthy(
        "pointrend",
        {**rcnn(80, mask=True), "loss_mask_point": Curve(0.69, 0.28, 600)},
        {**FASTER, "MODEL.ROI_MASK_HEAD.NAME": "PointRendMaskHead"},
        scalars=RCNN_SCALARS,
    ),
    Healthy("mask2former", set_prediction(10), MASK2FORMER, rate_factor=0.1),
    Healthy("mask2former-heads", set_prediction(10), MASK2FORMER),
    Healthy(
        "fine-tuned-from-coco", fine_tuned(), TUNED, scalars=RCNN_SCALARS, images=61, world_size=1
    ),
    Healthy(
        "one-image-per-batch",
        fine_tuned(),
        {**TUNED, "SOLVER.IMS_PER_BATCH": 1, "SOLVER.BASE_LR": 0.00125},
        scalars=RCNN_SCALARS,
        images=400,
        world_size=1,
    ),
    Healthy("tiny-data-set", fine_tuned(), TUNED, scalars=RCNN_SCALARS, images=8, world_size=1),
    Healthy(
        "resumed",
        rcnn(80, mask=True),
        {**FASTER, "MODEL.WEIGHTS": ""},
        first=1500,
        scalars=RCNN_SCALARS,
        world_size=8,
        log=["[Checkpointer] Loading from output/model_0001499.pth ..."],
    ),
    Healthy(
        "resumed-without-a-log", rcnn(80), {**FASTER, "MODEL.WEIGHTS": ""}, first=1500
    ),
    Healthy(
        "frozen-backbone",
        fine_tuned(),
        {**TUNED, "MODEL.BACKBONE.FREEZE_AT": 5},
        scalars=RCNN_SCALARS,
    ),
    Healthy(
        "cosine",
        rcnn(80),
        {**FASTER, "SOLVER.LR_SCHEDULER_NAME": "WarmupCosineLR", "SOLVER.STEPS": [30000]},
        scalars=RCNN_SCALARS,
    ),
    Healthy("vitdet", rcnn(80, mask=True), lazy=VITDET, scalars=RCNN_SCALARS),
    Healthy(
        "semantic-segmentation",
        {"loss_sem_seg": Curve(2.0, 0.4, 900)},
        {**FASTER, "MODEL.META_ARCHITECTURE": "SemanticSegmentor"},
    ),
    Healthy(
        "eight-gpus-by-two",
        rcnn(80),
        {
            **FASTER,
            "SOLVER.REFERENCE_WORLD_SIZE": 4,
            "SOLVER.IMS_PER_BATCH": 8,
            "SOLVER.BASE_LR": 0.01,
            "SOLVER.MAX_ITER": 6000,
            "SOLVER.STEPS": [4000, 5332],
            "SOLVER.WARMUP_ITERS": 200,
        },
        scalars=RCNN_SCALARS,
        world_size=8,
        images=20000,
        log=[
            "Auto-scaling the config to batch_size=16, learning_rate=0.02, max_iter=3000, "
            "warmup=100."
        ],
    ),
    Healthy(
        "evaluated-every-500",
        rcnn(80),
        FASTER,
        scalars=RCNN_SCALARS,
        evaluations=(4.0, 12.5, 18.0, 24.0, 27.5, 27.3),
    ),
    Healthy(
        "first-ap-not-a-number",
        rcnn(80),
        FASTER,
        scalars=RCNN_SCALARS,
        evaluations=(float("nan"), 2.5, 9.0, 14.0, 17.0, 17.5),
    ),
    Healthy(
        "no-ground-truth-to-evaluate", rcnn(80), FASTER, evaluations=(-1.0, -1.0, -1.0, -1.0)
    ),
    Healthy(
        "test-run-of-40",
        fine_tuned(),
        {**TUNED, "SOLVER.MAX_ITER": 40, "SOLVER.WARMUP_ITERS": 4},
        scalars=RCNN_SCALARS,
        world_size=1,
        images=61,
    ),
    Healthy(
        "test-run-of-40-in-the-default-warm-up",
        fine_tuned(),
        {**TUNED, "SOLVER.MAX_ITER": 40, "SOLVER.WARMUP_ITERS": 1000},
        scalars=RCNN_SCALARS,
        expected=frozenset({"schedule/warmup-unfinished"}),
    ),
    Healthy("without-warm-up", fine_tuned(), {**TUNED, "SOLVER.WARMUP_ITERS": 0}),
    Healthy(
        "first-minutes-of-a-long-one",
        rcnn(80),
        {**FASTER, "SOLVER.MAX_ITER": 90000, "SOLVER.STEPS": [60000, 80000],
         "TEST.EVAL_PERIOD": 5000, "SOLVER.WARMUP_ITERS": 1000},
        trained=400,
        scalars=RCNN_SCALARS,
        expected=frozenset({"ending/truncated"}),
    ),
    Healthy(
        "from-scratch-with-group-norm",
        rcnn(80, mask=True),
        {
            **FASTER,
            "MODEL.WEIGHTS": "",
            "MODEL.RESNETS.NORM": "GN",
            "MODEL.FPN.NORM": "GN",
            "MODEL.BACKBONE.FREEZE_AT": 0,
            "MODEL.PIXEL_STD": [57.375, 57.12, 58.395],
            "SOLVER.MAX_ITER": 6000,
            "SOLVER.STEPS": [4800, 5600],
        },
        scalars=RCNN_SCALARS,
    ),
    Healthy(
        "rows-of-every-iteration",
        fine_tuned(),
        {**TUNED, "SOLVER.MAX_ITER": 300, "SOLVER.WARMUP_ITERS": 30},
        period=1,
        scalars=RCNN_SCALARS,
    ),
    Healthy(
        "an-old-log-alone",
        rcnn(80),
        {**FASTER, "SOLVER.BASE_LR": 0.0001, "SOLVER.OPTIMIZER": "ADAMW"},
        log_only=True,
        world_size=8,
        images=20000,
    ),
    Healthy(
        "biases-at-twice-the-rate",
        rcnn(80),
        {**FASTER, "SOLVER.BIAS_LR_FACTOR": 2.0},
        rate_factor=2.0,
        scalars=RCNN_SCALARS,
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def rules():
    return load_rules()


def verdicts(folder: Path, training: Healthy, rules) -> tuple[Finding, ...]:
    (run,) = sources.read(write_output(folder, training))
    return judge(rules, run)


@pytest.mark.parametrize("training", TRAININGS, ids=[t.name for t in TRAININGS])
def test_a_sound_training_is_left_in_peace(training, rules, tmp_path):
    bad = [f for f in verdicts(tmp_path, training, rules) if f.verdict in BAD]
    told = {f.rule: f.message or f.reason for f in bad if not f.rule.startswith("loss/")}
    assert told.keys() == training.expected, told


def judged(training: Healthy, folder: Path, rules) -> dict[str, Finding]:
    return {f.rule: f for f in verdicts(folder, training, rules)}


def test_detectron2s_scaling_is_redone_for_every_rule(tmp_path):
    (training,) = [t for t in TRAININGS if t.name == "eight-gpus-by-two"]
    (run,) = sources.read(write_output(tmp_path, training))
    assert run.config is not None
    assert run.config.get("SOLVER.IMS_PER_BATCH") == 16
    assert run.config.get("SOLVER.STEPS") == [2000, 2666]
    assert run.facts["images_per_batch"] == 16
    assert run.planned_iterations == 3000


@pytest.mark.parametrize(("name", "rate"), [("RetinaNet", 0.00125), ("GeneralizedRCNN", 0.0025)])
def test_a_rate_too_high_is_mended_by_its_own_models_reference(name, rate, rules, tmp_path):
    changes = {"MODEL.META_ARCHITECTURE": name, "SOLVER.IMS_PER_BATCH": 2, "SOLVER.BASE_LR": 0.02}
    finding = judged(Healthy(name, rcnn(80), {**FASTER, **changes}), tmp_path, rules)[
        "schedule/lr-unscaled"
    ]
    assert finding.verdict is Verdict.WARN
    assert [o.proposed for fix in finding.fixes for o in fix.overrides] == [rate]


@pytest.mark.parametrize("name", ["mask2former", "vitdet"])
def test_nobody_tells_adam_of_the_linear_rule(name, rules, tmp_path):
    (training,) = [t for t in TRAININGS if t.name == name]
    finding = judged(training, tmp_path, rules)["schedule/lr-unscaled"]
    assert finding.verdict is Verdict.SKIP
    assert "SGD" in (finding.reason or "")
    assert finding.fixes == ()


def test_a_constant_factor_is_told_where_it_is_forgiven(rules, tmp_path):
    (training,) = [t for t in TRAININGS if t.name == "mask2former"]
    finding = judged(training, tmp_path, rules)["schedule/lr-not-as-configured"]
    assert "times 0.1" in finding.message
