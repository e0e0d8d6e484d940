"""Stands in for `python -u .../probe/main.py`: writes what a training would, needs no torch.

The command line tests name a copy of this file as --python; its first argument line is put there
by the fixture. What it does is told by the environment variable FAKE_TRAINING.
"""

import json
import os
import sys
import time
from pathlib import Path

plan = json.loads(Path(os.environ["D2CHECK_PLAN"]).read_text(encoding="utf-8"))
what = os.environ.get("FAKE_TRAINING", "healthy")
records = Path(plan["folder"], "records.jsonl")


def record(**fields):
    with records.open("a", encoding="utf-8") as file:
        file.write(json.dumps(fields) + "\n")


def begin():
    facts = {"images": 100, "images_per_batch": 4, "device": "cpu", "torch": "2.0", "workers": 2}
    facts.update(weights_total=320, weights_missing=320)  # it begins from nothing
    record(t="begin", schema=1, rank=0, world_size=1, pid=os.getpid(), clock=1.0, facts=facts)
    record(t="phase", name="as-configured", first_iteration=0)
    record(t="note", kind="neutralised", message="checkpoints: none are written")


def iterate(count, data_s=0.01):
    for i in range(count):
        loss = 3.0 * 0.99**i
        record(
            t="iter",
            i=i,
            clock=1.0 + 0.1 * i,
            scalars={"total_loss": loss, "lr": 0.005},
            total_s=0.1,
            data_s=data_s,
            forward_s=0.04,
            backward_s=0.04,
            optimizer_s=0.0,
            hooks_s=0.0,
            rss_mib=500.0,
        )


def crash(stage, error, message, **more):
    record(
        t="end",
        kind="crashed",
        i=None,
        clock=2.0,
        stage=stage,
        error=error,
        message=message,
        traceback=[["/home/me/train.py", 12, "mapper", "boxes[i] = x"]],
        **more,
    )
    sys.exit(1)


print("hello from the training \x1b[31min red\x1b[0m")
if what == "unknown-key":
    crash("config", "KeyError", "Non-existent config key: SOLVER.BASE_LRR", key="SOLVER.BASE_LRR")
if what == "wrong-type":
    crash("config", "ValueError", "Type mismatch (float vs. str) for config key: SOLVER.BASE_LR")
if what == "unregistered":
    crash(
        "dataset",
        "KeyError",
        "Dataset 'my_train' is not registered! Available datasets are: a",
        registered=["coco_2017_train", "coco_2017_val"],
    )
if what == "no-module":
    crash("setup", "ModuleNotFoundError", "No module named 'my_project'")
begin()
if what == "hang":
    iterate(20)
    print("ready", flush=True)
    time.sleep(60)
if what == "crash":
    iterate(5)
    crash("train", "ValueError", "could not broadcast")
if what == "flat":  # one record after the other, until it is told that this is enough
    stop = Path(plan["folder"], "stop")
    for i in range(plan["iterations"]):
        scalars = {"total_loss": 2.0 + 0.2 * (i % 3), "lr": 0.005}
        record(t="iter", i=i, clock=1.0 + 0.1 * i, scalars=scalars, total_s=0.1, data_s=0.01)
        time.sleep(0.02)
        if stop.exists():
            told = json.loads(stop.read_text())
            words = f"at iteration {told['done']} of {plan['iterations']}: {told['why']}"
            record(t="note", kind="ended-early", message=words, i=told["i"])
            message = "ramp: the run ended early, as " + told["why"]
            record(t="note", kind="phase-skipped", phase="ramp", message=message)
            record(t="end", kind="stopped", i=i, reason="verdict", clock=9.0)
            sys.exit(0)
if what == "no-report":
    Path(plan["folder"], "report.json").mkdir()
if what != "flat":
    iterate(plan["iterations"] or 100, 0.08 if what == "slow" else 0.01)
record(t="end", kind="stopped", i=plan["iterations"], reason="iterations", clock=9.0)
