"""Reports made by hand, for the tests of every format."""

from __future__ import annotations

import numpy as np

from d2check.model import (
    Config,
    Ending,
    EndingKind,
    Event,
    Finding,
    Fix,
    Override,
    Phase,
    Report,
    Run,
    RunReport,
    Series,
    Summary,
    Unreadable,
    Verdict,
)

LINEAR = Fix(
    because="the linear rule for 2 images per batch, from 0.02 at 16",
    risk="safe",
    overrides=(
        Override("SOLVER.BASE_LR", 0.02, 0.0025),
        Override("SOLVER.WARMUP_ITERS", 1000, 8000),
    ),
)


def series(name, values, *, every=1, window=1, statistic="raw"):
    values = np.asarray(values, dtype=np.float64)
    iterations = np.arange(len(values), dtype=np.int64) * every + (every - 1)
    return Series(name, iterations, values, every, window, statistic)


def run(source="out/run-1", **changes):
    losses = np.concatenate([np.linspace(2.96, 0.92, 300), np.linspace(0.92, 3.0, 100)])
    facts = {
        "meta_architecture": "GeneralizedRCNN",
        "classes": 80,
        "parameters": 44_401_393,
        "images": 45_000,
        "images_per_batch": 2,
        "epochs_planned": 10_000 * 2 / 45_000,
        "world_size": 1,
        "gpu_name": "NVIDIA H100",
        "gpu_total_mib": 81_559.0,
        "torch": "2.14.1",
        "detectron2": "0.6",
        "python": "3.11.7",
    }
    fields = {
        "series": {"total_loss": series("total_loss", losses)},
        "facts": facts,
        "config": Config("yacs", {"SOLVER.BASE_LR": 0.02}, matches_run=True),
        "planned_iterations": 10_000,
        "ending": Ending(EndingKind.STOPPED, 399, read_from="ending.json"),
        "phases": (Phase("as-configured", 0, 399),),
        "rows": 400,
    }
    return Run(source, **(fields | changes))


def finding(rule, verdict, message="", **changes):
    fields = {
        "title": f"What {rule} is about",
        "severity": "medium",
        "status": "stable",
        "phase": "as-configured",
    }
    return Finding(rule=rule, verdict=Verdict(verdict), message=message, **(fields | changes))


def healthy_findings():
    return (
        finding("ending/crashed", "PASS", "trained without an exception"),
        finding(
            "loss/not-decreasing",
            "PASS",
            "total_loss fell by 62 %",
            value=0.38,
            unit="ratio",
            span=(0, 399),
        ),
        finding("time/data-bound", "PASS", "11 % of the time waits for data", value=11.2, unit="%"),
        finding("memory/headroom", "SKIP", reason="could not be judged: no GPU was used"),
        finding("memory/growth", "SKIP", reason="could not be judged: no GPU was used"),
        finding("time/stalls", "SKIP", reason="only 5 effective iterations in warm-up"),
    )


def sick_findings():
    return (
        finding(
            "schedule/lr-unscaled",
            "WARN",
            "BASE_LR 0.02 is made for 16 images, a batch has 2",
            title="The learning rate does not fit the batch",
            severity="high",
            value=8.0,
            unit="x",
            why="Each step moves the weights by the rate. A rate made for 16 images is eight times"
            " what 2 images can carry: their gradient is noisier.",
            fixes=(LINEAR,),
            links=("https://arxiv.org/abs/1706.02677",),
        ),
        finding(
            "loss/diverges",
            "FAIL",
            "total_loss ended at 3.3x its best (0.92 at iteration 299)",
            title="The loss climbed far above its best level",
            severity="high",
            value=3.26,
            unit="ratio",
            span=(299, 399),
            explained_by="schedule/lr-unscaled",
            fixes=(
                Fix(
                    "a tenth is the usual first try",
                    "try",
                    (Override("SOLVER.BASE_LR", 0.02, 0.002),),
                ),
            ),
        ),
        finding(
            "time/data-bound",
            "FAIL",
            "61 % of the time waits for data",
            title="The GPU waits for the loader",
            value=61.0,
            unit="%",
            span=(5, 399),
            why="The GPU is idle while it waits.",
            fixes=(
                Fix(
                    "one worker loads an image in 0.08 s",
                    "safe",
                    (Override("DATALOADER.NUM_WORKERS", 2, 6),),
                ),
                Fix(
                    "decoding dominates",
                    "costly",
                    action="Store the images at the size that the config trains with",
                ),
            ),
        ),
        finding("memory/growth", "ERROR", "", reason="ZeroDivisionError: division by zero"),
        finding("loss/spikes", "FAIL", "4 spikes", value=4, status="trial", severity="low"),
        finding("schedule/never-decays", "WARN", "the rate never falls", confidence="low"),
        finding("loss/plateau", "FAIL", "flat since 300", ignored="a frozen backbone, as meant"),
        *healthy_findings()[:2],
        finding("memory/headroom", "SKIP", reason="could not be judged: no GPU was used"),
    )


