"""YAML as rule files use it: plain data with the place of every value, traps refused aloud.

PyYAML follows YAML 1.1, which reads `on` as true, `1e-3` as text, `012` as ten, and keeps the
last of two equal keys without a word. Only PyYAML's parser is used here; the meaning of plain
scalars is our own (YAML 1.2's), and whatever the two versions read differently is a problem
that the author is told about.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from d2check.errors import Problem

MAX_CHARACTERS = 256 * 1024
MAX_DEPTH = 12
_MAX_OPEN = 500

Path = tuple[str | int, ...]

_NUMBER = re.compile(r"[-+]?(?:(?:0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][-+]?\d+)?$")
_SPECIAL = {
    "": None, "~": None, "null": None, "true": True, "false": False,
    ".inf": float("inf"), "-.inf": float("-inf"), ".nan": float("nan"),
}  # fmt: skip
_WORDS = {"yes", "no", "on", "off", "y", "n"}
_CASED = {"true", "false", "null", ".inf", "-.inf", ".nan"}
_INDICATOR = re.compile(r"[-?:](?=\s)")
_TRAPS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"[-+]?0[0-9_]+$"), "YAML versions disagree whether it is octal"),
    (re.compile(r"[-+]?0o[0-7_]+$"), "octal numbers have no place here"),
    (re.compile(r"[-+]?0[xb][0-9a-fA-F_]+$"), "write the number in decimal"),
    (re.compile(r"[-+]?\d[\d_]*(:[0-5]?\d)+(\.\d*)?$"), "YAML 1.1 reads it as a number of base 60"),
    (re.compile(r"[-+]?\d+_[\d_]*(\.[\d_]*)?$"), "write the number without underscores"),
    (re.compile(r"\d{4}-\d\d?-\d\d?([Tt ].*)?$"), "YAML 1.1 reads it as a date"),
)


class _Composer:
    """What PyYAML's parsers ask of a resolver: here a scalar is only `plain` or `quoted`."""

    def descend_resolver(self, parent: object, index: object) -> None:
        """PyYAML announces a child; nothing to do."""

    def ascend_resolver(self) -> None:
        """PyYAML announces the way back; nothing to do."""

    def check_resolver_prefix(self, depth: int, path: object, node: object, index: object) -> bool:
        """No path resolvers."""
        return False

    def resolve(self, kind: type[yaml.Node], value: object, implicit: Any) -> str:
        """The tag of a node that names none."""
        if kind is yaml.ScalarNode:
            return "plain" if implicit[0] else "quoted"
        return "collection"


try:
    from yaml._yaml import CParser as _CParser
except ImportError:  # PyYAML without libyaml
    from yaml.composer import Composer as _PyComposer
    from yaml.parser import Parser as _PyParser
    from yaml.reader import Reader as _PyReader
    from yaml.scanner import Scanner as _PyScanner

    class _Parser(_Composer, _PyReader, _PyScanner, _PyParser, _PyComposer):
        def __init__(self, text: str) -> None:
            _PyReader.__init__(self, text)
            _PyScanner.__init__(self)
            _PyParser.__init__(self)
            _PyComposer.__init__(self)
else:

    class _Parser(_CParser, _Composer):  # type: ignore[no-redef]
        def __init__(self, text: str) -> None:
            _CParser.__init__(self, text)


@dataclass
class Document:
    """The plain data of one text, and where each part of it stands."""

    path: str
    data: Any = None
    problems: list[Problem] = field(default_factory=list)
    root: yaml.Node | None = None

    def place(self, where: Path, *, key: bool = False) -> tuple[int, int]:
        """Line and column, from 1, of the value (or of its key) at a path of keys and indices."""
        node, at = self.root, self.root
        for step in where:
            if isinstance(node, yaml.MappingNode):
                pairs = [pair for pair in node.value if pair[0].value == str(step)]
                if not pairs:
                    break
                at, node = pairs[0]
                at = at if key else node
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
                at = node = node.value[step]
            else:
                break
        if at is None:
            return 1, 1
        return at.start_mark.line + 1, at.start_mark.column + 1

    def report(self, where: Path, message: str, *, key: bool = False, shift: int = 0) -> None:
        """Add a problem at a value, or at its key; `shift` columns into it."""
        line, column = self.place(where, key=key)
        self.problems.append(Problem(self.path, line, column + shift, message))


