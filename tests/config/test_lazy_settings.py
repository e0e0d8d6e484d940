"""A LazyConfig's settings by their yacs names, and back."""

from __future__ import annotations

import pytest

from d2check.config.lazy_settings import in_lazy_names, lazy_change, lazy_setting
from d2check.model import Config

FVCORE = "fvcore.common.param_scheduler."
WARMUP = "detectron2.solver.lr_scheduler.WarmupParamScheduler"


def lazy(**values):
    """Detectron2's 1x schedule in 45,000 iterations, and more by dotted names with `__`."""
    own = {
        "train.max_iter": 45000,
        "lr_multiplier._target_": WARMUP,
        "lr_multiplier.warmup_length": 1000 / 90000,
        "lr_multiplier.warmup_factor": 0.001,
        "lr_multiplier.scheduler._target_": FVCORE + "MultiStepParamScheduler",
        "lr_multiplier.scheduler.values": [1.0, 0.1, 0.01],
        "lr_multiplier.scheduler.milestones": [60000, 80000, 90000],
        **{name.replace("__", "."): value for name, value in values.items()},
    }
    return Config("lazy", {key: value for key, value in own.items() if value is not None})


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("SOLVER.MAX_ITER", 45000),
        ("SOLVER.WARMUP_ITERS", 500),  # a share of the training
        ("SOLVER.STEPS", [30000, 40000]),
        ("SOLVER.GAMMA", 0.1),
        ("SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR"),
        ("SOLVER.WEIGHT_DECAY_BIAS", None),
    ],
)
def test_the_schedule_is_told_in_iterations(key, expected):
    assert lazy_setting(lazy(), key) == expected


def test_milestones_may_count_to_a_number_of_their_own():
    config = lazy(
        lr_multiplier__scheduler__milestones=[163889, 177546],
        lr_multiplier__scheduler__num_updates=184375,
        train__max_iter=18437,
    )
    assert lazy_setting(config, "SOLVER.STEPS") == [16388, 17754]


def test_a_schedule_without_warm_up_has_none():
    bare = {"lr_multiplier__scheduler___target_": None, "lr_multiplier__warmup_length": None}
    target = FVCORE + "CosineParamScheduler"
    config = lazy(lr_multiplier___target_=target, **bare)
    assert lazy_setting(config, "SOLVER.WARMUP_ITERS") == 0
    assert lazy_setting(config, "SOLVER.LR_SCHEDULER_NAME") == "WarmupCosineLR"
    assert lazy_setting(config, "SOLVER.STEPS") is None


def test_a_scheduler_of_the_projects_own_is_not_known():
    config = lazy(lr_multiplier___target_="projects.mine.Schedule")
    for key in ("SOLVER.WARMUP_ITERS", "SOLVER.STEPS", "SOLVER.LR_SCHEDULER_NAME"):
        assert lazy_setting(config, key) is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"dataloader.test.dataset.names": "coco_2017_val"}, []),  # nothing evaluates it
        (
            {
                "dataloader.test.dataset.names": "coco_2017_val",
                "dataloader.evaluator._target_": "E",
            },
            ["coco_2017_val"],
        ),
    ],
)
def test_what_is_evaluated_needs_an_evaluator(values, expected):
    config = Config("lazy", {"dataloader.train.num_workers": 4, **values})
    assert lazy_setting(config, "DATASETS.TEST") == expected
    assert lazy_setting(Config("lazy", values), "DATASETS.TEST") is None  # a loader of its own


def test_pixels_are_those_of_model_and_mapper():
    config = Config(
        "lazy",
        {
            "model.pixel_std": [58.4, 57.1, 57.4],
            "dataloader.train.mapper.img_format": "RGB",  # detrex's name for it
        },
    )
    assert lazy_setting(config, "MODEL.PIXEL_STD") == [58.4, 57.1, 57.4]
    assert lazy_setting(config, "INPUT.FORMAT") == "RGB"
    change = lazy_change(config, "INPUT.FORMAT", "BGR")
    assert change == ("dataloader.train.mapper.img_format", "BGR")


@pytest.mark.parametrize(
    ("key", "value"),
    [("SOLVER.WARMUP_ITERS", 300), ("SOLVER.STEPS", [15000, 30000]), ("SOLVER.BASE_LR", 0.01)],
)
def test_a_change_means_what_was_asked_for(key, value):
    config = lazy()
    name, own = lazy_change(config, key, value)
    changed = Config("lazy", {**config.values, name: own})
    assert lazy_setting(changed, key) == value


def test_a_change_that_no_single_setting_makes_is_none():
    assert lazy_change(lazy(), "SOLVER.STEPS", [30000]) is None  # there are three values
    assert lazy_change(lazy(), "DATALOADER.SAMPLER_TRAIN", "TrainingSampler") is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("MODEL.WEIGHTS is empty.", "train.init_checkpoint is empty."),
        ("set TEST.EVAL_PERIOD, see a.B", "set train.eval_period, see a.B"),
        ("SOLVER.STEPS (60, 80)", "the milestones of lr_multiplier (60, 80)"),
        ("INPUT.CROP.ENABLED is on", "INPUT.CROP.ENABLED is on"),  # no setting of its own
    ],
)
def test_texts_are_told_in_the_configs_own_names(text, told):
    assert in_lazy_names(text) == told
