from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2check.model import Config, Override, Run, Series, Verdict
from d2check.rules.expressions import compile_expression
from d2check.rules.fixes import NEEDS_CONFIG, compute, same
from d2check.rules.inputs import Scope
from d2check.rules.judge import judge
from d2check.rules.load import load_rules
from d2check.rules.model import FixTemplate

RUN = Run(
    "test",
    config=Config(
        "yacs",
        {"SOLVER.BASE_LR": 0.02, "SOLVER.IMS_PER_BATCH": 8, "SOLVER.STEPS": [60, 80]},
    ),
)


def made(overrides=None, *, run=RUN, when=None, action=None, **extras):
    template = FixTemplate(
        ("because of {value}",),
        overrides={k: compile_expression(v) for k, v in (overrides or {}).items()},
        action=action,
        when=compile_expression(when) if when else None,
    )
    return compute(template, run, Scope(run, 2.0, extras))


def test_overrides_belong_together_and_know_the_current_values():
    fix = made(
        {
            "SOLVER.IMS_PER_BATCH": "config.SOLVER.IMS_PER_BATCH / value",
            "SOLVER.BASE_LR": "config.SOLVER.BASE_LR / value",
        }
    )
    assert fix.overrides == (
        Override("SOLVER.IMS_PER_BATCH", 8, 4),
        Override("SOLVER.BASE_LR", 0.02, 0.01),
    )
    assert type(fix.overrides[0].proposed) is int
    assert fix.because == "because of 2"
    assert fix.as_command_line() == "SOLVER.IMS_PER_BATCH 4 SOLVER.BASE_LR 0.01"


def test_lists_are_scaled():
    fix = made({"SOLVER.STEPS": "steps_scaled(config.SOLVER.STEPS, 2)"})
    assert fix.overrides[0].proposed == (120, 160)


@pytest.mark.parametrize(
    "value", ["0.02", "config.SOLVER.BASE_LR * 1.009", "gone * 2", "value / 0", "1e308 * 1e308"]
)
def test_what_changes_nothing_or_cannot_be_computed_is_dropped(value):
    assert made({"SOLVER.BASE_LR": value}) is None


def test_of_several_overrides_only_the_changes_are_shown():
    fix = made({"SOLVER.BASE_LR": "0.01", "SOLVER.IMS_PER_BATCH": "8"})
    assert [override.key for override in fix.overrides] == ["SOLVER.BASE_LR"]


def test_when_decides():
    assert made({"SOLVER.BASE_LR": "0.01"}, when="value > 3") is None
    assert made({"SOLVER.BASE_LR": "0.01"}, when="gone > 3") is None
    assert made({"SOLVER.BASE_LR": "0.01"}, when="value > 1")


def test_an_action_is_worded_or_dropped():
    assert made(action="delete {path}", path="x.json").action == "delete x.json"
    assert made(action="delete {path}") is None


def test_without_a_config_the_current_value_is_not_known():
    fix = made({"SOLVER.BASE_LR": "rate / 10"}, run=Run("test"), rate=0.1)
    assert fix.overrides == (Override("SOLVER.BASE_LR", None, 0.01),)


def test_the_config_of_another_run_gives_no_numbers():
    stale = Run("test", config=Config("yacs", {"SOLVER.BASE_LR": 0.02}, matches_run=False))
    assert made({"SOLVER.BASE_LR": "config.SOLVER.BASE_LR / 2"}, run=stale) is None


@given(st.floats(1e-6, 1e6), st.floats(0.5, 2.0))
def test_numbers_within_a_hundredth_are_the_same(value, factor):
    assert same(value, value)
    if abs(factor - 1) > 0.0101:
        assert not same(value, value * factor)
    if abs(factor - 1) < 0.0099:
        assert same(value, value * factor)


def test_texts_booleans_and_lists_are_compared_as_such():
    assert same([1, 2], (1, 2))
    assert not same([1, 2], (1,))
    assert not same(False, True)
    assert same("GN", "GN")


def test_a_lazy_config_is_repaired_by_its_own_names():
    lazy = Run("test", config=Config("lazy", {"optimizer.lr": 0.02}))
    fix = made({"SOLVER.BASE_LR": "config.SOLVER.BASE_LR / 2"}, run=lazy)
    assert fix.overrides == (Override("optimizer.lr", 0.02, 0.01),)
    assert made({"SOLVER.WARMUP_ITERS": "30"}, run=lazy) is None


def test_a_warm_up_of_a_lazy_config_is_repaired_as_a_share():
    values = {
        "train.max_iter": 300,
        "lr_multiplier._target_": "detectron2.solver.WarmupParamScheduler",
        "lr_multiplier.warmup_length": 1.0,
        "lr_multiplier.scheduler._target_": "fvcore.common.param_scheduler.ConstantParamScheduler",
    }
    run = Run("test", config=Config("lazy", values))
    fix = made({"SOLVER.WARMUP_ITERS": "30"}, run=run)
    assert fix.as_command_line() == "lr_multiplier.warmup_length=0.1"
    assert fix.overrides[0].current == 1.0
    (rule,) = [rule for rule in load_rules() if rule.id == "schedule/warmup-unfinished"]
    assert judge([rule], run)[0].verdict is Verdict.WARN


def test_what_is_said_of_a_lazy_config_is_said_in_its_names():
    (rule,) = [rule for rule in load_rules() if rule.id == "weights/not-loaded"]
    facts = {
        "parameters": 50_000_000,
        "images_per_batch": 2,
        "meta_architecture": "GeneralizedRCNN",
    }
    values = {"train.init_checkpoint": "", "train.max_iter": 9000}
    (finding,) = judge([rule], Run("test", facts=facts, config=Config("lazy", values)))
    assert finding.verdict is Verdict.WARN
    assert "train.init_checkpoint is empty" in finding.why
    assert "Set train.init_checkpoint" in finding.fixes[0].action


def diverging(*, config):
    loss = Series("total_loss", np.arange(300), np.linspace(2, 9, 300))
    (rule,) = [r for r in load_rules() if r.id == "loss/diverges"]
    (finding,) = judge([rule], Run("log.txt", series={"total_loss": loss}, config=config))
    assert finding.verdict is Verdict.FAIL
    return finding.fixes


def test_without_a_config_the_one_advice_is_to_bring_it():
    assert diverging(config=None) == (NEEDS_CONFIG,)


def test_nobody_is_asked_for_a_config_that_is_there():
    assert NEEDS_CONFIG not in diverging(config=RUN.config)
