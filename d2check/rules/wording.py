"""Messages of a rule: `{value:.2f}`, `{facts.images}`, `{config.SOLVER.BASE_LR}`.

A field is a name and a format, nothing else: no attribute or item of a value can be reached.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

UNKNOWN = "unknown"

_FORMATTER = string.Formatter()


@lru_cache(maxsize=4096)
def _parts(template: str) -> tuple[tuple[str, str | None, str | None, str | None], ...]:
    """As string.Formatter.parse; the same few hundred templates word every run."""
    return tuple(_FORMATTER.parse(template))


@lru_cache(maxsize=4096)
def names_in(template: str) -> tuple[str, ...]:
    """The names that a template uses. Raises ValueError, in words, for what is no template."""
    names = []
    for _, name, spec, conversion in _parts(template):
        if name is None:
            continue
        if not all(part.isidentifier() for part in name.split(".")) or "__" in name:
            raise ValueError(f"holds {{{name}}}; expected a name in the braces")
        if conversion or "{" in (spec or ""):
            raise ValueError(f"formats {name} with more than a plain format")
        try:
            format(1, spec or "")
        except ValueError:
            try:
                format("", spec or "")
            except ValueError as error:
                raise ValueError(f"formats {name} with {spec!r}: {error}") from None
        names.append(name)
    return tuple(names)


def missing_names(template: str, scope: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of a template that have no value."""
    return tuple(name for name in names_in(template) if scope.get(name) is None)


def word(template: str, scope: Mapping[str, Any]) -> str:
    """The template with its names replaced; `unknown` for a name without a value."""
    pieces = []
    for literal, name, spec, _ in _parts(template):
        pieces.append(literal)
        if name is not None:
            pieces.append(_format(scope.get(name), spec or ""))
    return "".join(pieces)


def choose(templates: Sequence[str], scope: Mapping[str, Any]) -> str:
    """The first template whose names all have a value, worded; else the last one."""
    for template in templates:
        if not missing_names(template, scope):
            return word(template, scope)
    return word(templates[-1], scope) if templates else ""


def plain(value: Any) -> str:
    """A value as people write it: short numbers, lists as (a, b)."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(plain(item) for item in value) + ")"
    return str(value)


def _format(value: Any, spec: str) -> str:
    if value is None:
        return UNKNOWN
    if not spec or isinstance(value, (list, tuple)):
        return plain(value)
    try:
        return format(value, spec)
    except (ValueError, TypeError):
        return plain(value)
