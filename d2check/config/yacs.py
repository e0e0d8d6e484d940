"""Values as yacs understands them: literals, overrides, defaults, dotted keys."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from d2check.config import keys
from d2check.errors import UsageError
from d2check.model import Config

# What a Python literal can begin with. yacs hands every text to `literal_eval`; asking first keeps
# paths and names from being parsed (and warned about) as Python.
_LITERAL_START = frozenset("0123456789+-.([{'\"")
_LITERAL_WORDS = frozenset({"True", "False", "None"})
_PREFIXED = tuple(prefix + quote for prefix in "rRuU" for quote in "'\"")  # r'C:\data'
_MAX_LITERAL = 100_000


def decode(value: Any) -> Any:
    """A value as yacs takes it from YAML or the command line: text that is a literal is evaluated.

    "(1000, 2000)" -> [1000, 2000], "1e-3" -> 0.001 (which PyYAML leaves as text), "abc" -> "abc".
    Tuples become lists, as they are in Detectron2's own dumps. Values other than text, and literals
    that no config can hold (bytes, complex numbers), come back as they are.
    """
    if not isinstance(value, str) or len(value) > _MAX_LITERAL:
        return value
    text = value.lstrip(" \t")
    if not (
        text[:1] in _LITERAL_START or text.rstrip() in _LITERAL_WORDS or text.startswith(_PREFIXED)
    ):
        return value
    try:
        literal = ast.literal_eval(value)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        # yacs: text that is no literal is text. The last two: "((((..." a thousand deep.
        return value
    try:
        return _without_tuples(literal)
    except TypeError:
        return value


def _without_tuples(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_without_tuples(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _without_tuples(v) for k, v in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(type(value).__name__)


def decode_for(key: str, value: Any) -> Any:
    """As `decode`, but text stays text where Detectron2's default is text.

    OUTPUT_DIR: '2021' comes out of a dump as the text that it was.
    """
    decoded = decode(value)
    if isinstance(keys.default(key), str) and not isinstance(decoded, str):
        return value
    return decoded


def value_text(value: Any) -> str:
    """Text that yacs reads back as this value: `0.0025`, `(60000, 80000)`, `coco_train`.

    Not quoted for a shell. Numbers keep all their digits; a float stays a float (`1.0`), because
    yacs refuses an int where the default is a float.
    """
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(map(_literal, value)) + ("," if len(value) == 1 else "") + ")"
    if isinstance(value, str):
        return repr(value) if decode(value) != value or not value else value
    return _literal(value)


def _literal(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return value_text(value)
    return repr(value)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted keys. An empty section stays as an empty dict under its name."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def section(config: Config, prefix: str) -> dict[str, Any]:
    """The nested values below a dotted prefix; empty when there are none."""
    tree: dict[str, Any] = {}
    for key, value in config.values.items():
        if key.startswith(prefix + "."):
            node = tree
            *parents, leaf = key[len(prefix) + 1 :].split(".")
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = value
    return tree


def apply_overrides(config: Config, pairs: Sequence[str] | Iterable[tuple[str, Any]]) -> Config:
    """The config with overrides, as yacs' merge_from_list applies `KEY VALUE KEY VALUE`.

    pairs: a flat sequence of texts as they come from a command line, or (key, value) tuples. Text
    values are decoded. A key that is not valid is set all the same (the user's code may add it):
    `keys.unknown_keys` tells them.

    Raises:
        UsageError: a flat sequence of odd length, or a key that is a section.
    """
    values = dict(config.values)
    for key, value in _as_pairs(pairs):
        if any(other.startswith(key + ".") for other in values):
            raise UsageError(
                f"{key}: this is a section of the config. Expected one of its keys. "
                f"Name the key, as in {key}.{_first_key_below(values, key)} VALUE."
            )
        values[key] = decode_for(key, value)
    return dataclasses.replace(config, values=values)


def _as_pairs(pairs: Sequence[str] | Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    items: list[Any] = list(pairs)
    if not any(isinstance(item, str) for item in items):
        return items
    if len(items) % 2:
        raise UsageError(
            f"overrides {' '.join(map(str, items))}: {len(items)} words. Expected KEY VALUE pairs. "
            'Give a value for every key, and quote values with spaces, as in "(6000, 8000)".'
        )
    return list(zip(items[::2], items[1::2], strict=True))


def _first_key_below(values: Mapping[str, Any], prefix: str) -> str:
    below = sorted(key for key in values if key.startswith(prefix + "."))
    return below[0][len(prefix) + 1 :]


def setting(config: Config, key: str) -> Any:
    """The value of a yacs key, or Detectron2's default where the config does not name it."""
    return config.values[key] if key in config.values else keys.default(key)
