"""What a config settles of a run's facts."""

from d2check.config.facts import config_facts
from d2check.model import Config


def test_facts_of_a_yacs_config():
    values = {
        "SOLVER.IMS_PER_BATCH": 2, "MODEL.META_ARCHITECTURE": "RetinaNet",
        "MODEL.RETINANET.NUM_CLASSES": 7, "MODEL.ROI_HEADS.NUM_CLASSES": 3, "SEED": 5,
        "DATALOADER.NUM_WORKERS": 0, "MODEL.DEVICE": "cpu", "SOLVER.AMP.ENABLED": True,
    }  # fmt: skip
    assert config_facts(Config("yacs", values)) == {
        "images_per_batch": 2, "workers": 0, "meta_architecture": "RetinaNet", "device": "cpu",
        "amp": True, "seed": 5, "classes": 7, "optimizer": "SGD",
    }  # fmt: skip


def test_facts_leave_out_what_a_config_does_not_settle():
    values = {"MODEL.META_ARCHITECTURE": "MaskFormer", "SEED": -1}
    facts = config_facts(Config("yacs", values, complete=True))
    assert "classes" not in facts
    assert "seed" not in facts


def test_facts_of_a_lazy_config():
    values = {
        "model._target_": "detectron2.modeling.GeneralizedRCNN", "model.roi_heads.num_classes": 80,
        "dataloader.train.total_batch_size": 16, "train.seed": -1, "train.amp.enabled": False,
    }  # fmt: skip
    assert config_facts(Config("lazy", values)) == {
        "images_per_batch": 16, "meta_architecture": "GeneralizedRCNN", "amp": False, "classes": 80,
    }  # fmt: skip


def test_a_part_of_a_config_settles_only_what_it_names():
    part = Config("yacs", {"MODEL.META_ARCHITECTURE": "GeneralizedRCNN"}, complete=False)
    assert config_facts(part) == {"meta_architecture": "GeneralizedRCNN"}


def test_the_optimizer_is_the_one_that_the_config_names():
    """Detectron2's own are SGD; projects choose by a key of their own, LazyConfigs by a class."""
    adamw = Config("yacs", {"SOLVER.OPTIMIZER": "AdamW"}, complete=False)
    assert config_facts(adamw)["optimizer"] == "ADAMW"
    lazy = Config("lazy", {"optimizer._target_": "torch.optim.AdamW"})
    assert config_facts(lazy)["optimizer"] == "ADAMW"
    assert "optimizer" not in config_facts(Config("yacs", {}, complete=False))
