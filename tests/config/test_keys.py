"""Which keys are Detectron2's, and which one was meant."""

import json
import runpy
from pathlib import Path

import pytest

from d2check.config import keys
from d2check.model import Config

ROOT = Path(__file__).parents[2]

# As users wrote them (the first six in issues of Detectron2 and its users' threads).
MEANT = {
    "SOLVER_STEPS": "SOLVER.STEPS",
    "MODEL_WEIGHTS": "MODEL.WEIGHTS",
    "MIN_SIZE_TRAIN": "INPUT.MIN_SIZE_TRAIN",
    "BASE_LR": "SOLVER.BASE_LR",
    "NUM_CLASSES": "MODEL.ROI_HEADS.NUM_CLASSES",
    "SOLVER.MAX_ITERS": "SOLVER.MAX_ITER",
    "solver.base_lr": "SOLVER.BASE_LR",
    "SOLVER.WARMUP_ITER": "SOLVER.WARMUP_ITERS",
    "MODEL.MASKON": "MODEL.MASK_ON",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMG": "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE",
    "ROI_HEADS.NUM_CLASSES": "MODEL.ROI_HEADS.NUM_CLASSES",
    # Of public scripts.
    "SOLVER.BASE_LS": "SOLVER.BASE_LR",
    "SOLVER.CLIP_GRADIENTS.ENABLE": "SOLVER.CLIP_GRADIENTS.ENABLED",
    "TEST.DTECTIONS_PER_IMAGE": "TEST.DETECTIONS_PER_IMAGE",
    "DATALOADER.NUM_WORKRES": "DATALOADER.NUM_WORKERS",
}
HINTED = {
    "SOLVER.NUM_WORKERS": "DATALOADER.NUM_WORKERS",
    "SOLVER.LR": "SOLVER.BASE_LR",
    "DATALOADER.WORKERS": "DATALOADER.NUM_WORKERS",
    "DATASET.TRAIN": "DATASETS.TRAIN",
}
# Keys of real projects that resemble Detectron2's and mean something else.
FOREIGN = (
    "MODEL.BACKBONE.TYPE", "SOLVER.MODE", "SOLVER.BACKBONE_MULTIPLIER", "MODEL.SWIN.DEPTHS",
    "MODEL.MASK_FORMER.NUM_CLASSES", "INPUT.IMAGE_SIZE", "DATALOADER.SUP_PERCENT", "INPUT_DIR",
    "MODEL.RESNETS.NORM2", "DATASETS.VAL", "MODEL.FPN.NAME",
)  # fmt: skip


def unknown(*names, **kwargs):
    return keys.unknown_keys(Config("yacs", dict.fromkeys(names, 1)), **kwargs)


@pytest.mark.parametrize(("written", "meant"), MEANT.items())
def test_a_misspelt_key_is_told_with_the_one_that_was_meant(written, meant):
    (found,) = unknown(written)
    assert (found.nearest, found.misspelt) == (meant, True)


@pytest.mark.parametrize(("written", "meant"), HINTED.items())
def test_a_key_in_the_wrong_place_gets_a_hint_and_no_accusation(written, meant):
    (found,) = unknown(written)
    assert (found.nearest, found.misspelt) == (meant, False)


@pytest.mark.parametrize("name", FOREIGN)
def test_a_projects_own_key_is_not_called_misspelt(name):
    (found,) = unknown(name)
    assert not found.misspelt


def test_foreign_keys_are_grouped_by_the_section_that_is_foreign():
    names = ("MODEL.SWIN.DEPTHS", "MODEL.SWIN.APE", "SOLVER.MODE")
    assert [u.section for u in unknown(*names)] == ["MODEL.SWIN", "MODEL.SWIN", "SOLVER.MODE"]


def test_every_key_of_detectron2_and_its_projects_is_valid():
    table = json.loads((ROOT / "d2check/config/detectron2_keys.json").read_text())
    names = [*table["core"], *table["renamed"]]
    for added in table["projects"].values():
        names += [name.removesuffix(".*") for name in added]
    assert all(keys.is_valid(name) for name in names)
    assert unknown(*names) == ()