def crashed_run():
    return run(
        ending=Ending(
            EndingKind.CRASHED,
            12,
            "ValueError",
            "could not broadcast (3,) into (4,)",
            (
                'File "train_net.py", line 12, in mapper',
                "    boxes[i] = record['bbox']",
            ),
            "ending.json",
        )
    )


HOSTILE = "\x1b[31mred\x1b[0m [bold]\x07\u202ename\x00\x9b2J <b>&amp;"


def report(*runs, exit_code=1, **changes):
    tally = {"PASS": 0, "FAIL": 0, "WARN": 0, "SKIP": 0, "ERROR": 0}
    ignored = 0
    for judged in runs:
        for item in judged.findings:
            if item.ignored is not None:
                ignored += 1
            else:
                tally[item.verdict.value] += 1
    fields = {
        "summary": Summary(
            tally["PASS"],
            tally["FAIL"],
            tally["WARN"],
            tally["SKIP"],
            tally["ERROR"],
            ignored,
            41.2,
        ),
        "command": ("d2check", "run", "config.yaml"),
        "version": "0.1.0",
        "replay": "d2check audit out/run-1",
        "neutralised": ("checkpoints", "evaluation", "wandb set to disabled"),
    }
    return Report(runs, exit_code=exit_code, **(fields | changes))


def healthy():
    return report(RunReport(run(), healthy_findings()), exit_code=0)


def sick():
    causes = ("schedule/lr-unscaled", "time/data-bound")
    return report(RunReport(run(), sick_findings(), causes))


def crashed():
    findings = (
        finding(
            "ending/crashed",
            "FAIL",
            "a ValueError ended the training at iteration 12",
            title="An exception ended the training",
            severity="high",
            value=None,
            why="Nothing after this line ran.",
        ),
        finding("loss/not-decreasing", "SKIP", reason="could not be judged: 12 rows, needs 40"),
    )
    events = (Event("warning", "recording stopped: no space left on device", 11),)
    ended = crashed_run()
    return report(
        RunReport(
            run(ending=ended.ending, events=events, malformed_lines=2, series={}),
            findings,
            ("ending/crashed",),
        ),
        neutralised=(),
    )


def many():
    runs = [RunReport(run(f"out/healthy-{i}"), healthy_findings()) for i in range(5)]
    runs += [RunReport(run(f"out/sick-{i}"), sick_findings()) for i in range(12)]
    runs.append(RunReport(run("out/sick-0", segment=1), sick_findings()[2:3]))
    runs.append(RunReport(run("out/short"), healthy_findings()[3:]))
    return report(
        *runs,
        unreadable=(Unreadable("out/locked", "out/locked: permission denied. Expected a folder."),),
        replay=None,
        neutralised=(),
    )


def hostile():
    item = finding(
        "loss/diverges",
        "FAIL",
        HOSTILE,
        title=HOSTILE,
        why=HOSTILE,
        reason=HOSTILE,
        fixes=(
            Fix(HOSTILE, "try", (Override("SOLVER.BASE_LR", HOSTILE, HOSTILE),)),
            Fix(HOSTILE, "try", action=HOSTILE),
        ),
    )
    warning = finding("time/stalls", "WARN", HOSTILE)
    facts = {"meta_architecture": HOSTILE, "gpu_name": HOSTILE, "torch": HOSTILE}
    ending = Ending(EndingKind.CRASHED, 1, HOSTILE, HOSTILE, (HOSTILE,), HOSTILE)
    return report(
        RunReport(
            run(HOSTILE, facts=facts, ending=ending, events=(Event(HOSTILE, HOSTILE),)),
            (item, warning, finding("ending/crashed", "FAIL", HOSTILE)),
        ),
        unreadable=(Unreadable(HOSTILE, HOSTILE),),
        notes=(HOSTILE,),
        neutralised=(HOSTILE,),
        replay=HOSTILE,
    )
