"""Memory by the size of a batch, batches as a loader draws them, and what comes of both."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2check.checks.batches.draws import DataSet, draw
from d2check.checks.batches.fit import Batches, PeakModel, fit_peaks
from d2check.checks.batches.forecast import Models, Observed, Planned, fit_models, forecast

CHOICE = {"kind": "shortest", "lengths": [640, 672, 704, 736, 768, 800], "range": False}
COCO = [{**CHOICE, "longest": 1333}]


def batches_of(count, seed=0, images=4.0):
    rng = np.random.default_rng(seed)
    pixels = rng.uniform(0.5e6, 1.1e6, count)
    objects = rng.poisson(28, count).astype(float)
    most = np.minimum(objects, rng.poisson(14, count))
    return Batches(np.full(count, images), pixels, objects, most)


def data_set(count=2000, seed=0, **changes):
    rng = np.random.default_rng(seed)
    tall = rng.random(count) < 0.3
    height = np.where(tall, 640, rng.integers(400, 500, count))
    width = np.where(tall, rng.integers(400, 500, count), 640)
    fields = {
        "height": height,
        "width": width,
        "objects": rng.poisson(7, count),
        "weight": np.ones(count),
        "transforms": COCO,
        "grouping": True,
        "divisibility": 32,
        **changes,
    }
    return DataSet(**fields)


# --------------------------------------------------------------------------- the fit


@settings(max_examples=60, deadline=None)
@given(
    base=st.floats(100, 5000),
    slope=st.floats(100, 2000),
    per_object=st.floats(0, 20),
    noise=st.floats(0, 30),
    seed=st.integers(0, 1000),
)
def test_a_known_model_is_found_within_its_own_interval(base, slope, per_object, noise, seed):
    seen = batches_of(120, seed)
    truth = np.array([base, 0.0, slope, per_object, 0.0])
    rng = np.random.default_rng(seed)
    model = fit_peaks(
        seen, seen.terms() @ truth + noise * rng.standard_normal(120), per_image=False
    )
    larger = Batches(*(np.array([one]) for one in (4.0, 1.2e6, 60.0, 20.0)))
    off = model.peak_mib(larger) - larger.terms() @ truth
    # Four standard errors, and a hundredth for what the choice of terms adds to them.
    assert abs(off[0]) <= 4 * model.error_mib(larger)[0] + 0.01 * model.peak_mib(larger)[0]
    assert (model.weights >= 0).all()


def test_no_weight_is_negative_where_least_squares_would_have_one():
    seen = batches_of(60)
    falling = 5000 - 3 * seen.objects + 1000 * seen.pixels * 4 / 1e6
    assert (fit_peaks(seen, falling, per_image=False).weights >= 0).all()


def test_single_outliers_move_nothing():
    seen = batches_of(100)
    peaks = 900 + 800 * seen.images * seen.pixels / 1e6
    peaks[[3, 50]] += 4000  # cuDNN trying its ways
    model = fit_peaks(seen, peaks, per_image=False)
    assert model.weights[:3] == pytest.approx([900, 0, 800], rel=0.01)


def test_images_are_told_from_what_is_always_there_by_trials_of_both():
    sizes = [(4, 0.3e6), (2, 1e6), (4, 0.6e6), (4, 1e6), (8, 1e6)]
    columns = np.array([(n, a, 5.0 * n, 5.0) for n, a in sizes]).T
    trials = Batches(*columns)
    peaks = 700 + 60 * trials.images + 900 * trials.images * trials.pixels / 1e6
    model = fit_peaks(trials, peaks, per_image=True, robust=False)
    sixteen = Batches(*(np.array([one]) for one in (16.0, 1e6, 80.0, 5.0)))
    assert model.peak_mib(sixteen) == pytest.approx([700 + 960 + 14400], rel=1e-6)


def test_too_few_rows_make_no_model():
    assert fit_peaks(batches_of(1), np.array([100.0]), per_image=False) is None
    assert fit_peaks(batches_of(0), np.array([]), per_image=False) is None


# --------------------------------------------------------------------------- the draws


def by_brute_force(data, size, batches, seed):
    """Batches of a loader: a permutation after the other, two buckets, as Detectron2 does it."""
    rng = np.random.default_rng(seed)
    buckets = [[], []]
    found = []
    while len(found) < batches:
        for index in rng.permutation(len(data.width)):
            wide = data.grouping and data.width[index] > data.height[index]
            buckets[int(wide)].append(index)
            if len(buckets[int(wide)]) == size:
                found.append(buckets[int(wide)])
                buckets[int(wide)] = []
    return np.array(found[:batches])


def test_probabilities_of_all_draws_are_one():
    assert draw(data_set(), 4, count=500).probability.sum() == pytest.approx(1)
    assert draw(data_set(grouping=False), 1, count=500).probability.sum() == pytest.approx(1)


@pytest.mark.parametrize("grouping", [True, False])
def test_draws_are_those_of_the_loader(grouping):
    data = data_set(grouping=grouping)
    drawn = draw(data, 4, count=20_000)
    theirs = by_brute_force(data, 4, 40_000, seed=3)
    objects = data.objects[theirs].sum(axis=1)
    for bound in np.quantile(objects, [0.1, 0.5, 0.9, 0.99]):
        ours = drawn.probability[drawn.batches.objects > bound].sum()
        assert ours == pytest.approx((objects > bound).mean(), abs=0.012)
    # One wide image among tall ones pads all of them; with grouping they never meet.
    square = 800 * 1344
    assert (drawn.batches.pixels > square).any() == (not grouping)


def test_what_a_single_image_makes_is_found_however_rare():
    data = data_set(20_000)
    data.objects[123] = 700
    drawn = draw(data, 4, count=20_000)
    crowded = (drawn.images == 123).any(axis=1)
    share = drawn.probability[crowded].sum()
    assert share == pytest.approx(4 / 20_000, rel=0.1)
    assert crowded.sum() > 100


def test_images_that_a_sampler_repeats_come_more_often():
    weight = np.ones(2000)
    weight[:20] = 10
    data = data_set(weight=weight)
    drawn = draw(data, 1)
    expected = 200 / 2180
    assert drawn.probability[drawn.images[:, 0] < 20].sum() == pytest.approx(expected, abs=0.01)


def test_no_image_meets_itself_in_a_batch():
    drawn = draw(data_set(100, grouping=False), 4)
    ordered = np.sort(drawn.images, axis=1)
    assert (np.diff(ordered, axis=1) > 0).all()


def test_a_data_set_smaller_than_a_batch_is_drawn_from_all_the_same():
    assert draw(data_set(3), 8, count=50).probability.sum() == pytest.approx(1)


def test_the_same_data_give_the_same_draws():
    first, second = draw(data_set(), 2, count=50), draw(data_set(), 2, count=50)
    assert np.array_equal(first.images, second.images)
    assert np.array_equal(first.batches.pixels, second.batches.pixels)


# --------------------------------------------------------------------------- the forecast

NONE = Batches(*np.zeros((4, 0)))
TRUTH = np.array([900.0, 40.0, 900.0, 6.0, 4.0])


def trials(truth=TRUTH, images=4, usual=7, most=60):
    area = 800 * 1344.0
    sizes = [
        (images, 0.24 * area, usual, usual),
        (images // 2, area, usual, usual),
        (images, 0.49 * area, usual, usual),
        (images, 0.49 * area, usual, most),
        (images, area, usual, usual),
        (images, area, usual, most),
        (images, area, most, most),
    ]
    columns = np.array([(n, a, m + (n - 1) * u, m) for n, a, u, m in sizes], float).T
    found = Batches(*columns)
    peaks = found.terms() @ truth
    return Observed(found, peaks, peaks * 1.02)


def rows(share_of_heads=0.7, count=200):
    """As configured: the heads have not all their foreground yet."""
    seen = batches_of(count)
    truth = TRUTH * [1, share_of_heads, 1, 1, 1]
    peaks = seen.terms() @ truth + 5 * np.random.default_rng(0).standard_normal(count)
    return Observed(seen, peaks, peaks * 1.05)


def test_what_will_happen_is_likely_and_what_cannot_is_not():
    models = fit_models(rows(), trials(), NONE)
    data = data_set()
    drawn = draw(data, 4)
    need = drawn.batches.terms() @ TRUTH
    for share, expected in ((0.9, 1.0), (1.2, 0.0)):
        planned = Planned(4, 90_000, share * need.max())
        told = forecast(models, data, planned, {})
        assert told["overflow_probability"] == pytest.approx(expected, abs=1e-6)
        assert told["overflow_probability_low"] <= told["overflow_probability"]
    assert told["memory_model_error"] < 0.05


def test_no_model_gainsays_what_was_tried():
    models = fit_models(rows(), trials(), NONE)
    data = data_set(objects=np.full(2000, 7))
    planned = Planned(4, 90_000, float(models.tried.reserved_mib.max()))
    assert forecast(models, data, planned, {})["overflow_probability"] == 0
    failed = Batches(*np.array([[4.0], [0.9e6], [8.0], [7.0]]))
    models = fit_models(rows(), trials(), failed)
    assert forecast(models, data, Planned(4, 90_000, 1e9), {})["overflow_probability"] > 0.99


def test_the_least_probability_counts_on_what_was_seen_only():
    models = fit_models(rows(share_of_heads=0.0), trials(TRUTH * [1, 10, 1, 1, 1]), NONE)
    data = data_set()
    with_heads = draw(data, 4).batches.terms() @ (TRUTH * [1, 10, 1, 1, 1])
    told = forecast(models, data, Planned(4, 10_000, 0.98 * with_heads.max()), {})
    assert told["overflow_probability"] > 0.99
    assert told["overflow_probability_low"] == 0


def test_a_rare_crowd_is_named_with_the_chance_that_it_comes():
    data = data_set(20_000)
    data.objects[123] = 900
    need = draw(data, 4).batches.terms() @ TRUTH
    calm = draw(data_set(20_000), 4).batches.terms() @ TRUTH
    available = (need.max() + calm.max()) / 2
    models = fit_models(rows(), trials(), NONE)
    told = forecast(models, data, Planned(4, 500, available), {123: "crowd.jpg"})
    # Its batch comes up 4 times in 20,000; whether it is over depends on the size that is drawn.
    assert 0.01 < told["overflow_probability"] < 500 * 4 / 20_000 * 1.2
    assert told["heaviest_images"].startswith("crowd.jpg (")
    assert "900 objects" in told["heaviest_images"]


def test_fewer_images_or_shorter_sides_are_proposed_as_measured():
    models = fit_models(rows(), trials(), NONE)
    data = data_set()
    need = {n: draw(data, n).batches.terms() @ TRUTH for n in (2, 3, 4)}
    between = (need[3].max() + need[4].max()) / 2
    told = forecast(models, data, Planned(4, 90_000, between), {})
    assert told["images_per_gpu_that_fit"] == 3
    assert told["longest_side_that_fits"] < 1333
    shorter = data.with_longest(told["longest_side_that_fits"])
    after = models.most_mib(draw(shorter, 4).batches)
    assert np.quantile(after, 0.999) < between


def test_nothing_is_proposed_where_not_even_one_image_fits():
    models = fit_models(rows(), trials(), NONE)
    told = forecast(models, data_set(), Planned(4, 1000, 1000.0), {})
    assert told["overflow_probability"] == pytest.approx(1)
    assert "images_per_gpu_that_fit" not in told


def test_without_trials_the_rows_speak_and_without_both_nothing():
    none = Observed(batches_of(0), np.array([]), np.array([]))
    models = fit_models(rows(), none, NONE)
    assert models.most is models.least
    assert models.gap_mib > 0
    assert fit_models(rows(count=10), none, NONE) is None


def test_the_highest_of_many_batches_is_foretold():
    """Against the highest of so many batches of a loader, for twenty trainings."""
    data, size, batches = data_set(), 4, 2_000
    weights = np.array([0.0, 0.0, 0.0, 0.0, 0.0])
    model = PeakModel(weights + np.eye(5)[3] * 1e3, np.zeros((5, 5)), 0.0, 100)
    fixed = data_set(transforms=[{"kind": "fixed", "size": [1000, 1000]}])
    told = forecast(
        Models(model, 0.0, None, Observed(NONE, np.array([]), np.array([])), NONE),
        fixed,
        Planned(size, batches, 1e9),
        {},
    )
    area = 1024 * 1024 / 1e6
    highest = [
        1e3 * area * data.objects[by_brute_force(fixed, size, batches, seed)].sum(axis=1).max()
        for seed in range(20)
    ]
    assert told["batch_peak_mib"] == pytest.approx(np.median(highest), rel=0.05)


def test_every_trial_counts_to_the_gap_of_the_allocator():
    some = trials()
    gap = fit_models(rows(), some, NONE).gap_mib
    assert gap == pytest.approx((some.reserved_mib - some.allocated_mib).max())
