"""A training is ended early only by a failure of its loss that has held for several looks."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from d2check import sources
from d2check.looks import CERTAIN_AFTER, EVERY, FIRST, Held, Looks, deciding, next_look
from d2check.model import Verdict
from d2check.probe import wire
from d2check.rules.judge import judge_rule
from d2check.rules.load import load_rules


@pytest.fixture(scope="module")
def rules():
    return load_rules()


def records(loss, iterations=300, ramp_from=None):
    """What the probe writes of a training whose total loss is `loss(i)`."""
    noise = random.Random(3)
    facts = {"classes": 3, "weights_total": 320, "weights_missing": 54, "weights_skipped": 0}
    yield {"t": "begin", "rank": 0, "world_size": 1, "facts": facts}
    yield {"t": "phase", "name": "as-configured", "first_iteration": 0}
    for i in range(iterations):
        if i == ramp_from:
            yield {"t": "phase", "name": "ramp", "first_iteration": i}
        total = loss(i) * math.exp(noise.gauss(0, 0.1))
        scalars = {"total_loss": total if math.isfinite(total) else "NaN", "lr": 0.01}
        yield {"t": "iter", "i": i, "clock": float(i), "scalars": scalars}


def flat(_):
    return 2.0


def falling(i):
    return 0.5 + 2.0 * math.exp(-i / 60)


def exploding(i):
    return falling(min(i, 120)) * math.exp(max(0, i - 120) / 25)


def follow(rules, told, tmp_path, **clocks):
    looks = Looks(rules, sources.GrowingRun(tmp_path), **({"cost_s": lambda: 0.0} | clocks))
    return next(filter(None, map(looks.take, told)), None)


def test_a_loss_that_does_not_move_is_certain_before_the_end(rules, tmp_path):
    certain = follow(rules, records(flat), tmp_path)
    assert certain.rule == "loss/not-decreasing"
    assert certain.iterations < 150
    assert certain.looks == CERTAIN_AFTER["loss/not-decreasing"]
    assert certain.words() == f"loss/not-decreasing was certain (held for {certain.looks} looks)"


def test_a_loss_that_leaves_its_best_level_is_certain_soon(rules, tmp_path):
    certain = follow(rules, records(exploding), tmp_path)
    assert certain.rule == "loss/diverges"
    assert 120 < certain.iterations < 220


def test_a_loss_that_falls_so_far_is_certain_of_nothing(rules, tmp_path):
    assert follow(rules, records(falling, 500), tmp_path) is None


def test_a_rise_that_healthy_losses_may_show_at_first_ends_nothing(rules, tmp_path):
    """It fails at every look from some on, and the check goes on to its end."""

    def rising_once(i):
        return 1.0 if i < 40 else min(1.0 * math.exp((i - 40) / 60), 1.55)

    (rise,) = (rule for rule in rules if rule.id == "loss/diverges")
    growing = sources.GrowingRun(tmp_path)
    for record in records(rising_once, 120):
        growing.take(record)
    assert judge_rule(rise, sources.so_far(growing)).finding.verdict is Verdict.FAIL
    assert follow([rise], records(rising_once, 160), tmp_path) is None


def test_nan_needs_no_second_look(rules, tmp_path):
    certain = follow(rules, records(lambda i: math.nan if i == 7 else 2.0), tmp_path)
    assert (certain.rule, certain.iterations) == ("loss/non-finite", 8)
    assert certain.words() == "loss/non-finite was certain"


def test_what_a_ramp_does_to_the_loss_ends_nothing(rules, tmp_path):
    told = records(lambda i: falling(i) if i < 60 else 50.0, 200, ramp_from=60)
    assert follow(rules, told, tmp_path) is None


def test_rules_that_do_not_gate_end_nothing(rules, tmp_path):
    ignored = [replace(rule, ignored="we know") for rule in rules]
    on_trial = [replace(rule, status="trial") for rule in rules]
    assert deciding(ignored) == deciding(on_trial) == ()
    assert follow(ignored, records(flat), tmp_path) is None


def test_every_rule_that_may_end_a_run_is_in_the_catalogue(rules):
    assert {rule.id for rule in deciding(rules)} == set(CERTAIN_AFTER)


def test_looks_take_a_hundredth_of_the_time_at_most(rules, tmp_path):
    """Iterations of 10 ms and looks of 2 s: one in 200 s, so the first is the only one."""
    now = iter(range(10**6))
    spent = iter(range(0, 10**6, 2))
    seen = []

    class Growing(sources.GrowingRun):
        def run(self):
            seen.append(self.iterations)
            return super().run()

    looks = Looks(
        rules, Growing(tmp_path), clock_s=lambda: next(now) / 100, cost_s=lambda: float(next(spent))
    )
    assert not any(map(looks.take, records(flat)))
    assert seen == [FIRST]


def test_looks_grow_rarer_in_a_long_run():
    at, done = [], FIRST
    while done < 20_000:
        at.append(done)
        done = next_look(done)
    assert at[1] - at[0] == EVERY
    assert len(at) < 250


def test_the_probe_is_told_by_which_iteration_it_was_certain(rules, tmp_path):
    looks = Looks(rules, sources.GrowingRun(tmp_path), cost_s=lambda: 0.0)
    (certain,) = filter(None, map(looks.enough, records(flat)))
    assert certain["i"] == certain["done"] - 1
    assert certain["why"] == "loss/not-decreasing was certain (held for 6 looks)"


def test_a_failure_that_does_not_hold_starts_again():
    held = Held()
    rule = "loss/diverges"
    assert CERTAIN_AFTER[rule] > 2
    for failed in ([rule], [rule], [], [rule]):
        assert held.look(failed, 50, 49) is None


def test_a_garbled_record_is_passed_over(rules, tmp_path):
    looks = Looks(rules, sources.GrowingRun(tmp_path))
    assert looks.take({"t": "iter", "i": "three", "scalars": 7}) is None


def test_the_growing_run_is_the_one_that_is_read_afterwards(tmp_path):
    told = list(records(falling, 50))
    growing = sources.GrowingRun(tmp_path)
    for record in told:
        growing.take(record)
    (tmp_path / wire.RECORDS).write_text("".join(map(wire.encode, told)))
    (tmp_path / wire.PLAN).write_text("{}")
    (read,) = sources.read(tmp_path)
    now = sources.so_far(growing)
    assert now.facts == read.facts
    assert now.phases == read.phases
    assert set(now.series) == set(read.series)
    for name, series in now.series.items():
        assert series.values.tolist() == read.series[name].values.tolist()
