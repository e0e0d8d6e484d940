"""What the checker asks of the probe: plan.json, read and given names."""

from __future__ import annotations

import json
import os
from typing import Any

from . import wire

KIND_HOOK = "hook"  # the probe is a hook of a user's own trainer: it ends nothing


class Plan:
    """The plan of one run. docs/run-folder.md tells the meaning and unit of every field."""

    def __init__(self, data: dict[str, Any]) -> None:
        """Take the fields, with the defaults of docs/run-folder.md for those that are absent."""
        self.folder: str = data["folder"]
        self.iterations: int | None = data.get("iterations")
        self.budget_s: float | None = data.get("budget_s")
        self.phases: list[dict[str, Any]] = data.get("phases") or []
        self.grad_norm_every: int = data.get("grad_norm_every", 10)
        self.neutralise: bool = data.get("neutralise", True)
        entry = data.get("entry") or {}
        self.kind: str = entry.get("kind", "config")
        self.config: str | None = entry.get("config")
        self.overrides: list[str] = list(entry.get("overrides") or [])
        self.setup: list[str] = list(entry.get("setup") or [])
        self.trainer: str | None = entry.get("trainer")
        self.seed: int | None = entry.get("seed")
        self.device: str | None = entry.get("device")
        self.num_gpus: int = entry.get("num_gpus") or 1
        self.configured_for: int | None = entry.get("configured_for")

    def has_phase(self, name: str) -> bool:
        """Whether a phase is planned."""
        return any(phase["name"] == name for phase in self.phases)

    @property
    def stop_file(self) -> str:
        """Its existence ends the loop."""
        return os.path.join(self.folder, wire.STOP)

    @property
    def child_output(self) -> str:
        """Where everything lands that the training would have written to its own output folder."""
        return os.path.join(self.folder, "child-output")


def read_plan() -> Plan:
    """The plan that the environment names."""
    with open(os.environ[wire.PLAN_VARIABLE], encoding="utf-8") as file:
        return Plan(json.load(file))
