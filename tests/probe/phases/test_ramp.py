"""The rate's climb: rates used, rates restored, and when there is no need for it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from d2check.probe.phases import ramp  # noqa: E402  (imports torch)


def optimizer_of(*rates):
    groups = [{"params": [torch.nn.Parameter(torch.ones(2))], "lr": rate} for rate in rates]
    return torch.optim.SGD(groups, lr=0.1)


def test_rates_climb_straight_to_the_peak_and_stay():
    optimizer = optimizer_of(0.0)
    climb = ramp.climbing(optimizer, [0.8], climb=4)
    used = []
    for _ in range(6):
        climb.set_rates()
        used.append(climb.lr_used)
        climb.restore_rates()
        climb.next()
    assert used == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])


def test_a_share_of_the_rates_follows_the_scheduler_step_by_step():
    optimizer = optimizer_of(0.01, 0.02)
    lower = ramp.at_share(optimizer, 0.1)
    used = []
    for rate in (0.01, 0.04):
        optimizer.param_groups[0]["lr"] = rate
        lower.set_rates()
        used.append([group["lr"] for group in optimizer.param_groups])
        lower.restore_rates()
        lower.next()
        assert optimizer.param_groups[0]["lr"] == rate
    assert used == [pytest.approx([0.001, 0.002]), pytest.approx([0.004, 0.002])]


def test_a_share_of_a_ramp_begins_and_ends_at_that_share():
    optimizer = optimizer_of(0.2)
    climb = ramp.climbing(optimizer, [1.0], climb=2, share=0.1)
    used = []
    for _ in range(3):
        climb.set_rates()
        used.append(climb.lr_used)
        climb.restore_rates()
        climb.next()
    assert used == pytest.approx([0.06, 0.1, 0.1])


def test_the_schedulers_rates_are_untouched_after_each_step():
    optimizer = optimizer_of(0.001, 0.002)
    climb = ramp.climbing(optimizer, [1.0, 2.0], climb=1)
    climb.set_rates()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1.0, 2.0])
    climb.restore_rates()
    assert [group["lr"] for group in optimizer.param_groups] == [0.001, 0.002]


def test_a_rate_that_is_a_tensor_stays_one():
    optimizer = optimizer_of(0.0)
    kept = optimizer.param_groups[0]["lr"] = torch.tensor(0.25)
    climb = ramp.climbing(optimizer, [1.0], climb=1)
    climb.set_rates()
    assert torch.equal(optimizer.param_groups[0]["lr"], torch.tensor(1.0))
    assert kept == 0.25
    climb.restore_rates()
    assert optimizer.param_groups[0]["lr"] is kept


def test_the_peak_is_that_of_the_whole_schedule():
    class Schedule:
        """Warm-up into a schedule that never gets above half of the base rate."""

        def _multiplier(self, share):
            return min(share * 10, 0.5)

    optimizer = optimizer_of(0.0005, 0.001)
    for group, base in zip(optimizer.param_groups, (0.1, 0.2), strict=True):
        group["initial_lr"] = base
    assert ramp.peak_rates(optimizer, Schedule()) == pytest.approx([0.05, 0.1])


def test_the_main_group_is_the_one_whose_rate_detectron2_logs():
    hooks = pytest.importorskip("detectron2.engine.hooks")
    # A group for each parameter, those of the backbone first, at a tenth of the rate.
    for rates in ((0.1, 0.1, 1.0, 1.0, 1.0), (0.1, 1.0), (0.5,)):
        groups = optimizer_of(*rates)
        assert ramp.main_group(groups.param_groups) == (
            hooks.LRScheduler.get_best_param_group_id(groups)
        )


def test_warm_up_makes_no_other_group_the_main_one():
    groups = optimizer_of(0.1, 1.0, 1.0).param_groups
    for group in groups:
        group["initial_lr"] = group["lr"]
        group["lr"] = 0.0
    assert ramp.main_group(groups) == 1


def test_without_a_known_schedule_the_initial_rate_is_the_peak():
    optimizer = optimizer_of(0.001)
    optimizer.param_groups[0]["initial_lr"] = 0.1
    assert ramp.peak_rates(optimizer, None) == [0.1]


def test_the_scheduler_of_a_hook_is_found():
    class LRScheduler:
        _scheduler = "the scheduler"

    class Trainer:
        _hooks = (object(), LRScheduler())

    assert ramp.find_scheduler(Trainer()) == "the scheduler"
