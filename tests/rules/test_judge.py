from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from d2check.model import Config, Ending, EndingKind, Measurement, Phase, Run, Series, Verdict
from d2check.rules.inputs import setting
from d2check.rules.judge import judge, judge_rule

from .conftest import RULE, run_with


def verdict(rule, run):
    return judge_rule(rule, run).finding.verdict


def reason(rule, run):
    finding = judge_rule(rule, run).finding
    assert finding.verdict is Verdict.SKIP
    return finding.reason


def measuring(rule, measurement):
    return replace(rule, measure=lambda series: measurement)


def test_the_thresholds_are_strict(rule):
    assert verdict(rule, run_with(10.0)) is Verdict.PASS
    assert verdict(rule, run_with(10.001)) is Verdict.FAIL


def test_a_finding_carries_the_number_and_the_words(rule):
    finding = judge_rule(rule, run_with(12.34)).finding
    assert (finding.value, finding.unit, finding.message) == (12.34, "units", "ended at 12.3")
    assert finding.extras["twice"] == pytest.approx(24.68)


def test_a_missing_series_is_a_skip_that_says_who_has_it(rule):
    assert "total_loss is not recorded" in reason(rule, Run("test"))


def test_losses_of_which_only_the_sum_is_there_are_told_as_such(load):
    rule = load(name=RULE.replace("series.total_loss}", "series.losses}"))[0]
    assert reason(rule, Run("test")) == "no losses are recorded"
    assert reason(rule, run_with(50)).startswith("only total_loss is recorded")


def test_what_a_training_that_never_began_lacks_is_told_by_that(rule):
    crashed = Ending(EndingKind.CRASHED, error="NameError", message="name 'x' is not defined")
    assert "before its first iteration" in reason(rule, Run("test", ending=crashed))


def test_the_sources_own_words_for_what_is_absent_come_first(rule):
    run = Run("test", absent={"total_loss": "the file holds evaluations only"})
    assert reason(rule, run) == "the file holds evaluations only"


def test_a_check_that_raises_is_an_error_and_the_others_go_on(load, rule):
    broken = load(other=RULE.replace("/name", "/other").replace("check: level", "check: broken"))
    findings = judge([*broken, rule], run_with(99.0))
    by_rule = {finding.rule: finding for finding in findings}
    assert by_rule["family/name"].verdict is Verdict.FAIL
    assert by_rule["family/other"].verdict is Verdict.ERROR
    assert "broken raised ZeroDivisionError: for the test" in by_rule["family/other"].reason


def test_a_check_that_returns_something_else_is_an_error(rule):
    assert verdict(measuring(rule, 3.0), run_with()) is Verdict.ERROR


def test_a_condition_on_something_not_measured_is_an_error(load):
    rule = load(name=RULE.replace("{above: 10}", "{of: gone, above: 10}"))[0]
    assert verdict(rule, run_with()) is Verdict.ERROR


def test_a_condition_on_an_unknown_extra_is_never_a_pass(load):
    rule = load(name=RULE.replace("{above: 10}", "{of: absent, above: 10}"))[0]
    assert "absent could not be measured" in reason(rule, run_with())


def test_undecided_by_the_check_is_a_skip_with_its_words(rule):
    assert (
        reason(measuring(rule, Measurement(99.0, undecided="too early")), run_with()) == "too early"
    )


def test_nan_from_finite_values_is_the_checks_bug(rule):
    assert verdict(measuring(rule, Measurement(float("nan"))), run_with()) is Verdict.ERROR


def test_nan_from_values_that_are_not_finite_is_a_skip(rule):
    nan = float("nan")
    assert "not all finite" in reason(measuring(rule, Measurement(nan)), run_with(nan))


def test_an_infinite_value_is_judged(rule):
    assert verdict(measuring(rule, Measurement(float("inf"))), run_with()) is Verdict.FAIL


def test_where_pass_is_given_the_rest_is_undecided(load):
    rule = load(name=RULE + 'pass: {below: 5}\nundecided: "{value:.0f} is neither"\n')[0]
    assert verdict(rule, run_with(1)) is Verdict.PASS
    assert reason(rule, run_with(7)) == "7 is neither"


