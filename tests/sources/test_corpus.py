"""Excerpts of real trainings read as they were seen by eye. ORIGIN beside each names its source."""

from pathlib import Path

import pytest

from d2check import sources
from d2check.sources.metrics_json.rows import read_table

RUNS = Path(__file__).parents[1] / "runs"

# For each training: rows, (first, last, count) of the rows with losses, malformed lines, planned
# iterations, ending, its iteration, whether config.yaml belongs to it, kinds of events.
GOLD = {
    "broke-then-began-again": [
        (2, (18, 18, 1), 0, None, "truncated", 19, None, []),
        (13, (19, 2999, 12), 0, 3000, "finished", 2999, None, ["rows-missing"]),
    ],
    "config-of-the-last-start": [
        (3, (19, 59, 3), 0, 200000, "truncated", 59, False, []),
        (10, (19, 199, 10), 0, 200, "finished", 199, True, []),
    ],
    "crash-then-fresh-start": [
        (2, (17, 17, 1), 0, 100, "crashed", 18, True, []),
        (6, (19, 99, 5), 0, 100, "finished", 99, True, ["failed-start"]),
        (6, (19, 99, 5), 0, 100, "finished", 99, True, []),
    ],
    "crlf-with-nan": [
        (9, (19, 14999, 8), 0, 15000, "finished", 14999, None, ["rows-missing"]),
    ],
    "cut-off-early": [
        (13, (19, 239, 12), 0, 270000, "truncated", 239, True, []),
        (6, (19, 119, 6), 0, 270000, "truncated", 119, True, []),
    ],
    "no-eta": [
        (1, (19, 19, 1), 0, 148300, "truncated", 19, True, []),
    ],
    "nul-line": [
        (11, (119, 4979, 11), 1, None, "unknown", 4979, None, ["rows-missing"]),
        (2, (12, 12, 1), 0, None, "truncated", 13, None, []),
    ],
    "period-100-nine-starts": [
        (1, (0, 0, 1), 0, None, "unknown", 0, False, []),
        (1, (0, 0, 1), 0, None, "unknown", 0, False, []),
        (4, (99, 299, 3), 0, None, "unknown", 299, False, []),
        (6, (99, 387, 4), 0, None, "unknown", 387, False, []),
        (5, (99, 400, 5), 0, 60000, "truncated", 400, True, []),
        (1, (0, 0, 1), 0, 60000, "truncated", 0, True, []),
        (1, (0, 0, 1), 0, 60000, "truncated", 0, True, []),
        (1, (0, 0, 1), 0, 60000, "truncated", 0, True, []),
        (1, (0, 0, 1), 0, 60000, "truncated", 0, True, []),
    ],
    "rows-out-of-order": [
        (4, (19, 51, 3), 0, 180000, "truncated", 52, None, []),
        (5, (19, 31, 2), 0, 180000, "truncated", 32, None, ["failed-start"]),
        (3, (10, 10, 1), 0, None, "unknown", 10, None, []),
        (7, (19, 118, 6), 0, 180000, "truncated", 119, None, []),
        (2, (9, 9, 1), 0, None, "truncated", 10, None, []),
        (7, (19, 801, 6), 0, 180000, "truncated", 802, None, ["rows-missing"]),
        (7, (19, 113, 6), 0, 180000, "truncated", 114, None, []),
        (4, (19, 47, 3), 0, 180000, "truncated", 48, None, []),
        (7, (19, 75, 4), 0, 180000, "truncated", 75, None, ["failed-start"]),
    ],
    "seven-starts-with-resumes": [
        (7, (19, 5877, 6), 0, 18500, "truncated", 5878, None, ["rows-missing"]),
        (5, (5519, 15020, 4), 0, 37000, "truncated", 15021, None, ["resume", "rows-missing"]),
        (6, (15019, 31138, 5), 0, 37000, "truncated", 31139, None, ["resume", "rows-missing"]),
        (5, (31019, 41999, 5), 0, 111000, "truncated", 41999, None, ["resume", "rows-missing"]),
        (7, (19, 5606, 6), 0, 111000, "truncated", 5607, None, ["rows-missing"]),
        (6, (5019, 9652, 5), 0, 111000, "truncated", 9653, None, ["resume", "rows-missing"]),
        (5, (9019, 20059, 5), 0, 111000, "truncated", 20059, None, ["resume", "rows-missing"]),
    ],
    "stopped-off-the-beat": [
        (3, (19, 30, 2), 0, 80000, "truncated", 31, True, []),
    ],
    "two-rows-and-their-events": [
        (3, (19, 20, 2), 0, 12700, "truncated", 21, None, []),
    ],
    "two-runs-appended": [
        (10, (19, 199, 10), 0, 200, "finished", 199, None, []),
        (20, (19, 399, 20), 0, 400, "finished", 399, None, []),
    ],
}  # fmt: skip


def test_every_excerpt_of_metrics_has_its_gold():
    assert {path.parent.name for path in RUNS.glob("*/metrics.json")} == GOLD.keys()


def test_every_excerpt_names_its_origin_and_licence():
    for path in RUNS.glob("*/metrics.json"):
        origin = (path.parent / "ORIGIN").read_text()
        assert origin.startswith("https://github.com/")
        assert "licence" in origin


@pytest.mark.parametrize("name", GOLD)
def test_a_real_output_reads_as_it_was_seen(name):
    seen = []
    for run in sources.read(RUNS / name):
        loss = run.series["total_loss"]
        span = (int(loss.iterations[0]), int(loss.iterations[-1]), len(loss))
        fits = run.config.matches_run if run.config else None
        kinds = sorted({event.kind for event in run.events})
        seen.append((run.rows, span, run.malformed_lines, run.planned_iterations,
                     run.ending.kind.value, run.ending.iteration, fits, kinds))  # fmt: skip
    assert seen == GOLD[name]


@pytest.mark.parametrize("name", GOLD)
def test_every_row_of_a_real_output_belongs_to_one_run(name):
    path = RUNS / name / "metrics.json"
    with path.open("rb") as stream:
        rows = len(read_table(stream))
    assert sum(run.rows for run in sources.read(path)) == rows


def test_the_clock_of_an_event_file_goes_to_the_start_that_wrote_it():
    broken, after = sources.read(RUNS / "broke-then-began-again")
    assert "wall_s" in broken.series
    assert "wall_s" not in after.series


@pytest.mark.parametrize("name", GOLD)
def test_the_file_alone_never_says_other_than_its_folder(name):
    for alone, whole in zip(
        sources.read(RUNS / name / "metrics.json"), sources.read(RUNS / name), strict=True
    ):
        assert alone.config is None
        assert "name the output folder" in alone.absent["config"]
        assert alone.planned_iterations in (None, whole.planned_iterations)
        assert alone.ending.kind in (whole.ending.kind, type(alone.ending.kind).UNKNOWN)
        assert alone.series.keys() == whole.series.keys() - {"planned_lr", "wall_s"}
