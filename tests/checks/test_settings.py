from __future__ import annotations

import numpy as np
import pytest

from d2check.checks.settings import batch_remainder, evaluations, invalid_steps, norm_batch
from d2check.model import Series


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


def per_iteration(*values):
    return Series("n", np.arange(len(values)), np.array(values, float))


def test_the_images_that_a_process_was_given_count_before_the_config():
    seen = per_iteration(2, 2, 2, 1)  # the last batch of an epoch is smaller
    assert norm_batch(None, (), 4, batch_norms=3, batch_images=seen).value == 2
    assert norm_batch(64, (), 4, batch_norms=3, batch_images=seen).value == 2
    pooled = norm_batch(None, (), 4, batch_norms=0, sync_batch_norms=3, batch_images=seen)
    assert pooled.value == 8


def test_batches_whose_gradients_are_added_up_count_apart():
    seen, batches = per_iteration(8, 8, 8), per_iteration(4, 4, 4)
    found = norm_batch(None, (), 1, batch_norms=3, batch_images=seen, batches=batches)
    assert found.value == 2


def test_layers_without_a_batch_are_not_judged():
    assert "how many images" in (norm_batch(None, (), 1, batch_norms=3).undecided or "")
