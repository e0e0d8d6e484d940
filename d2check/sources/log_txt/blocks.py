"""Blocks of several lines under one message: environment, config, tables, lists of weights."""

from __future__ import annotations

import re

from d2check.sources.log_txt.messages import CONFIG, ENVIRONMENT, MISSING, TABLE
from d2check.sources.log_txt.start import MAX_CONFIG_LINES, MAX_NAMES, Start

_VERSIONS = {"Python": "python", "detectron2": "detectron2", "PyTorch": "torch"}
_NAME_GAP = re.compile(r"\s{2,}")
_CUDA = re.compile(r"^\s*- CUDA Runtime ([\d.]+)")
_GPUS = re.compile(r"^GPU ([\d,]+)$")
_ARCHITECTURE = re.compile(r"\s*\((?:arch|CC)=[\d.]+\)")
_GROUP = re.compile(r"^(.*)\.\{(.*)\}$")
_PARAMETER = re.compile(r"[\w.{}, -]+")
_MAX_CLASSES = 5000


def feed(start: Start, block: str, text: str) -> bool:
    """Read one line of a block. False when the line cannot belong to it."""
    if block == ENVIRONMENT:
        _environment(start, text)
    elif block == CONFIG:
        if len(start.config_text) < MAX_CONFIG_LINES:
            start.config_text.append(text)
    elif block == MISSING:
        return _missing(start, text)
    elif block == TABLE:
        return _table(start, text)
    return True


def _environment(start: Start, text: str) -> None:
    cuda = _CUDA.match(text)
    if cuda:
        start.facts["cuda"] = cuda[1]
        return
    parts = _NAME_GAP.split(text.strip(), maxsplit=1)
    if len(parts) != 2:
        return
    name, value = parts
    gpus = _GPUS.match(name)
    if name in _VERSIONS:
        start.facts[_VERSIONS[name]] = value.split()[0]
    elif gpus and "gpu_name" not in start.facts:
        start.facts["gpu_name"] = _ARCHITECTURE.sub("", value).strip()
        start.facts["gpus"] = len(gpus[1].split(","))
    elif gpus:
        gpu_count = start.facts.get("gpus")
        if isinstance(gpu_count, int):
            start.facts["gpus"] = gpu_count + len(gpus[1].split(","))
    elif name == "GPU available":
        start.facts["device"] = "cuda" if value.split()[0] in ("True", "Yes") else "cpu"


def _missing(start: Start, text: str) -> bool:
    bare = text.strip()
    if not bare or not _PARAMETER.fullmatch(bare):
        return not bare
    group = _GROUP.match(bare)
    names = [f"{group[1]}.{part.strip()}" for part in group[2].split(",")] if group else [bare]
    start.missing += names[: max(MAX_NAMES - len(start.missing), 0)]
    return True


def _table(start: Start, text: str) -> bool:
    bare = text.strip()
    if not bare.startswith("|"):
        return not bare
    cells = [cell.strip() for cell in bare.strip("|").split("|")]
    for name, number in zip(cells[::2], cells[1::2], strict=False):
        if name == "total" and number.isdigit():
            start.facts["instances"] = int(number)
        elif number.isdigit() and len(start.class_instances) < _MAX_CLASSES:
            # Long names are printed shortened, so that two may look alike.
            start.class_instances[_free_name(start, name)] = int(number)
    return True


def _free_name(start: Start, name: str) -> str:
    if name not in start.class_instances:
        return name
    return next(f"{name} ({n})" for n in range(2, _MAX_CLASSES) if
                f"{name} ({n})" not in start.class_instances)  # fmt: skip