@pytest.mark.parametrize(
    ("statistic", "expected"),
    [("raw", Verdict.FAIL), ("median", Verdict.PASS), ("mean", Verdict.SKIP)],
)
def test_a_threshold_may_depend_on_the_sampling(load, statistic, expected):
    rule = load(name=RULE.replace("{above: 10}", "{above: {raw: 10, median: 30}}"))[0]
    run = run_with(20)
    series = {name: replace(one, statistic=statistic) for name, one in run.series.items()}
    assert verdict(rule, replace(run, series=series)) is expected


def test_a_parameter_may_depend_on_the_sampling(load):
    rule = load(name=RULE + "with: {offset: {raw: 0, median: 100}}\n")[0]
    run = run_with(1)
    assert verdict(rule, run) is Verdict.PASS
    medians = {name: replace(one, statistic="median") for name, one in run.series.items()}
    assert verdict(rule, replace(run, series=medians)) is Verdict.FAIL
    means = {name: replace(one, statistic="mean") for name, one in run.series.items()}
    assert "needs the values of single iterations or medians" in reason(
        rule, replace(run, series=means)
    )


def test_a_rule_looks_at_its_phase_only(load):
    run = run_with(50, phases=(Phase("as-configured", 0, 3), Phase("ramp", 4, 4)))
    assert verdict(load(name=RULE)[0], run) is Verdict.PASS
    assert verdict(load(name=RULE + "phase: ramp\n")[0], run) is Verdict.FAIL
    # The rates of a ramp are not the config's: what happens there is no fault as configured.
    assert verdict(load(name=RULE + "phase: any\n")[0], run) is Verdict.PASS
    assert "no phase 'worst-batch'" in reason(load(name=RULE + "phase: worst-batch\n")[0], run)


def test_a_run_without_phases_is_judged_whole(rule):
    assert verdict(rule, run_with(50)) is Verdict.FAIL


@pytest.mark.parametrize(
    ("needs", "said"),
    [
        ("rows: {series: 6}", "5 rows are too few; it takes 6"),
        ("sampling: {series: [median]}", "recorded as raw values; this needs medians"),
        ("ending: [finished]", "needs finished"),
        ("config: matches", "config is not known"),
        ("that: [{holds: run.rows > 0, otherwise: an empty file}]", "an empty file"),
    ],
)
def test_an_unmet_need_is_a_skip_with_the_reason(load, needs, said):
    rule = load(name=RULE + f"needs: {{{needs}}}\n")[0]
    assert said in reason(rule, run_with(50))


def test_needs_that_are_met_change_nothing(load):
    rule = load(name=RULE + "needs: {rows: {series: 5}, ending: [finished], config: matches}\n")[0]
    run = run_with(50, ending=Ending(EndingKind.FINISHED), config=Config("yacs", {"A": 1}))
    assert verdict(rule, run) is Verdict.FAIL


def test_a_config_of_another_run_is_as_good_as_none(load):
    rule = load(name=RULE.replace("series.total_loss}", "series.planned_lr}"))[0]
    lr = Series("planned_lr", np.arange(5), np.full(5, 50.0))
    stale = Config("yacs", {"A": 1}, matches_run=False, mismatch="config.yaml is of a later start")
    run = Run("test", series={"planned_lr": lr}, config=stale)
    assert reason(rule, run) == "config.yaml is of a later start"
    assert verdict(rule, replace(run, config=replace(stale, matches_run=None))) is Verdict.FAIL


def test_a_glob_binds_all_that_match_and_losses_are_those_of_the_model(load, rule):
    seen = {}

    def check(series):
        seen.update(series)
        return Measurement(0.0)

    names = ["total_loss", "loss_cls", "loss_rpn_loc", "val_total_loss", "validation_loss", "lr",
             "loss_ce_0", "fast_rcnn/cls_accuracy"]  # fmt: skip
    one = Series("x", np.arange(3), np.ones(3))
    run = Run("test", series=dict.fromkeys(names, one))
    for name, expected in (
        ("losses", {"loss_cls", "loss_rpn_loc", "loss_ce_0"}),
        ("loss_r*", {"loss_rpn_loc"}),
    ):
        seen.clear()
        text = RULE.replace("series.total_loss}", f'"series.{name}"}}')
        judge_rule(replace(load(name=text)[0], measure=check), run)
        assert set(seen) == expected


