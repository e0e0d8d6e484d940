"""The closed formulas against Detectron2's own schedulers, and what auto-scaling does."""

import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from d2check.config.facts import config_facts
from d2check.config.schedule import (
    ScheduleUnknown,
    for_world_size,
    formulas,
    planned_iterations,
    planned_lr,
)
from d2check.model import Config

torch = pytest.importorskip("torch")
detectron2_solver = pytest.importorskip("detectron2.solver")
fvcore_schedulers = pytest.importorskip("fvcore.common.param_scheduler")

EXACT = 1e-12  # relative; numpy's cosine may differ from math.cos in the last bit


def yacs(**solver):
    return Config("yacs", {f"SOLVER.{k}": v for k, v in solver.items()}, complete=False)


def optimizer(lr):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def rates_of(scheduler, optimizer, iterations):
    """What the LRScheduler hook logs: the rate of each iteration, then a step."""
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(iterations):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
    return rates


def detectron2_rates(solver):
    from detectron2.config import get_cfg

    cfg = get_cfg()
    for key, value in solver.items():
        setattr(cfg.SOLVER, key, tuple(value) if isinstance(value, list) else value)
    steps_on = optimizer(cfg.SOLVER.BASE_LR)
    scheduler = detectron2_solver.build_lr_scheduler(cfg, steps_on)
    return rates_of(scheduler, steps_on, cfg.SOLVER.MAX_ITER)


@st.composite
def solvers(draw, names=("WarmupMultiStepLR", "WarmupCosineLR")):
    length = draw(st.integers(2, 400))
    steps = draw(st.lists(st.integers(1, length + 50), max_size=4, unique=True))
    steps = sorted(s for s in steps if s != length)
    assume(length > len(steps) + 1)
    return {
        "LR_SCHEDULER_NAME": draw(st.sampled_from(names)),
        "BASE_LR": draw(st.floats(1e-6, 1.0)),
        "MAX_ITER": length,
        "STEPS": steps,
        "GAMMA": draw(st.sampled_from([0.1, 0.5, 0.333, 1.0])),
        "WARMUP_ITERS": draw(st.integers(0, 600)),
        "WARMUP_FACTOR": draw(st.sampled_from([1e-3, 1 / 3, 0.1, 1.0, 0.0])),
        "WARMUP_METHOD": draw(st.sampled_from(["linear", "constant"])),
    }


@settings(max_examples=60, deadline=None)
@given(solvers())
def test_planned_rate_is_that_of_the_installed_detectron2(solver):
    planned = planned_lr(yacs(**solver), np.arange(solver["MAX_ITER"]))
    np.testing.assert_allclose(planned, detectron2_rates(solver), rtol=EXACT, atol=0)


@settings(max_examples=40, deadline=None)
@given(solvers())
def test_old_formula_is_that_of_the_schedulers_before_v0_4(solver):
    """Those classes are still in detectron2.solver, where projects that kept them find them."""
    steps_on = optimizer(solver["BASE_LR"])
    warmup = {k.lower(): v for k, v in solver.items() if k.startswith("WARMUP")}
    if solver["LR_SCHEDULER_NAME"] == "WarmupMultiStepLR":
        old = detectron2_solver.lr_scheduler.WarmupMultiStepLR(
            steps_on, solver["STEPS"], solver["GAMMA"], **warmup
        )
    else:
        old = detectron2_solver.lr_scheduler.WarmupCosineLR(steps_on, solver["MAX_ITER"], **warmup)
    real = rates_of(old, steps_on, solver["MAX_ITER"])
    planned = planned_lr(yacs(**solver), np.arange(solver["MAX_ITER"]), formula="before-0.4")
    np.testing.assert_allclose(planned, real, rtol=EXACT, atol=1e-18)


