"""A change that a rule proposes ends the fault that it is for, and makes no other.

What a config alone tells is judged again with the change. A fault that only a training shows is
not: of those it is tested that the change makes no new fault of the config.
"""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path

import pytest

from d2check.config import keys
from d2check.config.load import load_config
from d2check.model import Verdict
from d2check.rules.examples import run_of
from d2check.rules.judge import judge_rule
from d2check.rules.load import load_rules
from tests.rules.config_judge import changed, rules_on_configs, wrong_in

PROPOSING = [
    pytest.param(rule, example, id=f"{rule.id}: {example.name}")
    for rule in load_rules()
    for example in rule.examples
    if example.proposes and example.config is not None
]
# Where a training diverges, a rate far below the linear rule may be what it takes.
MAY_WARN = {"schedule/lr-unscaled": ("loss/diverges", "loss/ruined-at-peak-lr", "loss/non-finite")}


def test_the_rules_on_configs_are_those_of_schedules_and_settings():
    ids = {rule.id for rule in rules_on_configs()}
    assert len(ids) >= 15
    assert {"config/steps-invalid", "schedule/lr-unscaled", "schedule/warmup-unfinished",
            "weights/pixel-statistics"} <= ids  # fmt: skip


@pytest.mark.parametrize(("rule", "example"), PROPOSING)
def test_the_change_of_an_example_makes_no_fault(rule, example):
    before = wrong_in(example.config, example.facts, complete=False)
    fixes = judge_rule(rule, run_of(rule, example)).finding.fixes
    for fix in (fix for fix in fixes if fix.overrides):
        after = wrong_in(changed(example.config, fix), example.facts, complete=False)
        assert rule.id not in after, fix.as_command_line()
        new = {one for one in after if one not in before or _worse(before[one], after[one])}
        new -= {
            one
            for one, causes in MAY_WARN.items()
            if rule.id in causes and one in after and after[one].verdict is Verdict.WARN
        }
        assert not new, f"{fix.as_command_line()}: {[after[one].message for one in new]}"


def _worse(before, after):
    return before.verdict is Verdict.WARN and after.verdict is Verdict.FAIL


def zoo():
    """Detectron2's model zoo, where Detectron2 is installed."""
    found = importlib.util.find_spec("detectron2")
    folders = found.submodule_search_locations if found else None
    folder = Path(next(iter(folders or ()), "")) / "model_zoo" / "configs"
    return sorted(folder.rglob("*.yaml")) if folders else []


def as_users_change_it(values, rng):
    """A config of the zoo with other batches, rates, lengths and weights than it was made for."""
    images, rate = rng.choice([1, 2, 3, 4, 8, 16]), values["SOLVER.BASE_LR"]
    return {
        **values,
        "SOLVER.IMS_PER_BATCH": images,
        "SOLVER.BASE_LR": rate * rng.choice([1, 0.1, 1, 4, images / 16]),
        "SOLVER.MAX_ITER": rng.choice([100, 300, 1000, 3000, 90000, values["SOLVER.MAX_ITER"]]),
        "SOLVER.WARMUP_ITERS": rng.choice([0, 100, 1000, 1000, 5000]),
        "SOLVER.WARMUP_FACTOR": rng.choice([0.001, 1.0, 0.001]),
        "SOLVER.STEPS": rng.choice(
            [values["SOLVER.STEPS"], (), (20000,), (100, 200), (5,), (210, 80)]
        ),
        "SOLVER.LR_SCHEDULER_NAME": rng.choice(["WarmupMultiStepLR"] * 3 + ["WarmupCosineLR"]),
        "TEST.EVAL_PERIOD": rng.choice([0, 5000]),
        "MODEL.WEIGHTS": rng.choice(
            [values["MODEL.WEIGHTS"], "", "detectron2://ImageNetPretrained/torchvision/R-50.pkl"]
        ),
    }


@pytest.mark.skipif(not zoo(), reason="the model zoo's configs come with Detectron2")
@pytest.mark.parametrize("seed", range(2))
def test_every_change_to_a_config_of_the_zoo_ends_its_fault_and_makes_no_other(seed):
    rng, tried = random.Random(seed), 0
    for path in zoo():
        values = as_users_change_it({**keys.defaults(), **load_config(path).values}, rng)
        facts = {"images": rng.choice([100, 5000, 117266]), "parameters": 44_000_000,
                 "world_size": rng.choice([1, 2, 4])}  # fmt: skip
        before = wrong_in(values, facts, complete=True)
        for rule, finding in before.items():
            for fix in (fix for fix in finding.fixes if fix.overrides):
                tried += 1
                after = wrong_in(changed(values, fix), facts, complete=True)
                where = f"{path.name}, {rule}: {fix.as_command_line()}"
                assert rule not in after, where
                new = [one for one in after
                       if one not in before or _worse(before[one], after[one])]  # fmt: skip
                assert not new, f"{where}: {[after[one].message for one in new]}"
    assert tried > 150
