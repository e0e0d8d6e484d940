"""Whether the host's memory holds."""

import numpy as np
import pytest

from d2check.checks.host import copied_memory, host_growth, host_headroom
from d2check.model import Series


def looks(name, *values):
    return Series(name, np.arange(len(values)) * 10, np.array(values, float), 10)


def test_the_moment_with_the_least_memory_counts():
    measured = host_headroom(looks("free", 9000, 400, 8000), 16000, looks("family", 2048, 5120))
    assert measured.value == pytest.approx(0.025)
    assert measured.extras["family_gib"] == 5
    assert host_headroom(looks("free", 900, 900, 900), 1000).extras["family_gib"] is None


def test_two_looks_are_too_few():
    assert host_headroom(looks("free", 1, 1), 16000).undecided


def noisy(values, mib=2.0, seed=2):
    values = np.asarray(values, float)
    return values + mib * np.random.default_rng(seed).standard_normal(len(values))


def trainer(values):
    return Series("rss_mib", np.arange(len(values)), noisy(values))


def workers(values, sets=None):
    """What they hold, and of which workers that is."""
    return looks("workers_mib", *values), looks("worker_set", *(sets or [1] * len(values)))


RESTING = trainer(np.full(300, 900.0))


def test_the_first_third_does_not_count():
    found = host_growth(trainer(np.r_[np.linspace(500, 900, 90), np.full(210, 900.0)]))
    assert abs(found.extras["rise_mib"]) < 3
    assert found.extras["watched"] == "the trainer"


def test_a_leak_is_laid_to_those_that_grow():
    leak = np.linspace(0, 400, 30)
    found = host_growth(RESTING, *workers(noisy(1800 + leak)))
    assert found.extras["who"] == "the loader's workers"
    assert found.value == pytest.approx(1000 * 400 / 290, rel=0.05)
    found = host_growth(trainer(np.linspace(900, 1300, 300)), *workers(noisy(np.full(30, 1800.0))))
    assert (found.extras["who"], found.extras["of_workers"]) == ("the trainer", 0)
    assert found.extras["watched"] == "the trainer and the loader's workers"


def test_a_noisy_trainer_hides_no_leak_of_the_workers():
    swings = Series("rss_mib", np.arange(300), noisy(np.linspace(900, 1100, 300), mib=300))
    assert host_growth(swings, *workers(1800 + np.linspace(0, 40, 30))).extras["of_workers"] == 1


def test_looks_may_come_at_uneven_iterations():
    at = np.r_[np.arange(20, 60, 5), np.arange(110, 300, 9)]
    held = Series("workers_mib", at, noisy(1800 + 1.2 * at), 1)
    found = host_growth(RESTING, held, Series("worker_set", at, np.ones(len(at)), 1))
    assert found.value == pytest.approx(1200, rel=0.05)
    assert found.extras["steady"] == pytest.approx(1, abs=0.1)


def test_other_workers_are_no_growth():
    held = workers(noisy([1800] * 14 + [2600] * 14), [1] * 14 + [2] * 14)
    assert abs(host_growth(RESTING, *held).extras["rise_mib"]) < 5


def test_too_few_looks_leave_the_workers_unwatched():
    found = host_growth(RESTING, *workers(1800 + np.linspace(0, 400, 13)))
    assert found.extras["watched"] == "the trainer"


def test_what_workers_copy_is_seen_where_pages_are_counted_once():
    family = looks("family_mib", *(2000 + np.linspace(0, 300, 30)))
    same = looks("family_processes", *[3] * 30)
    found = host_growth(RESTING, *workers([1800.0] * 30), family, same)
    assert found.extras["who"] == "the loader's workers"
    assert found.value == pytest.approx(1000 * 300 / 290, rel=0.1)