def as_in_main(solver):
    """build_lr_scheduler and WarmupParamScheduler of Detectron2 main, from fvcore's parts."""
    fv, length = fvcore_schedulers, solver["MAX_ITER"]
    if solver["LR_SCHEDULER_NAME"] == "WarmupCosineLR":
        main = fv.CosineParamScheduler(1, solver["BASE_LR_END"] / solver["BASE_LR"])
    elif solver["LR_SCHEDULER_NAME"] == "WarmupStepWithFixedGammaLR":
        main = fv.StepWithFixedGammaParamScheduler(
            base_value=1.0,
            gamma=solver["GAMMA"],
            num_decays=solver["NUM_DECAYS"],
            num_updates=length,
        )
    else:
        steps = [s for s in solver["STEPS"] if s <= length]
        main = fv.MultiStepParamScheduler(
            [solver["GAMMA"] ** k for k in range(len(steps) + 1)], length, steps
        )
    warm = min(solver["WARMUP_ITERS"] / length, 1.0)
    rescale = solver["RESCALE_INTERVAL"]
    start = solver["WARMUP_FACTOR"] * main(0.0)
    end = main(0.0) if rescale else main(warm)
    linear = solver["WARMUP_METHOD"] == "linear"
    return fv.CompositeParamScheduler(
        [
            fv.LinearParamScheduler(start, end) if linear else fv.ConstantParamScheduler(start),
            main,
        ],
        interval_scaling=["rescaled", "rescaled" if rescale else "fixed"],
        lengths=[warm, 1 - warm],
    )


@settings(max_examples=60, deadline=None)
@given(
    solvers(("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR")),
    st.booleans(),
    st.floats(0, 1),
    st.integers(1, 6),
)
def test_planned_rate_follows_what_only_main_has(solver, rescale, end_share, decays):
    solver |= {
        "RESCALE_INTERVAL": rescale,
        "BASE_LR_END": solver["BASE_LR"] * end_share,
        "NUM_DECAYS": decays,
    }
    length = solver["MAX_ITER"]
    assume(solver["WARMUP_ITERS"] < length)
    real = as_in_main(solver)
    expected = [solver["BASE_LR"] * real(t / length) for t in range(length)]
    planned = planned_lr(yacs(**solver), np.arange(length))
    np.testing.assert_allclose(planned, expected, rtol=EXACT, atol=0)


def lazy(multiplier, lr=0.02, max_iter=200):
    values = {"train.max_iter": max_iter, "optimizer.lr": lr}

    def add(tree, prefix):
        for key, value in tree.items():
            if isinstance(value, dict):
                add(value, f"{prefix}{key}.")
            else:
                values[prefix + key] = value

    add(multiplier, "lr_multiplier.")
    return Config("lazy", values)


STOCK_1X = {
    "_target_": "detectron2.solver.lr_scheduler.WarmupParamScheduler",
    "scheduler": {
        "_target_": "fvcore.common.param_scheduler.MultiStepParamScheduler",
        "values": [1.0, 0.1, 0.01],
        "milestones": [60000, 80000, 90000],
    },
    "warmup_length": 1000 / 90000,
    "warmup_method": "linear",
    "warmup_factor": 0.001,
}


