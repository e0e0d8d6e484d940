"""The phases in real trainings of the micro Mask R-CNN."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.training

WARM_UP = ["SOLVER.WARMUP_ITERS", "200", "SOLVER.STEPS", "()"]
PHASES = [{"name": "as-configured", "iterations": 4}, {"name": "ramp", "iterations": 6, "climb": 3}]


def test_the_ramp_uses_the_peak_rate_and_the_log_keeps_the_configured_one(train):
    ran = train(iterations=10, phases=PHASES, overrides=WARM_UP)
    assert ran.status == 0, ran.stderr
    assert [(p["name"], p["first_iteration"]) for p in ran.of("phase")] == [
        ("as-configured", 0),
        ("ramp", 4),
    ]
    rates = [record["scalars"]["lr"] for record in ran.of("iter")]
    configured = [0.005 * (0.001 + 0.999 * i / 200) for i in range(10)]
    assert rates == pytest.approx(configured, rel=1e-6)
    used = [record.get("lr_used") for record in ran.of("iter")]
    assert used[:4] == [None] * 4
    assert used[6:] == pytest.approx([0.005] * 4)
    assert configured[4] < used[4] < used[5] < 0.005
    assert ran.facts["lr_peak"] == pytest.approx(0.005)
    losses = [record["scalars"]["total_loss"] for record in ran.of("iter")]
    assert ran.facts["first_loss"] == sorted(losses[:5])[2]


def test_a_ramp_into_nan_is_a_result_and_no_crash(train):
    phases = [PHASES[0], {"name": "ramp", "iterations": 60, "climb": 2}]
    ran = train(iterations=64, phases=phases, overrides=[*WARM_UP, "SOLVER.BASE_LR", "5.0"])
    assert ran.status == 0, ran.stderr
    assert (ran.end["kind"], ran.end["reason"]) == ("stopped", "ramp")
    note = ran.notes("ramp-non-finite")[0]
    assert note["i"] == ran.of("iter")[-1]["i"] + 1
    assert len(note["batch_files"]) == 4


def test_no_ramp_where_the_rate_has_stood_at_its_peak(train):
    phases = [
        {"name": "as-configured", "iterations": 105},
        {"name": "ramp", "iterations": 50},
    ]
    small = ["SOLVER.IMS_PER_BATCH", "1", "SOLVER.WARMUP_ITERS", "1"]
    ran = train(iterations=155, phases=phases, overrides=small)
    assert ran.status == 0, ran.stderr
    assert [p["name"] for p in ran.of("phase")] == ["as-configured"]
    assert len(ran.of("iter")) == 105
    assert "near its peak for 100 iterations" in ran.notes("phase-skipped")[0]["message"]


def test_loading_is_measured_apart_and_the_training_sees_the_same_images(train, healthy):
    phases = [{"name": "loader", "iterations": 0}, {"name": "as-configured", "iterations": 3}]
    ran = train(iterations=3, phases=phases)
    assert ran.status == 0, ran.stderr
    assert 0 < ran.facts["alone_read_s_per_image"] < ran.facts["alone_load_s_per_image"]
    assert ran.facts["alone_load_cpu_s_per_image"] > 0
    losses = [record["scalars"]["total_loss"] for record in ran.of("iter")]
    assert losses == [record["scalars"]["total_loss"] for record in healthy.of("iter")[:3]]