def read_yaml(text: str, path: str) -> Document:
    """Plain data of a YAML text. Every problem goes into the document; none is raised."""
    document = Document(path)
    refusal = _refusal(text)
    if refusal:
        document.report((), refusal)
        return document
    try:
        document.root = _single_node(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        words = " ".join(filter(None, (error.context, error.problem)))
        document.problems.append(Problem(path, line, column, f"is not YAML: {words}"))
        return document
    except (yaml.YAMLError, RecursionError) as error:
        document.problems.append(Problem(path, 1, 1, f"is not YAML: {error}"))
        return document
    if document.root is not None:
        seen: set[int] = set()
        document.data = _plain(document.root, document, seen, 0)
    return document


def _refusal(text: str) -> str | None:
    """Why a text is not even given to the parser: libyaml's recursion ends the process."""
    if len(text) > MAX_CHARACTERS:
        return f"is {len(text)} characters long; the limit is {MAX_CHARACTERS}"
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", text):
        depth = depth + 1 if bracket in "[{" else max(0, depth - 1)
        deepest = max(deepest, depth)
    nested = max((len(_INDICATOR.findall(line)) for line in text.splitlines()), default=0)
    if deepest > _MAX_OPEN or nested > _MAX_OPEN:
        return f"is nested deeper than {MAX_DEPTH} levels"
    return None


def _single_node(text: str) -> yaml.Node | None:
    parser = _Parser(text)
    try:
        node: yaml.Node | None = parser.get_single_node()
        return node
    finally:
        dispose = getattr(parser, "dispose", None)
        if dispose:
            dispose()


def _complain(document: Document, node: yaml.Node, message: str) -> None:
    mark = node.start_mark
    document.problems.append(Problem(document.path, mark.line + 1, mark.column + 1, message))


def _plain(node: yaml.Node, document: Document, seen: set[int], depth: int) -> Any:
    if isinstance(node, yaml.ScalarNode):
        if node.tag == "plain":
            return _scalar(node, document)
        if node.tag != "quoted":
            _complain(document, node, f"tags such as {node.tag!r} are not allowed here")
        return node.value
    if id(node) in seen:
        _complain(document, node, "anchors and aliases (&, *) are not allowed here: write it out")
        return None
    seen.add(id(node))
    if depth > MAX_DEPTH:
        _complain(document, node, f"is nested deeper than {MAX_DEPTH} levels")
        return None
    if node.tag != "collection":
        _complain(document, node, f"tags such as {node.tag!r} are not allowed here")
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, document, seen, depth + 1) for item in node.value]
    return dict(_pairs(node, document, seen, depth))


def _pairs(
    node: yaml.Node, document: Document, seen: set[int], depth: int
) -> Iterator[tuple[str, Any]]:
    first: dict[str, int] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            _complain(document, key_node, "a key must be a word")
            continue
        key = key_node.value
        if key == "<<" and key_node.tag == "plain":
            _complain(document, key_node, "merge keys (<<) are not allowed here: write it out")
            continue
        if key in first:
            _complain(document, key_node, f"{key!r} is here twice; first in line {first[key]}")
            continue
        first[key] = key_node.start_mark.line + 1
        yield key, _plain(value_node, document, seen, depth + 1)


def _scalar(node: yaml.ScalarNode, document: Document) -> Any:
    text: str = node.value
    if text in _SPECIAL:
        return _SPECIAL[text]
    match = _NUMBER.match(text)
    if match:
        if match[2] and (match[1] is None or match[2][1] not in "+-"):
            value = f"{float(text)!r}"
            _complain(
                document, node, f"{text!r} is text to YAML 1.1 readers; write {_spelled(value)}"
            )
        return int(text) if text.lstrip("+-").isdecimal() else float(text)
    lowered = text.lower()
    if lowered in _WORDS:
        _complain(
            document, node, f"{text!r} is true or false to some YAML readers and text to others; "
            f"write true, false, or {text!r} in quotes",
        )  # fmt: skip
    elif lowered in _CASED:
        _complain(document, node, f"{text!r}: write {lowered} in small letters, or quote it")
    elif text[0] in "+-0123456789":
        for pattern, why in _TRAPS:
            if pattern.match(text):
                _complain(document, node, f"{text!r}: {why}; write it plainly, or quote it")
                break
    return text


def _spelled(value: str) -> str:
    """A float as both versions of YAML read it: 1e-05 -> 1.0e-05."""
    mantissa, exponent, power = value.partition("e")
    return value if "." in mantissa or not exponent else f"{mantissa}.0e{power}"


def describe(value: Any) -> str:
    """A value and its kind, for `expected X, found ...`."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"{str(value).lower()} (true/false)"
    if isinstance(value, (int, float)):
        return f"{value} (a number)"
    if isinstance(value, str):
        short = value if len(value) <= 40 else value[:37] + "..."
        return f"{short!r} (text)"
    return "a list" if isinstance(value, list) else "a mapping"


def is_mapping(value: Any) -> bool:
    """Whether a value of `read_yaml` is a mapping."""
    return isinstance(value, Mapping)
