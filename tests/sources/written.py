"""Files of one made-up training, as Detectron2's own writers put them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from d2check.sources.tfevents.wire import masked_crc

PERIOD = 20
HOUR_S = 1_700_000_000.0

# What a log line looks like since v0.3; numbers as `{:.4g}`.
LINE = (
    "[11/21 {clock} d2.utils.events]:  eta: 0:10:00  iter: {i}  total_loss: {loss:.4g}"
    "  loss_cls: {cls:.4g}  time: {time:.4f}  data_time: 0.0234  lr: {lr:.5g}  max_mem: 3021M\n"
)
CRASH = (
    "[11/21 {clock} d2.engine.train_loop]: ERROR Exception during training:\n"
    'Traceback (most recent call last):\n  File "/home/me/train.py", line 3, in train\n'
    "    self.run_step()\n{error}\n"
)


def clock(second: int) -> str:
    """The time of day, so many seconds after ten."""
    return f"{10 + second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"


def values(i: int, seed: int = 0) -> dict[str, float]:
    """What the writers put at an iteration: losses, medians of times, the rate."""
    loss = 2.0 / (1 + i / 300) + 0.001 * seed + 0.01 * ((i * 7919) % 13)
    return {
        "total_loss": loss,
        "loss_cls": loss / 2,
        "lr": 0.01,
        "time": 0.25 + 0.0001 * (i % 7),
        "data_time": 0.001,
    }


def row(i: int, seed: int = 0) -> str:
    """One line of metrics.json."""
    return json.dumps({"iteration": i, **values(i, seed)}) + "\n"


def rows(last: int, *, first: int = 19, seed: int = 0) -> list[str]:
    """The lines of metrics.json."""
    return [row(i, seed) for i in range(first, last + 1, PERIOD)]


def start(first: int = 0, *, second: int = 0, rank: int = 0, size: int = 1) -> str:
    """What a process logs before its first row."""
    at = clock(second)
    return (
        f"[11/21 {at} detectron2]: Rank of current process: {rank}. World size: {size}\n"
        f"[11/21 {at} d2.engine.train_loop]: Starting training from iteration {first}\n"
    )


def lines(last: int, *, first: int = 19, seed: int = 0, second: int = 0) -> str:
    """The metric lines of a log, one for each 20 seconds from `second` on."""
    text = []
    for number, i in enumerate(range(first, last + 1, PERIOD), 1):
        told = values(i, seed)
        text.append(
            LINE.format(i=i, loss=told["total_loss"], cls=told["loss_cls"], lr=told["lr"],
                        time=0.5123, clock=clock(second + 20 * number))
        )  # fmt: skip
    return "".join(text)


def log(last: int, *, first: int = 19, seed: int = 0, second: int = 0, size: int = 1) -> str:
    """A log from the start of a process to its last row."""
    begin = start(first - PERIOD + 1, second=second, size=size)
    return begin + lines(last, first=first, seed=seed, second=second)


def crash(error: str = "ValueError: no such image", *, second: int = 3000) -> str:
    """An exception that the training loop logs."""
    return CRASH.format(clock=clock(second), error=error)


# --------------------------------------------------------------------------- event files


def write_events(
    folder: Path, last: int, *, first: int = 19, seed: int = 0, begin_s: float = HOUR_S,
    left_out: tuple[str, ...] = (), pid: int = 1, more: tuple[tuple[int, str, float], ...] = (),
) -> Path:  # fmt: skip
    """An event file with the values of `rows`; more: further (iteration, tag, value)."""
    data = record(wall_time(begin_s) + field(3, b"brain.Event:2"))
    for i in range(first, last + 1, PERIOD):
        told = [(i, tag, v) for tag, v in values(i, seed).items() if tag not in left_out]
        for step, tag, value in [*told, *(one for one in more if i - PERIOD < one[0] <= i)]:
            data += event(begin_s + i - first + PERIOD, step, tag, value)
    path = folder / f"events.out.tfevents.{int(begin_s)}.host.{pid}.0"
    path.write_bytes(data)
    return path


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def record(data: bytes) -> bytes:
    head = struct.pack("<Q", len(data))
    return head + struct.pack("<I", masked_crc(head)) + data + struct.pack("<I", masked_crc(data))


def wall_time(wall_s: float) -> bytes:
    return varint(1 << 3 | 1) + struct.pack("<d", wall_s)


def event(wall_s: float, step: int, tag: str, value: float) -> bytes:
    one = field(1, tag.encode()) + varint(2 << 3 | 5) + struct.pack("<f", value)
    head = wall_time(wall_s) + varint(2 << 3) + varint(step)
    return record(head + field(5, field(1, one)))
