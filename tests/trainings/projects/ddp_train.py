"""A project's script that spawns its ranks itself, over gloo. FAULT and AT make rank 1 fail."""

import functools
import os
import signal
import sys

import demo_setup
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.config import get_cfg
from detectron2.engine import DefaultTrainer, HookBase, defaults
from detectron2.utils import comm

FAULT, AT = os.environ.get("FAULT", ""), int(os.environ.get("AT", "3"))


class Fault(HookBase):
    """Something goes wrong in rank 1."""

    def before_step(self):
        if comm.get_rank() != 1 or self.trainer.iter != AT:
            return
        if FAULT == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if FAULT == "raise":
            raise ValueError("no annotation file on this node")


def main(rank, world_size, store):
    if world_size > 1:
        if store is None:  # torchrun
            dist.init_process_group("gloo")
        else:
            dist.init_process_group(
                "gloo", init_method="file://" + store, rank=rank, world_size=world_size
            )
        comm._LOCAL_PROCESS_GROUP = dist.new_group(list(range(world_size)))
        defaults.create_ddp_model = functools.partial(defaults.create_ddp_model, device_ids=None)
    cfg = get_cfg()
    cfg.merge_from_file(os.path.join(os.path.dirname(demo_setup.__file__), "config.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    cfg.OUTPUT_DIR = os.path.abspath("precious")
    trainer = DefaultTrainer(cfg)
    trainer.register_hooks([Fault()])
    trainer.train()
    print("EXPORTED")


if __name__ == "__main__":
    if "RANK" in os.environ:
        main(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), None)
    else:
        mp.spawn(main, nprocs=2, args=(2, os.path.abspath(sys.argv[1])))
    print("UPLOADED")
