from __future__ import annotations

import math

import numpy as np
import pytest

from d2check.checks.weights import (
    from_scratch,
    lost_weights,
    pixel_statistics,
    scratch_images,
    untouched_groups,
)
from d2check.model import Event, Series

RECORDED = Series("total_s", np.arange(10), np.ones(10))
MSRA = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
X101 = "detectron2://ImageNetPretrained/FAIR/X-101-32x8d.pkl"


def test_skipped_weights_are_a_share_of_all():
    measured = lost_weights(320, 54, 4)
    assert measured.value == pytest.approx(4 / 320)
    assert measured.extras["missing_share"] == pytest.approx(54 / 320)
    assert lost_weights(0).undecided


def test_untouched_names_are_counted_over_all_notes():
    note = Event("untouched", "trainable, but unchanged after 9 iterations: a.bias, b, c, d, e")
    other = Event("untouched", "elsewhere: f")
    measured = untouched_groups((Event("oom", "x: y"), note, other), RECORDED)
    assert measured.value == 6
    assert measured.extras["names"] == "a.bias, b, c, d ..."
    assert measured.span == (0, 9)
    assert untouched_groups((), RECORDED).value == 0


def test_from_scratch_counts_the_images_that_are_shown():
    assert scratch_images("", 3000, 2).value == 6000
    assert scratch_images(MSRA, 3000, 2).value == math.inf


@pytest.mark.parametrize(
    ("freeze_at", "norm", "value"),
    [(2, "FrozenBN", 1), (2, "GN", 1), (0, "FrozenBN", 1), (0, "GN", 0), (None, None, 0)],
)
def test_frozen_parts_without_weights(freeze_at, norm, value):
    assert from_scratch("", freeze_at, norm).value == value
    assert from_scratch(MSRA, freeze_at, norm).value == 0


def test_a_checkpoint_that_the_log_names_counts_as_weights():
    assert from_scratch("", 2, "FrozenBN", checkpoint="out/model_0005.pth").value == 0
    measured = scratch_images("", 3000, 2, checkpoint="/data/out/model_0005.pth")
    assert measured.value == math.inf
    assert measured.extras["loaded_from"] == "out/model_0005.pth"


def test_a_resumed_training_does_not_tell_where_its_weights_came_from():
    assert "checkpoint" in (from_scratch("", 2, "FrozenBN", first_iteration=5019).undecided or "")
    assert scratch_images("", 3000, 2, first_iteration=5019).undecided
    assert scratch_images("", 3000, 2, first_iteration=19).value == 6000


@pytest.mark.parametrize(
    ("weights", "std", "order", "wrong"),
    [
        (MSRA, 1.0, "BGR", 0),
        (MSRA, 57.0, "BGR", 1),
        (MSRA, 1.0, "RGB", 1),
        (X101, 57.0, "BGR", 0),
        (X101, 1.0, "BGR", 1),
        ("torchvision/r50.pkl", 58.0, "RGB", 0),
        ("torchvision/r50.pkl", 1.0, "BGR", 1),
        ("", 58.0, "BGR", None),
        ("output/model_final.pth", 1.0, "BGR", None),
    ],
)
def test_pixels_fit_their_weights(weights, std, order, wrong):
    measured = pixel_statistics(weights, [std] * 3, [100.0] * 3, order)
    assert measured.value == wrong
    assert (measured.undecided is not None) == (wrong is None)


def test_a_log_tells_lost_weights_by_their_names():
    heads = "roi_heads.box_predictor.cls_score.weight, roi_heads.mask_head.predictor.bias"
    only_heads = lost_weights(events=(Event("skipped-weights", heads),))
    assert (only_heads.value, only_heads.extras["others_skipped"]) == (None, 0)
    blocks = "backbone.bottom_up.res4.0.conv1.weight, backbone.bottom_up.res4.1.conv1.weight"
    of_another_model = lost_weights(events=(Event("skipped-weights", blocks),))
    assert of_another_model.extras["others_skipped"] == 2
    pyramid = "backbone.fpn_lateral2.weight, backbone.bottom_up.res2.0.conv1.weight"
    missing = lost_weights(events=(Event("missing-weights", pyramid),))
    assert missing.extras["backbone_missing"] == 1
    assert not lost_weights(checkpoint="model_final.pth").undecided
    assert lost_weights().undecided


def test_a_projects_backbone_may_load_its_weights_itself():
    assert from_scratch("", 2, "FrozenBN", backbone="build_resnet_fpn_backbone").value == 1
    assert from_scratch("", 2, "FrozenBN", backbone="build_swin_fpn_backbone").undecided


@pytest.mark.parametrize(
    ("seen", "value", "words"),
    [
        ((0, 0, 0, 0), 0, None),
        ((53, 53, 11, 0), 1, "11 convolutions of the backbone and the statistics of 53 frozen"),
        ((53, 53, 0, 0), 1, "the statistics of 53 frozen norms"),
        ((53, 40, 11, 1), 0, None),  # folded into some of them: a checkpoint was loaded
        ((53, 40, 11, 0), 0, None),  # copied by hand
        ((0, 0, 11, 1), None, "past its config"),  # whatever was loaded may be these
        ((0, 0, 0, 3), 0, None),
    ],
)
def test_what_is_frozen_is_told_by_the_model_where_it_was_seen(seen, value, words):
    layers = dict(
        zip(
            ("frozen_norms", "identity_norms", "frozen_convolutions", "state_dicts_loaded"),
            seen,
            strict=True,
        )
    )
    measured = from_scratch("", 2, "FrozenBN", backbone="build_own", **layers)
    assert measured.value == value
    told = measured.undecided or measured.extras["frozen"]
    assert (words is None and told is None) or words in told


def test_a_model_of_a_project_is_not_judged_by_settings_it_may_not_use():
    assert from_scratch("", 2, "FrozenBN", meta_architecture="MaskFormer").undecided
    seen = from_scratch("", 2, "FrozenBN", meta_architecture="MaskFormer", state_dicts_loaded=0)
    assert seen.value == 0


def test_a_training_from_scratch_has_nothing_to_skip():
    assert "no checkpoint" in (lost_weights(weights="").undecided or "")


def test_a_script_without_a_config_is_judged_by_its_model():
    assert from_scratch(frozen_norms=4, identity_norms=4, state_dicts_loaded=0).value == 1
    loaded = from_scratch(frozen_norms=0, identity_norms=0, state_dicts_loaded=1)
    assert (loaded.value, loaded.extras["loaded_from"]) == (0, "by the model itself")


def test_a_torchvision_resnet_that_strides_in_its_1x1_does_not_fit():
    """Detectron2's default is that of the MSRA weights (tools/convert-torchvision-to-d2.py)."""
    given = ("torchvision/R-50.pkl", (1.0, 1.0, 1.0), (103.5, 116.3, 123.7), "BGR")
    resnet = "build_resnet_fpn_backbone"
    fits = [pixel_statistics(*given, None, stride, name).extras["stride_fits"]
            for stride, name in ((True, resnet), (False, resnet), (None, resnet),
                                 (True, "D2SwinTransformer"))]  # fmt: skip
    assert fits == ["no", "yes", "yes", "yes"]
