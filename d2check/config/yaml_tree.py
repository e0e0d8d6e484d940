"""YAML text as plain data, with nothing executed: the one place that meets PyYAML."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

import yaml

from d2check.errors import InputError

# A Detectron2 config is some kilobytes and some hundred values. These bounds only keep a hostile
# or mistaken file from eating the machine.
MAX_BYTES = 8 * 2**20
MAX_VALUES = 200_000
MAX_DEPTH = 100

_LOADER: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PYTHON_TAG = "tag:yaml.org,2002:python/"
_PLAIN_TAGS = {"none", "bool", "int", "long", "float", "str", "unicode", "list", "tuple", "dict"}


class _Loader(_LOADER):  # type: ignore[misc]  # PyYAML chooses its base at run time
    """SafeLoader that turns `!!python/...` into data instead of refusing or executing it."""


def _python_tag(loader: Any, suffix: str, node: yaml.Node) -> Any:
    """`!!python/tuple [..]` -> list, `!!python/name:a.b` -> "a.b", an object's state -> a dict.

    What would have to be executed (`!!python/object/apply:eval`) stays text that names it.
    """
    kind, _, name = suffix.partition(":")
    if isinstance(node, yaml.MappingNode):
        state = loader.construct_mapping(node, deep=True)
        return {"_target_": name, **state} if name else state
    if isinstance(node, yaml.SequenceNode):
        items = loader.construct_sequence(node, deep=True)
        return items if kind in _PLAIN_TAGS else f"!!python/{suffix} {items!r}"
    if kind in _PLAIN_TAGS:
        tag = {"none": "null", "long": "int", "unicode": "str"}.get(kind, kind)
        return loader.construct_object(yaml.ScalarNode(f"tag:yaml.org,2002:{tag}", node.value))
    return name or str(node.value)


_Loader.add_multi_constructor(_PYTHON_TAG, _python_tag)
# Any other tag (`!join`, `!!set`) that SafeLoader does not know: its data, without the tag.
_Loader.add_multi_constructor(
    "!",
    lambda loader, suffix, node: (
        loader.construct_mapping(node, deep=True)
        if isinstance(node, yaml.MappingNode)
        else loader.construct_sequence(node, deep=True)
        if isinstance(node, yaml.SequenceNode)
        else str(node.value)
    ),
)


def parse(data: bytes | str, where: str) -> Any:
    """The plain data of one YAML document: dicts, lists, numbers, text, booleans, None.

    Keys of mappings become text, tuples and sets lists, dates their ISO text.

    Raises:
        InputError: binary, too large or broken YAML; `where` then carries line and column.
    """
    _refuse_binary(data, where)
    try:
        tree = yaml.load(data, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, data, where) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(
            where, f"not YAML text ({_first_line(error)})", "a Detectron2 config in YAML",
            "Give the config.yaml of an output folder, or the .yaml file that you train with",
        ) from error  # fmt: skip
    except (ValueError, RecursionError) as error:
        # PyYAML lets through what int() or datetime() say of 2021-13-45, and Python's own limit.
        found = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InputError(
            where, f"a value that YAML cannot read: {found}", "a Detectron2 config in YAML",
            "Put the value in quotes, or mend it",
        ) from error  # fmt: skip
    budget = iter(range(MAX_VALUES))
    return _plain(tree, where, budget, 0)


def _refuse_binary(data: bytes | str, where: str) -> None:
    if len(data) > MAX_BYTES:
        raise InputError(
            where, f"a file of {len(data) / 2**20:.0f} MiB",
            f"a config of at most {MAX_BYTES // 2**20} MiB", "Give the config file itself",
        )  # fmt: skip
    head = data[:4096] if isinstance(data, bytes) else data[:4096].encode("utf-8", "replace")
    if head.startswith(b"\x00\x05\x16\x07"):
        raise InputError(
            where, "macOS metadata (AppleDouble), not the file that it belongs to",
            "a Detectron2 config in YAML", "Give the file whose name has no leading '._'",
        )  # fmt: skip
    if b"\0" in head and not head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(
            where, "a binary file", "a Detectron2 config in YAML",
            "Give the config.yaml; a pickled LazyConfig (.pkl) is never opened",
        )  # fmt: skip


def _syntax_error(error: yaml.MarkedYAMLError, data: bytes | str, where: str) -> InputError:
    mark = error.problem_mark or error.context_mark
    place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
    problem = error.problem or error.context or "cannot be parsed"
    lines = data.splitlines()
    line = lines[mark.line] if mark and mark.line < len(lines) else ""
    before = line.decode("latin-1") if isinstance(line, bytes) else line
    if "\t" in before[: len(before) - len(before.lstrip())]:
        todo = "Indent with spaces: YAML allows no tabs there"
    else:
        todo = "Mend the YAML at that place"
    return InputError(place, f"not valid YAML: {problem}", "a Detectron2 config in YAML", todo)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _plain(value: Any, where: str, budget: Iterator[int], depth: int) -> Any:
    """Plain data, bounded: a few lines of YAML aliases can stand for billions of values."""
    if next(budget, None) is None or depth > MAX_DEPTH:
        raise InputError(
            where, f"more than {MAX_VALUES:,} values, or {MAX_DEPTH} levels",
            "a Detectron2 config", "Look for aliases (*name) that repeat each other",
        )  # fmt: skip
    if isinstance(value, dict):
        return {str(k): _plain(v, where, budget, depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(v, where, budget, depth + 1) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (datetime.date, datetime.datetime)):
        return value.isoformat()
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
