"""Why something is not there, to complete `could not be judged: ...`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from d2check.model import BROKEN, FACTS, Run

_ONLY_BY_RUN = "only `d2check run` records it"
_SOURCES_OF: Mapping[str, str] = {
    "time": "metrics.json, log.txt and `d2check run` have it",
    "data_time": "metrics.json, log.txt and `d2check run` have it",
    "lr": "metrics.json, log.txt and `d2check run` have it",
    "max_mem": "only log.txt of a GPU training has it",
}
_FROM_CONFIG = ("config", "misspelt_keys", "meant_keys")
_UNKNOWN_OF_RUN = {
    "planned_iterations": "the planned length is not known",
    "last_iteration": "no iteration was recorded",
    "complete": "nothing tells whether the run reached its end",
}
_RECORDED = re.compile(r".*(_s|_mib)$|retries$|grad_norm$|batch_.*|padded_pixels$")
_ON_GPU = re.compile(r"max_mem$|(peak_)?(allocated|reserved)_mib$|retries$|ooms$|gpu_.*")


def why_absent(room: str, name: str, run: Run) -> str:
    """The source's own words where it gave some (`Run.absent`), else who would have it."""
    for key in (f"{room}.{name}", name):
        if key in run.absent:
            return run.absent[key]
    if room == "config" or name in ("planned_lr", *_FROM_CONFIG):
        return _why_no_setting(name, run)
    if run.last_iteration is None and run.ending.kind in BROKEN and room in ("series", "facts"):
        return "the training ended before its first iteration"
    if run.facts.get("device") == "cpu" and _ON_GPU.match(name):
        return "the training ran on the CPU"
    if name.startswith("gpu_") and run.facts.get("gpu_unwatched"):
        return str(run.facts["gpu_unwatched"])
    if room == "facts":
        return f"not known: {FACTS.get(name, name)}"
    if room == "run":
        return _UNKNOWN_OF_RUN.get(name, f"{name.replace('_', ' ')} is not known")
    if name == "losses":
        if "total_loss" in run.series:  # Detectron2 stores no part of a sum of one
            return "only total_loss is recorded, no loss of a part of the model"
        return "no losses are recorded"
    where = _SOURCES_OF.get(name) or (_ONLY_BY_RUN if _RECORDED.match(name) else "")
    return f"{name.strip('*')} is not recorded" + (f"; {where}" if where else "")


def _why_no_setting(name: str, run: Run) -> str:
    if run.config is None:
        return run.absent.get("config") or "the run's config is not known"
    if run.config.matches_run is False:
        return run.config.mismatch or "the config beside it belongs to another run"
    if name == "planned_lr":
        return "the schedule of this config cannot be computed"
    return f"the config does not say {name}"
