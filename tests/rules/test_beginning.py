"""What a model was before its first iteration."""

from __future__ import annotations

import pytest

from d2check.model import Event, Run
from d2check.rules.beginning import beginning

ZOO = (
    "detectron2://COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl"
)
BACKBONES = [
    "detectron2://ImageNetPretrained/MSRA/R-50.pkl",
    "detectron2://ImageNetPretrained/FAIR/X-101-32x8d.pkl",
    "detectron2://ImageNetPretrained/MAE/mae_pretrain_vit_base.pth?matching_heuristics=True",
    "swin_tiny_patch4_window7_224.pkl",
    "weights/swin_base_patch4_window12_384_22k.pkl",
    "detectron2://ImageNetPretrained/mvitv2/MViTv2_T_in1k.pyth",
    "dinov2_vits14_pretrain.pth",
    "C:\\models\\R-101.pkl",
]
WHOLE = [
    "output/model_final.pth",
    "./out/model_0089999.pth",
    "out\\model_best.pth",
    "detr-r50-e632da11.pth",
    "checkpoints/checkpoint_best.pth",
]


def a_run(**facts):
    events = facts.pop("events", ())
    return Run("out", facts=facts, events=events)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_by_its_name_leaves_a_new_model(name):
    assert beginning(a_run(), name).trained is False


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_model_by_its_name_was_trained(name):
    assert beginning(a_run(), name).trained is True


@pytest.mark.parametrize(("classes", "trained"), [(80, True), (3, False), (None, None)])
def test_a_model_of_the_zoo_was_trained_where_its_classes_fit(classes, trained):
    assert beginning(a_run(classes=classes), ZOO).trained is trained


def test_what_was_loaded_counts_more_than_the_name():
    whole = a_run(weights_total=320, weights_missing=0, weights_skipped=0)
    assert beginning(whole, "swin_tiny.pkl").trained is True
    head = a_run(weights_total=320, weights_missing=0, weights_skipped=4)
    assert beginning(head, "output/model_final.pth").trained is False
    backbone = a_run(weights_total=320, weights_missing=54, weights_skipped=0)
    assert beginning(backbone, "output/model_final.pth").trained is False


def test_a_few_missing_weights_of_unknown_names_tell_nothing():
    found = beginning(a_run(weights_total=320, weights_missing=2, weights_skipped=0), "a.pth")
    assert found.trained is None


def test_weights_that_a_log_names_as_lost_are_new():
    event = Event("skipped-weights", "sem_seg_head.predictor.class_embed.weight")
    found = beginning(a_run(weights="out/model_final.pth", events=(event,)), None)
    assert found.trained is False
    assert "class_embed" in found.told


def test_constants_that_a_log_names_as_missing_are_not_new_weights():
    event = Event("missing-weights", "criterion.empty_weight, pixel_mean")
    assert beginning(a_run(weights="out/model_final.pth", events=(event,)), None).trained is True


def test_what_the_log_says_was_loaded_counts_more_than_the_config():
    found = beginning(a_run(weights="out/model_0004999.pth"), "detectron2://x/R-50.pkl")
    assert found.trained is True
    assert "model_0004999.pth" in found.told


def test_no_weights_mean_a_new_model_only_where_it_is_detectron2s_own():
    assert beginning(a_run(meta_architecture="RetinaNet"), "").trained is False
    assert beginning(a_run(meta_architecture="OpenSetDetectorWithExamples"), "").trained is None
    assert beginning(a_run(meta_architecture="Mine", state_dicts_loaded=0), "").trained is False
    assert beginning(a_run(meta_architecture="RetinaNet", state_dicts_loaded=1), "").trained is None


def test_a_log_that_found_no_checkpoint_tells_of_a_new_model():
    event = Event("from-scratch", "no checkpoint was found, the weights are random")
    assert beginning(a_run(meta_architecture="Mine", events=(event,)), "").trained is False


def test_nothing_known_tells_nothing():
    assert beginning(a_run(), None).trained is None
    assert beginning(a_run(), "weights/foo.pth").trained is None
