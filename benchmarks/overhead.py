"""What the probe costs per iteration: CPU time with and without it, in alternating blocks.

    OMP_NUM_THREADS=1 python benchmarks/overhead.py [--device cuda] [--blocks 160]

One process, one trainer. Blocks of iterations with the probe attached alternate with blocks
without it, in random order within each pair, so that a slow moment of the machine meets both. The
model does next to nothing, which leaves the probe's own cost to be seen: a loader's batch of 16
samples, 20 scalars in the storage, a record of the usual size written to a file.

Prints the microseconds of CPU time that one iteration costs more with the probe, with a 95 %
interval (Student's t over the pairs), and as a share of an R50-FPN iteration.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import tempfile
import time
from pathlib import Path

import torch
from detectron2.engine import train_loop
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage, get_event_storage

from d2check.probe.batch import LOAD_KEY
from d2check.probe.iteration import IterationProbe, make_hooks
from d2check.probe.plan import Plan
from d2check.probe.recorder import Recorder
from d2check.probe.session import Session
from d2check.probe.stopping import StopRule

# One iteration of an R50-FPN Mask R-CNN: two images on one thread of a CPU, as measured here, and
# sixteen on eight V100s, as Detectron2's model zoo tells. The GPU's is the hard one.
R50_FPN_S = {"CPU, 2 images": 2.6, "GPU, model zoo": 0.261}
TARGET_US = 150.0
# Two-sided 95 % quantiles of Student's t, by degrees of freedom not above.
STUDENT_T = ((5, 2.57), (10, 2.23), (20, 2.09), (40, 2.02), (10**9, 1.96))


class Model(torch.nn.Module):
    """Twenty scalars and five losses, without any work worth the name."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.nn.ParameterList(torch.nn.Parameter(torch.ones(8)) for _ in range(160))

    def forward(self, batch: list[dict]) -> dict[str, torch.Tensor]:
        storage = get_event_storage()
        for k in range(14):
            storage.put_scalar(f"roi_head/number_{k}", float(k))
        return {f"loss_{k}": self.weights[k].sum() for k in range(5)}


def batches(images: int, device: str):
    """The same batch for ever."""
    while True:
        instances = Instances((800, 1333), gt_classes=torch.zeros(7, dtype=torch.long))
        image = torch.empty(3, 1, 1).expand(3, 800, 1333)
        yield [
            {
                "image": image,
                "instances": instances,
                "file_name": f"{k}.png",
                LOAD_KEY: (0.1, 0.05, 0.04),
            }
            for k in range(images)
        ]


def run(trainer, first: int, count: int) -> float:
    """CPU seconds of so many iterations."""
    started_s = time.thread_time()
    for trainer.iter in range(first, first + count):
        trainer.before_step()
        trainer.run_step()
        trainer.after_step()
    return time.thread_time() - started_s


def measure(blocks: int, iterations: int, images: int, device: str) -> list[float]:
    """Extra CPU microseconds per iteration, one value for each pair of blocks."""
    model = Model().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)
    trainer = train_loop.SimpleTrainer(model, batches(images, device), optimizer)
    shuffled = random.Random(0)
    extra_us = []
    with tempfile.TemporaryDirectory() as folder, EventStorage(0) as trainer.storage:
        session = Session(Plan({"folder": folder}), Recorder(folder))
        session.recorder.open(0)
        probe = IterationProbe(session, trainer, StopRule(str(Path(folder) / "stop"), None, None))
        front, back = make_hooks(train_loop.HookBase, probe, lambda reason: None)
        done = 0
        for pair in range(blocks + 1):
            seconds = {}
            for with_probe in shuffled.sample((True, False), 2):
                trainer._hooks = []
                if with_probe:
                    trainer.register_hooks([front, back])
                    probe.attach()
                seconds[with_probe] = run(trainer, done, iterations)
                done += iterations
                if with_probe:
                    probe.flush()
                    probe.detach()
            if pair:  # the first one warms caches
                extra_us.append((seconds[True] - seconds[False]) / iterations * 1e6)
    return extra_us


def main() -> None:
    """Measure and print, one JSON line last."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--device", default="cpu")
    options.add_argument("--blocks", type=int, default=160, help="pairs of blocks")
    options.add_argument("--iterations", type=int, default=50, help="per block")
    options.add_argument("--images", type=int, default=16, help="per batch")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    extra_us = measure(chosen.blocks, chosen.iterations, chosen.images, chosen.device)
    mean_us = statistics.mean(extra_us)
    quantile = next(t for limit, t in STUDENT_T if len(extra_us) - 1 <= limit)
    half_us = quantile * statistics.stdev(extra_us) / math.sqrt(len(extra_us))
    print(f"probe: {mean_us:.0f} +- {half_us:.0f} us of CPU time per iteration (95 %),")
    print(f"median {statistics.median(extra_us):.0f} us; at most {TARGET_US:.0f} us are allowed")
    for name, seconds in R50_FPN_S.items():
        print(f"  {100e-6 * mean_us / seconds:.3f} % of an R50-FPN iteration ({name}: {seconds} s)")
    result = {"device": chosen.device, "mean_us": mean_us, "half_width_us": half_us}
    print(json.dumps({key: v if isinstance(v, str) else round(v, 1) for key, v in result.items()}))


if __name__ == "__main__":
    main()
