"""Mistakes in a schedule's numbers, told before anything trains."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2check.config.schedule_problems import problems
from d2check.model import Config


def yacs(**solver):
    solver = {"MAX_ITER": 1000, "STEPS": [500], "WARMUP_ITERS": 100, **solver}
    return Config("yacs", {f"SOLVER.{k}": v for k, v in solver.items()}, complete=False)


def kinds(**solver):
    return [problem.kind for problem in problems(yacs(**solver))]


def test_a_sound_schedule_has_no_problem():
    assert kinds() == []
    assert kinds(STEPS=[]) == []
    assert kinds(LR_SCHEDULER_NAME="WarmupCosineLR", BASE_LR_END=0.0) == []


@pytest.mark.parametrize(
    ("solver", "kind", "fatal", "proposed"),
    [
        ({"STEPS": [500, 1000]}, "step-at-end", True, [500]),
        ({"STEPS": [800, 500]}, "steps-unsorted", True, [500, 800]),
        ({"STEPS": [500, 500]}, "steps-unsorted", True, [500]),
        ({"STEPS": [0, 500]}, "step-not-positive", True, [500]),
        ({"STEPS": [500, 3000]}, "step-past-end", False, [500]),
        ({"STEPS": [50]}, "step-inside-warmup", False, None),
        ({"WARMUP_ITERS": 1000}, "warmup-longer-than-run", False, 100),
        ({"WARMUP_ITERS": 2000, "WARMUP_METHOD": "constant"}, "warmup-never-ends", False, 100),
        ({"WARMUP_METHOD": "exponential"}, "unknown-warmup", True, "linear"),
        ({"BASE_LR": 0.0}, "rate-not-positive", False, None),
        (
            {"LR_SCHEDULER_NAME": "WarmupCosineLR", "BASE_LR": 0.1, "BASE_LR_END": 0.2},
            "end-above-base",
            True,
            0.0,
        ),
        ({"LR_SCHEDULER_NAME": "WarmupStepWithFixedGammaLR"}, "decays-fail-at-end", True, None),
    ],
)
def test_each_mistake_is_told_with_what_mends_it(solver, kind, fatal, proposed):
    found = {problem.kind: problem for problem in problems(yacs(**solver))}
    assert kind in found
    assert found[kind].fatal is fatal
    assert found[kind].proposed == proposed


def test_inherited_steps_of_a_long_schedule_are_past_the_end_of_a_short_run():
    (problem,) = problems(yacs(MAX_ITER=2000, STEPS=[210000, 250000]))
    assert (problem.kind, problem.proposed, problem.limit) == ("step-past-end", [], 2000)


def test_fatal_mistakes_come_first():
    assert kinds(STEPS=[50, 1000]) == ["step-at-end", "step-inside-warmup"]


def test_settings_that_are_no_numbers_are_left_to_the_check_of_types():
    assert kinds(STEPS="abc", BASE_LR="fast", WARMUP_ITERS=None) == []
    assert kinds(MAX_ITER="long") == []
    assert kinds(LR_SCHEDULER_NAME="MyLR", STEPS=[2000]) == []
    assert problems(Config("lazy", {"train.max_iter": 100})) == ()


@settings(max_examples=80, deadline=None)
@given(
    st.integers(10, 200),
    st.lists(st.integers(-5, 250), max_size=4),
    st.integers(0, 300),
    st.sampled_from(["linear", "constant", "none"]),
    st.sampled_from(["WarmupMultiStepLR", "WarmupCosineLR"]),
    st.sampled_from([0.0, 0.02]),
)
def test_fatal_is_what_detectron2_stops_at(length, steps, warmup, method, name, base):
    torch = pytest.importorskip("torch")
    build = pytest.importorskip("detectron2.solver").build_lr_scheduler
    from detectron2.config import get_cfg

    solver = {
        "MAX_ITER": length, "STEPS": steps, "WARMUP_ITERS": warmup, "WARMUP_METHOD": method,
        "LR_SCHEDULER_NAME": name, "BASE_LR": base,
    }  # fmt: skip
    told = any(p.fatal for p in problems(yacs(**solver)) if p.kind != "rate-not-positive")
    cfg = get_cfg()
    for key, value in solver.items():
        setattr(cfg.SOLVER, key, tuple(value) if isinstance(value, list) else value)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    try:
        build(cfg, optimizer)
    except ValueError:
        assert told
    else:
        assert not told
