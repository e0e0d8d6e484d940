"""LazyConfig dumps: references between values resolved, nothing instantiated."""

from __future__ import annotations

import re
from typing import Any

# `${train.max_iter}`, `${..lr}`, `${...box_in_features}`; not `${oc.env:HOME}` nor a nested one.
_REFERENCE = re.compile(r"\$\{(\.*)([A-Za-z_][\w\-]*(?:(?:\.[\w\-]+)|(?:\[\d+\]))*)\}")
_MAX_HOPS = 20


def resolve(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree with plain `${a.b}` and relative `${..b}` references replaced by what they name.

    OmegaConf's meaning: one leading dot is the section that holds the value, each further dot the
    section around it. A reference that leads nowhere, to itself or to a resolver stays as text.
    """
    return {name: _resolved(value, (name,), tree) for name, value in tree.items()}


def _resolved(value: Any, path: tuple[str, ...], root: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        return {k: _resolved(v, (*path, k), root) for k, v in value.items()}
    if isinstance(value, list):
        return [_resolved(v, (*path, str(i)), root) for i, v in enumerate(value)]
    if isinstance(value, str) and "${" in value:
        return _follow(value, path, root, _MAX_HOPS)
    return value


def _follow(text: str, path: tuple[str, ...], root: dict[str, Any], hops: int) -> Any:
    """What a text with references stands for; a reference alone keeps its target's type."""
    alone = _REFERENCE.fullmatch(text)
    if alone:
        return _target(alone, path, root, hops)

    def piece(match: re.Match[str]) -> str:
        target = _target(match, path, root, hops)
        return match[0] if isinstance(target, (dict, list)) else str(target)

    return _REFERENCE.sub(piece, text)


def _target(match: re.Match[str], path: tuple[str, ...], root: dict[str, Any], hops: int) -> Any:
    dots, name = len(match[1]), match[2]
    steps = tuple(re.split(r"[.\[]", name.replace("]", "")))
    if dots > len(path):
        return match[0]
    where = (path[: len(path) - dots] if dots else ()) + steps
    node: Any = root
    for step in where:
        if isinstance(node, dict) and step in node:
            node = node[step]
        elif isinstance(node, list) and step.isdigit() and int(step) < len(node):
            node = node[int(step)]
        else:
            return match[0]
    if isinstance(node, str) and "${" in node:
        return _follow(node, where, root, hops - 1) if hops else match[0]
    # A section is left as the reference that it is: copying trees into each other can explode.
    return match[0] if isinstance(node, dict) else node