# Of trainings of the demo's detector without masks, 300 iterations with two workers (seeds 221 and
# 223): what the workers hold, MiB, by iteration. The first keeps 320 kB of every image that it
# loads; the second 800 kB of each of its 50 images, once.
LEAK = {
    22: 828,
    25: 832,
    103: 927,
    108: 933,
    112: 938,
    115: 941,
    120: 948,
    125: 954,
    131: 961,
    137: 968,
    143: 976,
    149: 982,
    154: 989,
    159: 995,
    168: 1007,
    173: 1012,
    178: 1018,
    184: 1026,
    189: 1032,
    199: 1044,
    211: 1059,
    225: 1076,
    235: 1088,
    245: 1100,
    255: 1112,
    265: 1125,
    276: 1139,
    287: 1152,
}
CACHE = {
    23: 848,
    27: 851,
    32: 855,
    36: 856,
    40: 857,
    45: 859,
    50: 859,
    55: 861,
    61: 861,
    67: 861,
    73: 862,
    79: 862,
    85: 862,
    107: 862,
    127: 862,
    143: 862,
    160: 862,
    179: 862,
    195: 862,
    207: 862,
    219: 862,
    232: 862,
    247: 862,
    260: 862,
    272: 862,
    284: 862,
    297: 862,
}


def recorded(held):
    at = np.array(list(held))
    values = np.array(list(held.values()), float)
    return Series("workers_mib", at, values, 1), Series("worker_set", at, np.ones(len(at)), 1)


def test_a_real_leak_of_two_workers_is_measured():
    found = host_growth(RESTING, *recorded(LEAK))
    assert found.extras["of_workers"] == 1
    assert found.value == pytest.approx(4 * 320_000 * 1000 / 2**20, rel=0.02)
    assert found.extras["steady"] == pytest.approx(1, abs=0.05)


def test_a_real_cache_of_a_small_data_set_is_full_in_time():
    assert host_growth(RESTING, *recorded(CACHE)).extras["rise_mib"] < 5


LARGE = {"images": 100_000, "images_per_batch": 16, "workers_per_process": 4, "world_size": 1}


def test_growth_of_a_first_pass_is_told_with_the_level_where_it_would_end():
    found = host_growth(RESTING, *workers(1800 + np.linspace(0, 290, 30)), **LARGE)
    assert found.extras["seen"] == pytest.approx(300 * 16 / 100_000 / 4)
    # 1 MiB an iteration is 1/16 of a MiB an image; four workers, 100,000 images each.
    assert found.extras["level_gib"] == pytest.approx(4 * 100_000 / 16 / 1024, rel=0.05)


def test_the_images_that_were_seen_count_before_those_of_the_config():
    given = Series("batch_images", np.arange(300), np.full(300, 4.0))
    more = {**LARGE, "world_size": 2}
    found = host_growth(
        RESTING, *workers(1800 + np.linspace(0, 290, 30)), **more, batch_images=given
    )
    assert found.extras["seen"] == pytest.approx(300 * 4 / 100_000 / 4)


def test_growth_of_a_first_pass_that_has_room_is_not_judged():
    free = looks("free", *[200 * 1024.0] * 30)
    held = workers(1800 + np.linspace(0, 290, 30))
    assert "for the first time" in (host_growth(RESTING, *held, **LARGE, free=free).undecided or "")
    small = looks("free", *[60 * 1024.0] * 30)
    found = host_growth(RESTING, *held, **LARGE, free=small, planned_iterations=90_000)
    assert found.extras["full_at"] is None  # by then no image is new
    small = looks("free", *[20 * 1024.0] * 30)
    found = host_growth(RESTING, *held, **LARGE, free=small, planned_iterations=90_000)
    assert found.extras["full_at"] == pytest.approx(290 + 20 * 1024, rel=0.05)


def test_growth_after_each_worker_has_had_most_images_is_a_leak():
    small = {**LARGE, "images": 50, "workers_per_process": 2}
    found = host_growth(RESTING, *workers(1800 + np.linspace(0, 290, 30)), **small)
    assert found.extras["seen"] is None
    assert found.extras["level_gib"] is None


def test_what_is_left_to_copy_is_measured_against_what_is_free():
    free = looks("free", 90_000, 50_000)
    found = copied_memory(60.0, 200, 10_000.0, free, 4)
    assert found.value == 300
    assert found.extras["of_free"] == pytest.approx(0.8)
    # The other processes of a training of several machines are elsewhere.
    assert copied_memory(60.0, 200, 10_000.0, free, 64).extras["of_free"] == pytest.approx(1.6)
    assert copied_memory(60.0, 20, 10_000.0, free).undecided