@pytest.mark.parametrize("max_iter", [200, 5000, 90000])
def test_lazy_multiplier_stretches_with_max_iter(max_iter):
    fv = fvcore_schedulers
    real = detectron2_solver.WarmupParamScheduler(
        fv.MultiStepParamScheduler([1.0, 0.1, 0.01], milestones=[60000, 80000, 90000]),
        warmup_factor=0.001,
        warmup_length=1000 / 90000,
        warmup_method="linear",
    )
    t = np.unique(np.linspace(0, max_iter - 1, 300).astype(int))
    expected = [0.02 * real(i / max_iter) for i in t]
    planned = planned_lr(lazy(STOCK_1X, max_iter=max_iter), t)
    np.testing.assert_allclose(planned, expected, rtol=EXACT)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("ConstantParamScheduler", {"value": 0.4}),
        ("LinearParamScheduler", {"start_value": 1.0, "end_value": 0.1}),
        ("CosineParamScheduler", {"start_value": 1.0, "end_value": 0.01}),
        ("ExponentialParamScheduler", {"start_value": 2.0, "decay": 0.02}),
        ("PolynomialDecayParamScheduler", {"base_value": 1.0, "power": 0.9}),
        ("StepParamScheduler", {"num_updates": 200, "values": [1.0, 0.5, 0.1]}),
        (
            "StepWithFixedGammaParamScheduler",
            {"base_value": 1.0, "num_decays": 3, "gamma": 0.3, "num_updates": 200},
        ),
        ("MultiStepParamScheduler", {"num_updates": 200, "values": [1.0, 0.1, 0.01]}),
        (
            "MultiStepParamScheduler",
            {"num_updates": 200, "values": [1.0, 0.1], "milestones": [150]},
        ),
    ],
)
def test_every_fvcore_scheduler_in_a_lazy_config(name, arguments):
    real = getattr(fvcore_schedulers, name)(**arguments)
    config = lazy({"_target_": f"fvcore.common.param_scheduler.{name}", **arguments}, lr=1.0)
    planned = planned_lr(config, np.arange(200))
    np.testing.assert_allclose(planned, [real(t / 200) for t in range(200)], rtol=EXACT)


def test_composite_scheduler_in_a_lazy_config():
    fv = fvcore_schedulers
    lengths, scaling = [0.25, 0.35, 0.4], ["rescaled", "fixed", "rescaled"]
    parts = [
        ("LinearParamScheduler", {"start_value": 0.0, "end_value": 1.0}),
        ("CosineParamScheduler", {"start_value": 1.0, "end_value": 0.2}),
        ("PolynomialDecayParamScheduler", {"base_value": 0.2, "power": 2.0}),
    ]
    real = fv.CompositeParamScheduler([getattr(fv, n)(**a) for n, a in parts], lengths[:], scaling)
    tree = {
        "_target_": "fvcore.common.param_scheduler.CompositeParamScheduler",
        "schedulers": [{"_target_": n, **a} for n, a in parts],
        "lengths": lengths,
        "interval_scaling": scaling,
    }
    planned = planned_lr(lazy(tree, lr=1.0), np.arange(200))
    np.testing.assert_allclose(planned, [real(t / 200) for t in range(200)], rtol=EXACT)


def test_the_users_line_is_linear_warmup_and_not_decay():
    """iter 59, lr 1.4985e-05: the default warm-up to 0.00025."""
    rate = planned_lr(yacs(BASE_LR=0.00025, MAX_ITER=10235, STEPS=[]), [59])
    assert f"{rate[0]:.5g}" == "1.4985e-05"


def test_poly_rate_of_the_deeplab_project():
    solver = {"LR_SCHEDULER_NAME": "WarmupPolyLR", "BASE_LR": 0.01, "MAX_ITER": 1000}
    solver |= {"WARMUP_ITERS": 0, "POLY_LR_POWER": 0.9, "POLY_LR_CONSTANT_ENDING": 0.1}
    planned = planned_lr(yacs(**solver), [0, 500, 999])
    np.testing.assert_allclose(planned, [0.01, 0.01 * 0.5**0.9, 0.001])


def test_a_long_run_steps_earlier_than_its_config_says():
    """Progress gets 1e-6 of the run added: at 3,000,000 iterations that is three of them."""
    planned = planned_lr(yacs(BASE_LR=1.0, MAX_ITER=3_000_000, STEPS=[2_000_000]), [1_999_998])
    assert planned[0] == pytest.approx(0.1)


