"""Rows that are read many at once: the same as one by one, whatever stands among them."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2check.sources.log_txt import read_log_bytes
from d2check.sources.log_txt import reader as reader_module
from d2check.sources.log_txt.metric_line import LineParser
from d2check.sources.log_txt.table import table_of

HEADS = {
    "console": "[{stamp} d2.utils.events]:  ",
    "v0.1": "[{stamp} d2.utils.events]: ",
    "file": "[{stamp}] d2.utils.events INFO:  ",
    "none": " ",
}
TAILS = {
    "v0.1": "time: 0.3798  data_time: 0.0153  lr: 0.000020  max_mem: 2283M",
    "v0.6": "time: 0.3798  data_time: 0.0153  lr: 2e-05  max_mem: 2283M",
    "main": "  time: 0.3798  last_time: 0.3712  data_time: 0.0153  last_data_time: 0.0012   "
    "lr: 2e-05  max_mem: 2283M",
    "on a CPU": "time: 0.3798  data_time: 0.0153  lr: 2e-05  ",
}


def rows(count=40, head="console", tail="v0.6", first=19):
    lines = []
    for number in range(count):
        second = 7 * number
        stamp = (
            f"12/31 23:{50 + second // 60}:{second % 60:02d}" if second < 600 else "01/01 00:00:01"
        )
        left = 90000 - 8 * number
        days = "1 day, " if left >= 86400 else ""
        eta = f"{days}{left % 86400 // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"
        lines.append(
            HEADS[head].format(stamp=stamp)
            + f"eta: {eta}  iter: {first + 20 * number}  total_loss: {2 - number / 100:.4g}  "
            f"loss_cls: {1 - number / 70:.4g}  " + TAILS[tail]
        )
    return lines


def told(text):
    """All that reading gives, ready to be compared."""
    log = read_log_bytes(text.encode(), "log.txt")
    runs = []
    for one in log.segments:
        series = {
            name: (s.iterations.tolist(), np.nan_to_num(s.values, nan=-7.0).tolist(), s.window)
            for name, s in one.series.items()
        }
        runs.append((series, one.rows, one.first_line, one.last_line, one.events, one.ending(None)))
    return log.counts, log.malformed, runs


def one_by_one(text):
    """The same, without tables."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader_module, "table_of", lambda text, parser: None)
        return told(text)


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("head", HEADS)
def test_every_shape_is_read_at_once_as_it_is_line_by_line(head, tail):
    text = "\n".join(rows(head=head, tail=tail))
    assert table_of(text.encode(), LineParser()) is not None
    assert told(text) == one_by_one(text)
    assert told(text)[0].metric == 40


SPOILS = {
    "a letter in a number": ("loss_cls: 0.9", "loss_cls: x.9"),
    "a name of its own": ("loss_cls: 0.9", "loss_box: 0.9"),
    "an eta of another kind": ("0:5", "0x5"),
    "no unit of memory": ("2283M", "2283"),
    "two units": ("2283M", "2283MM"),
    "one more field": ("  time:", "  extra: 1  time:"),
    "a cut line": ("lr: 2e-05  max_mem: 2283M", "lr: 2e-"),
    "a warning between": ("  eta:", "  eta: 0:00:01  iter: 5  lr: 1  max_mem: 1M\nWARNING\n  eta:"),
    "an iteration twice": ("iter: 219", "iter: 199"),
    "a start over": ("iter: 219", "iter: 19"),
    "a stamp that is none": ("[12/31 23:5", "[99/99 23:5"),
}


@pytest.mark.parametrize(("old", "new"), SPOILS.values(), ids=SPOILS)
def test_a_line_that_differs_is_read_as_if_the_others_were_not_there(old, new):
    lines = rows()
    for at in (10, 11, 25):
        lines[at] = lines[at].replace(old, new, 1)
    text = "\n".join(lines)
    assert told(text) == one_by_one(text)


@settings(max_examples=60, deadline=None)
@given(
    st.randoms(use_true_random=False),
    st.sampled_from(sorted(HEADS)),
    st.sampled_from(sorted(TAILS)),
)
def test_what_stands_between_rows_changes_nothing(source: random.Random, head, tail):
    lines = rows(60, head, tail)
    between = [
        "hello", "", "\x00\x00", "> quoted", "Killed", lines[3], lines[0][:70], "a\rb",
        "[12/31 23:59:59 d2.evaluation.testing]: copypaste: Task: bbox",
        "[12/31 23:59:59 d2.engine.hooks]: Total training time: 0:01:40 (0:00:07 on hooks)",
    ]  # fmt: skip
    for _ in range(source.randrange(6)):
        lines.insert(source.randrange(len(lines)), source.choice(between))
    text = "\n".join(lines)
    assert told(text) == one_by_one(text)


def test_blocks_do_not_tear_rows():
    """Sixty thousand bytes are read at a time; the rows of two such blocks are all there."""
    text = "\n".join(rows(2000))
    counts, malformed, runs = told(text)
    assert counts.metric == 2000 and not malformed
    assert runs[0][0]["total_loss"][0] == list(range(19, 40019, 20))
