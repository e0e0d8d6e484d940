"""Real outputs, whole, read as they were seen by hand. They are not part of the project.

Their licences let excerpts be kept here (tests/runs); the 33 outputs themselves are read from the
folder that D2CHECK_CORPUS names. Each value of the gold was compared with what grep, Python's json
and the eye found in the file: rows, where they begin again, lines that are lost, how it ended.
D2CHECK_RENEW_GOLD=1 writes it anew; look at every line that changes.
"""

import json
import os
import re
from pathlib import Path

import pytest

from d2check import sources
from d2check.errors import InputError
from d2check.sources.log_txt import read_log
from d2check.sources.metrics_json import read_metrics_json

CORPUS = Path(os.environ.get("D2CHECK_CORPUS") or "/nonexistent")
GOLD_FILE = Path(__file__).with_name("corpus_gold.jsonl")
GOLD = {row["path"]: row for row in map(json.loads, GOLD_FILE.read_text().splitlines())}

needs_corpus = pytest.mark.skipif(
    not CORPUS.is_dir(),
    reason="needs the real outputs, which are not part of the project: set D2CHECK_CORPUS to them",
)
ROW = re.compile(rb"iter: \d+  .*(?:loss|lr: )")
COLOUR = re.compile(rb"\x1b\[[0-9;]*m")


def paths(corpus: Path) -> list[str]:
    """Every output folder, and every file in it that tells of a training, as `index.jsonl` has."""
    found = []
    for line in (corpus / "index.jsonl").read_text().splitlines():
        one = json.loads(line)
        found.append(one["id"])
        found += [
            f"{one['id']}/{name}"
            for name in one["files"]
            if not name.startswith(("._", "config.yaml", "last_checkpoint"))
        ]
    return found


def seen(path: Path) -> dict[str, object]:
    """What the readers make of it: per training rows, span of losses, lost lines and ending."""
    try:
        runs = sources.read(path)
    except InputError as error:
        return {"error": error.found}
    told = []
    for run in runs:
        loss = run.series.get("total_loss")
        span = [int(loss.iterations[0]), int(loss.iterations[-1]), len(loss)] if loss else None
        told.append([run.rows, span, run.malformed_lines, run.ending.kind.value,
                     run.ending.iteration])  # fmt: skip
    return {"trainings": told}


@needs_corpus
@pytest.mark.skipif(not os.environ.get("D2CHECK_RENEW_GOLD"), reason="D2CHECK_RENEW_GOLD not set")
def test_the_gold_is_renewed():
    rows = [{"path": path} | seen(CORPUS / path) for path in paths(CORPUS)]
    GOLD_FILE.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert rows


def test_the_gold_has_every_output_with_its_trainings_or_its_error():
    assert len({path.partition("/")[0] for path in GOLD}) == 33
    for row in GOLD.values():
        assert row.get("trainings") or row.get("error")


@needs_corpus
def test_every_file_of_the_corpus_has_its_gold():
    assert GOLD.keys() == set(paths(CORPUS))


@needs_corpus
@pytest.mark.parametrize("path", GOLD)
def test_a_real_file_reads_as_it_was_seen(path):
    assert {"path": path} | seen(CORPUS / path) == GOLD[path]


@needs_corpus
@pytest.mark.parametrize("path", [p for p in GOLD if p.endswith("metrics.json")])
def test_rows_and_lost_lines_are_those_that_json_counts(path):
    lines = [line for line in (CORPUS / path).read_bytes().split(b"\n") if line.strip()]
    if not lines:
        pytest.skip("an empty file")
    whole = 0
    for line in lines:
        try:
            whole += "iteration" in json.loads(line)
        except ValueError:
            continue
    found = read_metrics_json(CORPUS / path)
    assert sum(segment.rows for segment in found.segments) == whole
    assert len(found.malformed) == len(lines) - whole


@needs_corpus
@pytest.mark.parametrize("path", [p for p in GOLD if ".txt" in p or p.endswith((".log", ".out"))])
def test_every_line_of_a_log_is_accounted_for_and_no_row_is_missed(path):
    data = COLOUR.sub(b"", (CORPUS / path).read_bytes())
    lines = data.split(b"\n")
    counts = read_log(CORPUS / path).counts
    assert counts.total == len(lines) - (lines[-1] == b"")
    # Rows of a terminal capture are broken over several lines, each of which is one of metrics.
    assert counts.metric >= sum(ROW.search(line) is not None for line in lines)
    assert counts.malformed == 0