def test_no_rate_is_planned_outside_the_run():
    planned = planned_lr(yacs(MAX_ITER=100, STEPS=[], WARMUP_ITERS=0), [-1, 0, 100, 101])
    assert np.isnan(planned).tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    ("solver", "words"),
    [
        ({"LR_SCHEDULER_NAME": "MyLR"}, "MyLR"),
        ({"STEPS": [10, 100], "MAX_ITER": 100}, "refuses steps"),
        ({"STEPS": [20, 10], "MAX_ITER": 100}, "refuses steps"),
        ({"STEPS": "abc"}, "SOLVER.STEPS"),
        ({"BASE_LR": "fast"}, "SOLVER.BASE_LR"),
        ({"MAX_ITER": "long"}, "how many iterations"),
        ({"WARMUP_METHOD": "exp"}, "warm-up method"),
        ({"LR_SCHEDULER_NAME": "WarmupCosineLR", "BASE_LR_END": 1.0}, "BASE_LR_END"),
        (
            {"LR_SCHEDULER_NAME": "WarmupStepWithFixedGammaLR", "WARMUP_ITERS": 9, "MAX_ITER": 9},
            "warm-up as long",
        ),
    ],
)
def test_a_schedule_that_cannot_be_told_says_why(solver, words):
    with pytest.raises(ScheduleUnknown, match=words):
        planned_lr(yacs(**solver), [0, 1])


@pytest.mark.parametrize(
    "multiplier",
    [
        {},
        {"_target_": "my.Scheduler"},
        {"_target_": "MultiStepParamScheduler", "values": "${x}", "milestones": [1]},
        {"_target_": "WarmupParamScheduler", "scheduler": "${y}", "warmup_length": 0.1},
    ],
)
def test_a_lazy_schedule_that_cannot_be_told_says_why(multiplier):
    with pytest.raises(ScheduleUnknown):
        planned_lr(lazy(multiplier), [0, 1])


def test_a_dump_older_than_v0_4_gets_the_old_formula_first():
    old = Config("yacs", {"MODEL.RPN.HEAD_NAME": "StandardRPNHead"}, complete=True)
    new = Config("yacs", {**old.values, "MODEL.RPN.CONV_DIMS": [-1]}, complete=True)
    assert formulas(old)[0] == "before-0.4"
    assert formulas(new)[0] == "current"


@settings(max_examples=30, deadline=None)
@given(solvers(), st.sampled_from([1, 2, 4, 8]), st.sampled_from([0, 1, 2, 8, 16]))
def test_auto_scaling_does_what_default_trainer_does(solver, reference, world_size):
    from detectron2.config import get_cfg
    from detectron2.engine import DefaultTrainer

    solver |= {"REFERENCE_WORLD_SIZE": reference, "IMS_PER_BATCH": 16, "CHECKPOINT_PERIOD": 5000}
    cfg = get_cfg()
    for key, value in solver.items():
        setattr(cfg.SOLVER, key, tuple(value) if isinstance(value, list) else value)
    config = Config("yacs", {**yacs(**solver).values, "TEST.EVAL_PERIOD": 0}, complete=False)
    scaled = for_world_size(config, world_size)
    real = DefaultTrainer.auto_scale_workers(cfg, world_size or reference)
    for key in config.values:
        section, name = key.split(".")
        value = getattr(getattr(real, section), name)
        assert scaled.values[key] == (list(value) if isinstance(value, tuple) else value), key


def test_auto_scaling_changes_the_facts():
    config = yacs(REFERENCE_WORLD_SIZE=8, IMS_PER_BATCH=16, BASE_LR=0.02, MAX_ITER=90000)
    facts = config_facts(config, world_size=2)
    assert facts["images_per_batch"] == 4
    assert facts["world_size"] == 2
    assert planned_iterations(for_world_size(config, 2)) == 360000


def test_a_batch_that_the_reference_does_not_divide_is_left_alone():
    config = yacs(REFERENCE_WORLD_SIZE=8, IMS_PER_BATCH=12)
    assert for_world_size(config, 2) == config
