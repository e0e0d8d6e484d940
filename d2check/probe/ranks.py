"""Several processes of one training: started from a config, joined, and ended together.

Detectron2's `launch` is not used: it refuses CPUs before its main version, and the ranks that a
dead one leaves behind may wait half an hour for it. Each rank is this program again, with its
number in the environment.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

from . import wire

if TYPE_CHECKING:
    from .plan import Plan
    from .session import Session

RANK = "D2CHECK_RANK"
RENDEZVOUS = "D2CHECK_RENDEZVOUS"
POLL_S = 0.05
# For the others to record the error that a rank's death gives them; then they are told to leave.
GRACE_S = 2.0
LEAVE_S = 3.0
# For the others once a rank has left as it should: all leave their loop at one iteration. Only
# where rank 0 alone saw that a ramp had ruined the training do they go on, and hang in NCCL.
FOLLOW_S = 30.0


def own_rank() -> int:
    """The number of this process; 0 where it is the only one."""
    return int(os.environ.get(RANK, "0"))


def must_spawn(plan: Plan) -> bool:
    """Whether this process is to start the ranks, and not to train."""
    return plan.num_gpus > 1 and RANK not in os.environ


def spawn(plan: Plan) -> int:
    """Run all ranks to their end. Exit status 0 if all of them left with 0."""
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: asked.append(n))
    # A file on this machine, not a port: two checks at once must not meet.
    meeting_place = tempfile.mkdtemp(prefix="d2check-ranks-")
    store = os.path.join(meeting_place, "store")
    main = os.path.join(os.path.dirname(os.path.abspath(__file__)), "main.py")
    # As torchrun does: threads of several processes on the same cores only wait for each other.
    threads = dict({"OMP_NUM_THREADS": "1"}, **os.environ)
    ranks = [
        subprocess.Popen(
            [sys.executable, "-u", main],
            env=dict(threads, **{RANK: str(rank), RENDEZVOUS: store}),
        )
        for rank in range(plan.num_gpus)
    ]
    left_s = None
    try:
        while not asked:
            statuses = [rank.poll() for rank in ranks]
            if all(status == 0 for status in statuses):
                return 0
            if any(statuses):
                break
            if left_s is None and 0 in statuses:
                left_s = time.monotonic()
            if left_s is not None and time.monotonic() - left_s > FOLLOW_S:
                _note_left_behind(plan.folder, ranks)
                _end(ranks)
                return 0
            time.sleep(POLL_S)
        if not asked:
            _wait(ranks, GRACE_S)
        _note_killed(plan.folder, ranks)
        _end(ranks)
    finally:
        shutil.rmtree(meeting_place, ignore_errors=True)
    return 128 + asked[0] if asked else 1


def join(session: Session, device: str) -> None:
    """Make this process one of the training's ranks. `device`: what the config trains on.

    Raises ValueError where there are fewer GPUs than ranks.
    """
    plan = session.plan
    if plan.num_gpus == 1:
        return
    import torch
    import torch.distributed as dist
    from detectron2.engine import defaults
    from detectron2.utils import comm

    on_gpus = device.startswith("cuda")
    if on_gpus:
        if plan.num_gpus > torch.cuda.device_count():
            raise ValueError(
                "--num-gpus %d: PyTorch sees %d GPUs here; --as-configured-for checks a config for "
                "more GPUs than there are" % (plan.num_gpus, torch.cuda.device_count())
            )
        torch.cuda.set_device(session.rank)
    else:
        # DistributedDataParallel wants no device numbers on a CPU, and DefaultTrainer names one.
        defaults.create_ddp_model = functools.partial(defaults.create_ddp_model, device_ids=None)
    dist.init_process_group(
        "nccl" if on_gpus else "gloo",
        init_method="file://" + os.environ[RENDEZVOUS],
        world_size=plan.num_gpus,
        rank=session.rank,
    )
    # All ranks are on this machine. Newer Detectron2 has a function for it.
    everyone = list(range(plan.num_gpus))
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(plan.num_gpus)
    else:
        comm._LOCAL_PROCESS_GROUP = dist.new_group(everyone)
    comm.synchronize()


def _wait(ranks: list[Any], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(rank.poll() is None for rank in ranks):
        time.sleep(POLL_S)


def _end(ranks: list[Any]) -> None:
    for rank in ranks:
        if rank.poll() is None:
            rank.terminate()
    _wait(ranks, LEAVE_S)
    for rank in ranks:
        if rank.poll() is None:
            rank.kill()
        rank.wait()


def _note_left_behind(folder: str, ranks: list[Any]) -> None:
    """Record the end of ranks that hang since another one has ended the training: it is theirs."""
    for number, rank in enumerate(ranks):
        path = os.path.join(folder, wire.records_name(number))
        if rank.poll() is None and not _has_ended(path):
            _append(path, {"t": "end", "kind": "stopped", "reason": "others", "clock": time.time()})


def _has_ended(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - 65536))
            return any(line.startswith(b'{"t":"end"') for line in file.read().splitlines())
    except OSError:
        return False


def _append(path: str, record: dict[str, Any]) -> None:
    try:
        with open(path, "a", encoding="ascii") as file:
            file.write("\n" + wire.encode(record))  # its last line may be cut
    except OSError:
        pass  # a full disk; stderr and the exit status tell what they can


def _note_killed(folder: str, ranks: list[Any]) -> None:
    """Record the end of the ranks that a signal has ended: they could not do it themselves."""
    for number, rank in enumerate(ranks):
        status = rank.poll()
        if status is None or status >= 0:
            continue
        try:
            name = signal.Signals(-status).name
        except ValueError:  # a real-time signal
            name = "signal %d" % -status
        sys.stderr.write("d2check: rank %d was ended by %s\n" % (number, name))
        record = {"t": "end", "kind": "killed", "signal": name, "clock": time.time()}
        _append(os.path.join(folder, wire.records_name(number)), record)
