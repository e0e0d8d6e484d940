from __future__ import annotations

import pytest

from d2check.checks.settings import batch_remainder, evaluations, invalid_steps, norm_batch


def test_a_trained_norm_sees_the_images_of_its_process():
    measured = norm_batch(16, [""], 8, backbone_norm="BN")
    assert measured.value == 2
    assert measured.extras["counted"] == "2 images"
    assert norm_batch(16, [""], 8, backbone_norm="SyncBN").value == 16


@pytest.mark.parametrize(
    ("norms", "backbone", "reason"),
    [
        ([""], "build_resnet_fpn_backbone", "no batch normalisation"),
        ([""], "D2SwinTransformer", "how D2SwinTransformer normalises"),
        ([], "D2SwinTransformer", "nothing tells"),
    ],
)
def test_the_setting_of_resnets_counts_for_resnets_only(norms, backbone, reason):
    own = "FrozenBN" if "resnet" in backbone else "BN"
    measured = norm_batch(2, norms, 1, backbone_norm=own, backbone=backbone)
    assert reason in (measured.undecided or "")


def test_steps_are_told_with_their_fault():
    assert invalid_steps([60, 80], 100).extras["given"] == "(60, 80)"
    assert invalid_steps([80, 60], 100).extras["fault"] == "out of order"
    assert invalid_steps([60, 200], 100).extras["fault"] == "1 of 2 at or past the planned end"
    assert invalid_steps([], 100).extras["given"] is None


def test_counts_of_one_are_singular():
    assert batch_remainder(8, 8).extras["per_process"] == "1 image"
    assert evaluations(50, ["val"], 100).extras["counted"] == "1 evaluation"
    assert evaluations(0, [], 100).extras["test_sets_in_words"] == "no test set"


def test_the_models_own_layers_count_before_the_config():
    assert norm_batch(2, ["GN"], 1, backbone="build_micro_backbone", batch_norms=3).value == 2
    pooled = norm_batch(16, [""], 8, batch_norms=0, sync_batch_norms=5)
    assert (pooled.value, pooled.extras["norm"]) == (16, "SyncBN")
    none = norm_batch(2, [""], 1, backbone_norm="BN", batch_norms=0, sync_batch_norms=0)
    assert none.value == float("inf")
