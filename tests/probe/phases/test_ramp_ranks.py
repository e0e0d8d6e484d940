"""The ramp where several processes train, and where the scaler leaves steps out."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from d2check.probe import taps, wire  # noqa: E402  (imports torch)
from d2check.probe.phases import ramp  # noqa: E402
from tests.conftest import PROBE, child_environment, run_child, write_plan  # noqa: E402

WARM_UP = ["SOLVER.WARMUP_ITERS", "200", "SOLVER.STEPS", "()", "SOLVER.IMS_PER_BATCH", "2"]
# The rates of every group at the moment of the step itself, and a trace of all weights after it.
SPY = """
import json, os, torch
step = torch.optim.SGD.step
told = open("rates-%s.jsonl" % os.environ["D2CHECK_RANK"], "w", buffering=1)

def spied(self, *arguments, **named):
    result = step(self, *arguments, **named)
    rates = [float(group["lr"]) for group in self.param_groups]
    weights = sum(float(p.double().abs().sum()) for g in self.param_groups for p in g["params"])
    told.write(json.dumps([rates, weights]) + "\\n")
    return result

torch.optim.SGD.step = spied
"""


def train_two_ranks(demo, cwd, overrides, phases, iterations):
    folder = cwd / "run"
    (cwd / "spy.py").write_text(SPY)
    setup = [str(demo / "demo_setup.py"), str(cwd / "spy.py")]
    plan = write_plan(
        folder,
        demo / "config.yaml",
        overrides=[*WARM_UP, *overrides],
        setup=setup,
        phases=phases,
        iterations=iterations,
    )
    plan["entry"]["num_gpus"] = 2
    (folder / wire.PLAN).write_text(json.dumps(plan))
    return run_child(folder, PROBE, cwd, child_environment(folder))


def records_of(ran, rank):
    lines = (ran.folder / wire.records_name(rank)).read_text().splitlines(keepends=True)
    return [wire.decode(line) for line in lines]


@pytest.mark.training
def test_all_ranks_raise_the_rates_of_all_groups_at_the_same_iterations(demo, tmp_path):
    phases = [
        {"name": "as-configured", "iterations": 3},
        {"name": "ramp", "iterations": 5, "climb": 3},
    ]
    ran = train_two_ranks(demo, tmp_path, ["SOLVER.BIAS_LR_FACTOR", "2.0"], phases, 8)
    assert ran.status == 0, ran.stderr
    one, other = (
        [json.loads(line) for line in (tmp_path / f"rates-{rank}.jsonl").read_text().splitlines()]
        for rank in (0, 1)
    )
    assert one == other  # rates by group, and weights that stayed in step
    assert len(one) == 8
    rates = [by_group for by_group, _ in one]
    assert len(set(rates[-1])) == 2
    assert sorted(set(rates[-1])) == pytest.approx([0.005, 0.01])
    assert max(rates[2]) < 0.001 < max(rates[3]) < max(rates[4]) < max(rates[5])
    used = [[r.get("lr_used") for r in records_of(ran, k) if r["t"] == "iter"] for k in (0, 1)]
    assert used[0] == used[1]


@pytest.mark.training
def test_a_ramp_into_nan_ends_all_ranks(demo, tmp_path):
    phases = [
        {"name": "as-configured", "iterations": 2},
        {"name": "ramp", "iterations": 60, "climb": 1},
    ]
    ran = train_two_ranks(demo, tmp_path, ["SOLVER.BASE_LR", "50.0"], phases, 62)
    assert ran.status == 0, ran.stderr
    assert (ran.end["kind"], ran.end["reason"]) == ("stopped", "ramp")
    assert ran.notes("ramp-non-finite")
    assert records_of(ran, 1)[-1]["t"] == "end"


def test_a_step_that_the_scaler_leaves_out_delays_no_climb():
    """Under AMP the scaler calls no `step` for gradients that are not finite."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.0)
    climb = ramp.climbing(optimizer, [0.8], climb=4)
    taps.tap_optimizer(optimizer, lambda code: None, climb.set_rates, climb.restore_rates)
    scaler = SimpleNamespace(step=lambda finite: optimizer.step() if finite else None)
    used = []
    for finite in (True, False, False, True, True):
        scaler.step(finite)
        used.append(climb.lr_used)
        assert optimizer.param_groups[0]["lr"] == 0.0
        climb.next()
    assert used == [pytest.approx(0.2), None, None, pytest.approx(0.8), pytest.approx(0.8)]


def test_a_step_that_breaks_leaves_the_schedulers_rates():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    optimizer.step = lambda: (_ for _ in ()).throw(RuntimeError("CUDA error"))
    climb = ramp.climbing(optimizer, [0.8], climb=1)
    taps.tap_optimizer(optimizer, lambda code: None, climb.set_rates, climb.restore_rates)
    with pytest.raises(RuntimeError, match="CUDA error"):
        optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 0.1
