"""The record format that the probe writes and the checker reads. Standard library only.

docs/run-folder.md describes every record. Both sides import this module: the probe as part of
its own package, the checker as `d2check.probe.wire`.
"""

import json
import math

SCHEMA = 1

PLAN_VARIABLE = "D2CHECK_PLAN"
PLAN = "plan.json"
MANIFEST = "manifest.json"
CONFIG = "config.yaml"
DATA_SET = "data-set.json"
RECORDS = "records.jsonl"
STDOUT = "stdout.log"
STDERR = "stderr.log"
STOP = "stop"
ENDING = "ending.json"
REPORT = "report.json"

TIME_KEYS = ("data_s", "forward_s", "backward_s", "optimizer_s", "hooks_s", "other_s")

# One encoder for all: json.dumps with options makes a new one for each record.
_STRICT = json.JSONEncoder(allow_nan=False, separators=(",", ":"))

_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def records_name(rank):
    # type: (int) -> str
    """The record file of one rank."""
    return RECORDS if rank == 0 else "records.rank%d.jsonl" % rank


def encode(record):
    # type: (dict) -> str
    """One line of strict JSON, newline included. Non-finite floats become words."""
    try:
        return _STRICT.encode(record) + "\n"
    except ValueError:
        return _STRICT.encode(_worded(record)) + "\n"


def decode(line):
    # type: (str) -> dict
    """The record of one line. Raises ValueError for a line that holds none."""
    record = json.loads(line)
    if not isinstance(record, dict) or "t" not in record:
        raise ValueError("not a record: %.80r" % (line,))
    return record


def number(value):
    # type: (object) -> float
    """A number of a record, with the words for NaN and infinities turned back."""
    if isinstance(value, str):
        return _WORDS[value]
    return float(value)  # type: ignore[arg-type]


def _worded(value):
    # type: (object) -> object
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if value != value else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, dict):
        return {key: _worded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_worded(item) for item in value]
    return value