def test_keys_of_projects_can_be_asked_for_apart():
    assert keys.is_valid("MODEL.POINT_HEAD.NUM_CLASSES")
    assert not keys.is_valid("MODEL.POINT_HEAD.NUM_CLASSES", projects=False)
    assert unknown("MODEL.POINT_HEAD.NUM_CLASSES", projects=False) != ()


def test_sections_open_names_and_computed_keys_are_valid():
    assert keys.is_valid("SOLVER")
    assert keys.is_valid("DATASETS.CATEGORY_MAPS.my_dataset")
    assert unknown("MODEL.COMPUTED_STRIDE") == ()


def test_renamed_keys_are_valid_and_known_by_both_names():
    assert keys.is_valid("MODEL.WEIGHT")
    assert keys.renamed("MODEL.WEIGHT") == "MODEL.WEIGHTS"
    assert keys.nearest("MODEL.WEIGHT") == "MODEL.WEIGHTS"


def test_nothing_is_near_to_nonsense():
    assert keys.nearest("FOO") is None
    assert keys.nearest("QWERTY.ASDF") is None
    assert keys.nearest("") is None


def test_keys_know_the_version_that_brought_them():
    assert keys.since("SOLVER.BASE_LR") == "0.1"
    assert keys.since("MODEL.RPN.CONV_DIMS") == "0.4.1"
    assert keys.since("SOLVER.BASE_LR_END") == "main"
    assert keys.since("NO.SUCH") is None


def test_a_lazy_config_has_no_unknown_keys():
    assert keys.unknown_keys(Config("lazy", {"SOLVER_STEPS": 1, "train.whatever": 2})) == ()
    assert keys.lazy_name("SOLVER.BASE_LR") == "optimizer.lr"
    assert keys.lazy_name("SOLVER.STEPS") is None


def test_values_of_a_type_that_yacs_refuses_are_told():
    values = {
        "SOLVER.BASE_LR": 1, "SOLVER.STEPS": [1], "SOLVER.MAX_ITER": None, "MODEL.MASK_ON": "yes",
        "SOLVER.WEIGHT_DECAY_BIAS": 0.1,
        "MODEL.ANCHOR_GENERATOR.SIZES": "!!python/object/apply:eval",
    }  # fmt: skip
    found = keys.wrong_types(Config("yacs", values))
    assert [(w.key, w.expected) for w in found] == [
        ("SOLVER.BASE_LR", "float"), ("MODEL.MASK_ON", "bool"),
    ]  # fmt: skip


@pytest.mark.parametrize("value", [1, "yes", [1], 0.5])
def test_wrong_types_are_those_that_yacs_refuses(value):
    detectron2_config = pytest.importorskip("detectron2.config")
    for key in ("SOLVER.BASE_LR", "MODEL.MASK_ON", "SOLVER.STEPS", "OUTPUT_DIR", "SEED"):
        told = keys.wrong_types(Config("yacs", {key: value}))
        try:
            detectron2_config.get_cfg().merge_from_list([key, value])
        except ValueError:
            assert told, key
        else:
            assert not told, key


def test_the_table_agrees_with_the_installed_detectron2():
    pytest.importorskip("detectron2")
    script = runpy.run_path(str(ROOT / "ci" / "keys"))
    version, found = script["keys_of_installed"]()
    table = json.loads(script["TABLE"].read_text())
    assert script["differences"](table, version, found["core"]) == []


def test_the_check_of_the_table_sees_each_kind_of_difference():
    script = runpy.run_path(str(ROOT / "ci" / "keys"))
    table = {
        "versions": ["0.5", "0.6", "main"],
        "core": {
            "A": [1, "0.5", "main"], "B": [2, "main", "main"], "C": [None, "0.5", "main"],
            "D": [4, "0.5", "main"],
        },
        "former": {"0.5": {"C": 3}},
    }  # fmt: skip
    assert script["differences"](table, "0.5", {"A": 1, "C": 3, "D": 4}) == []
    assert script["differences"](table, "0.6", {"A": 1, "C": None, "D": 4}) == []
    told = script["differences"](table, "0.6", {"A": 0, "C": None, "E": 5})
    assert [line.split(":")[0] for line in told] == ["E", "D", "A"]
