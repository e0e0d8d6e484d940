"""How a process is set that reads and judges, and starts no training."""

from __future__ import annotations

import gc
import os

# Objects between two collections. Imports and rules make thousands that live to the end.
_GARBAGE_FROM = 100_000
# numpy's own threads wait by spinning, which costs an audit a third of its processor time, and
# beside a pool of processes, or the training that is watched, wall time too. numpy reads these
# once, when it is first imported.
_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def only_read() -> None:
    """Collect garbage seldom and calculate in one thread. To be called before numpy is imported.

    Not for a process that starts a training, which would inherit the threads. What the user has
    set stays.
    """
    gc.set_threshold(_GARBAGE_FROM)
    for library in _ONE_THREAD:
        os.environ.setdefault(library, "1")
