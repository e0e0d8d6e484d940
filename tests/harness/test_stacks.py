"""Where a training hung, by what `faulthandler` prints of its processes."""

from __future__ import annotations

import pytest

from d2check.harness.classify import Evidence, classify
from d2check.harness.stacks import stack_of

DUMP = """\
Fatal Python error: Aborted

Thread 0x00007f01 [loader] (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 320 in wait
  File "/usr/lib/python3.11/threading.py", line 975 in _bootstrap

Current thread 0x00007f02 (most recent call first):
  File "/e/lib/python3.11/site-packages/torch/utils/data/dataloader.py", line 1133 in _try_get_data
  File "/u/train.py", line 40 in main
  File "/u/train.py", line 50 in <module>

Extension modules: numpy.core (total: 1)
Fatal Python error: Aborted

Current thread 0x00007f03 (most recent call first):
  File "/usr/lib/python3.11/queue.py", line 5 in get
  File "/u/train.py", line 50 in <module>
""".splitlines()


def test_stack_of_a_hung_process_is_its_main_threads():
    stack = stack_of(DUMP)
    assert stack[0] == "/u/train.py:50 in <module>"
    assert stack[-1].endswith("dataloader.py:1133 in _try_get_data")
    assert len(stack) == 3


def test_hung_names_the_place_and_the_users_line_that_led_there():
    message = classify(Evidence(hung="no iteration ended for 61 s", stderr=DUMP)).message
    assert message is not None
    assert message.startswith("no iteration ended for 61 s; it was in /e/lib/python3.11/")
    assert message.endswith("in _try_get_data, called from /u/train.py:40 in main")


ENGINE = "/e/lib/python3.11/site-packages/detectron2/engine/train_loop.py"
LAUNCHER = """\
Fatal Python error: Aborted

Current thread 0x00007f01 (most recent call first):
  File "/e/lib/python3.11/site-packages/torch/distributed/run.py", line 923 in _invoke_run
  File "/e/lib/python3.11/site-packages/torch/distributed/run.py", line 1142 in <module>
"""
WAITING_RANK = f"""\
Fatal Python error: Aborted

Thread 0x00007f02 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 331 in wait

Current thread 0x00007f03 (most recent call first):
  File "/e/lib/python3.11/site-packages/torch/autograd/graph.py", line 1072 in backward
  File "{ENGINE}", line 149 in train
  File "/u/train.py", line 21 in <module>
"""
STUCK_RANK = f"""\
Fatal Python error: Aborted

Current thread 0x00007f04 (most recent call first):
  File "/u/hooks.py", line 10 in before_step
  File "{ENGINE}", line 148 in train
  File "/u/train.py", line 21 in <module>
"""
WORKER = '  File "/e/lib/python3.11/site-packages/torch/utils/data/_utils/worker.py", line 9 in'
FORKED = f"""\
Fatal Python error: Aborted

Current thread 0x00007f05 (most recent call first):
  File "/usr/lib/python3.11/queue.py", line 5 in get
{WORKER} _worker_loop
  File "{ENGINE}", line 149 in train
  File "/u/train.py", line 21 in <module>
"""
LOADING = FORKED.replace(
    '  File "/usr/lib/python3.11/queue.py", line 5 in get',
    '  File "/e/lib/python3.11/site-packages/PIL/Image.py", line 3 in load\n'
    '  File "/e/lib/python3.11/site-packages/torch/utils/data/_utils/fetch.py", line 5 in fetch',
)


@pytest.mark.parametrize(
    ("dumps", "words", "last"),
    [
        (
            [LAUNCHER, WAITING_RANK, STUCK_RANK],
            "of its 3 processes one was in /u/hooks.py:10 in before_step, another in "
            "/e/lib/python3.11/site-packages/torch/autograd/graph.py:1072 in backward, called from "
            "/u/train.py:21",
            "before_step",
        ),
        (
            [WAITING_RANK, FORKED],
            "it was in /e/lib/python3.11/site-packages/torch/auto",
            "backward",
        ),
        (
            [WAITING_RANK, LOADING, FORKED],
            "of its 3 processes one was in /e/lib/python3.11/site-packages/PIL/Image.py:3 in load",
            "load",
        ),
        (
            [LAUNCHER],
            "it was in /e/lib/python3.11/site-packages/torch/distributed/run.py:923",
            "_run",
        ),
    ],
    ids=["a rank", "a rank itself", "a loader worker", "nobody else"],
)
def test_hung_names_the_process_that_keeps_the_others_waiting(dumps, words, last):
    seen = Evidence(hung="no iteration ended for 61 s", stderr="".join(dumps).splitlines())
    ending = classify(seen)
    assert words in (ending.message or "")
    assert ending.traceback[-1].endswith(last)
    assert "queue.py" not in (ending.message or "")