def test_no_gpu_is_told_as_such(load):
    rule = load(name=RULE.replace("series.total_loss}", "series.peak_reserved_mib}"))[0]
    assert reason(rule, Run("test", facts={"device": "cpu"})) == "the training ran on the CPU"
    assert "only `d2check run` records it" in reason(rule, Run("test"))


def test_words_for_what_is_not_known_fall_back_to_the_next_message(load):
    text = RULE.replace(
        'message: "ended at {value:.1f}"',
        'message: ["{facts.images} images: {value:.1f}", "just {value:.1f}"]',
    )
    rule = load(name=text)[0]
    assert judge_rule(rule, run_with(20)).finding.message == "just 20.0"
    run = run_with(20, facts={"images": 7})
    assert judge_rule(rule, run).finding.message == "7 images: 20.0"


def test_a_message_with_an_unknown_name_says_so_and_does_not_crash(load):
    rule = load(name=RULE.replace("{value:.1f}", "{gone:.1f} {absent} {word:.1f}"))[0]
    judgement = judge_rule(rule, run_with(20))
    assert judgement.finding.message == "ended at unknown unknown odd"
    assert judgement.unworded == ("gone", "absent")


def test_what_is_not_known_to_be_false_is_no_obstacle(load):
    needs = "needs: {that: [{holds: facts.images > 5, otherwise: too few}]}\n"
    rule = load(name=RULE + needs)[0]
    assert verdict(rule, run_with(50)) is Verdict.FAIL
    assert reason(rule, run_with(50, facts={"images": 3})) == "too few"


def test_one_of_several_optional_inputs_is_needed(load):
    text = RULE.replace("series.total_loss}", '"series.max_mem?"}')
    rule = load(name=text + "needs: {one_of: [series]}\n")[0]
    assert "only log.txt" in reason(rule, Run("test"))


def test_the_first_source_that_is_there_is_taken(load):
    text = RULE.replace("series.total_loss}", "series.other or series.total_loss}")
    rule = load(name=text)[0]
    run = run_with(50)
    assert verdict(rule, run) is Verdict.FAIL
    other = Series("other", np.arange(5), np.ones(5))
    assert verdict(rule, replace(run, series={**run.series, "other": other})) is Verdict.PASS
    assert "other is not recorded" in reason(rule, Run("test"))


def test_a_list_of_sources_binds_those_that_are_there(load, rule):
    seen = []

    def check(series):
        seen.append(series)
        return Measurement(0.0)

    text = RULE.replace("series.total_loss}", '["config.SOLVER.BASE_LR?", "facts.images?"]}')
    reading = replace(load(name=text)[0], measure=check)
    judge_rule(reading, Run("test", facts={"images": 3}))
    judge_rule(reading, Run("test", config=Config("yacs", {"SOLVER.BASE_LR": 0.1})))
    assert seen == [(3,), (0.1,)]


@pytest.mark.parametrize(
    ("config", "value"),
    [
        (Config("yacs", {"SOLVER.BASE_LR": 0.02}), 0.02),
        (Config("yacs", {}, complete=False), 0.001),
        (Config("yacs", {}, complete=True), None),
        (Config("lazy", {"optimizer.lr": 0.3}), 0.3),
        (Config("lazy", {"SOLVER.BASE_LR": 0.3}), None),
        (Config("yacs", {"SOLVER.BASE_LR": 0.02}, matches_run=False), None),
        (None, None),
    ],
)
def test_a_setting_has_its_own_name_or_its_default(config, value):
    assert setting(Run("test", config=config), "SOLVER.BASE_LR") == value


def test_what_a_part_of_a_config_leaves_out_is_not_known():
    """A config.yaml with the solver's keys alone once warned of weights that it did not name."""
    part = Run("test", config=Config("yacs", {"SOLVER.MAX_ITER": 3000}, complete=False))
    assert setting(part, "MODEL.WEIGHTS") is None
    assert setting(part, "SOLVER.WARMUP_ITERS") == 1000


def test_misspelt_keys_are_read_from_the_config(load):
    text = RULE.replace("series.total_loss}", "run.misspelt_keys}")
    rule = replace(load(name=text)[0], measure=lambda series: Measurement(float(len(series))))
    run = Run("test", config=Config("yacs", {"SOLVER_STEPS": [1], "MY.KEY": 2}))
    assert judge_rule(rule, run).finding.value == 1
    assert reason(rule, Run("test")) == "the run's config is not known"
