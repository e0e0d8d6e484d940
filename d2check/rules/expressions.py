"""The small language of `fixes` and `when`: arithmetic over named numbers, nothing else.

A text is parsed once into a tree of closures. There are no attributes (the dots of
`config.SOLVER.BASE_LR` are part of a name), no subscripts, no powers, no way to reach a method,
and nothing that makes a long value from a short text.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MAX_LENGTH = 300
MAX_DEPTH = 20
ROOMS = ("config", "facts", "run", "symptom")

Scope = Mapping[str, Any]
Evaluator = Callable[[Scope], Any]


class ExpressionError(ValueError):
    """The text is not an expression of this language. column counts from 1 within the text."""

    def __init__(self, message: str, column: int = 1) -> None:
        """Keep the column for the loader's line:column."""
        self.column = column
        super().__init__(message)


class Absent(LookupError):
    """A name has no value in this run, or the numbers do not allow the computation."""

    def __init__(self, name: str) -> None:
        """Keep which name."""
        self.name = name
        super().__init__(name)


@dataclass(frozen=True)
class Expression:
    """A compiled expression. Two are equal when their texts are."""

    text: str
    names: tuple[str, ...] = field(compare=False)
    evaluate_in: Evaluator = field(compare=False, repr=False)

    def evaluate(self, scope: Scope) -> Any:
        """The value; raises Absent for an unknown name, a value of None or a bad computation."""
        try:
            return self.evaluate_in(scope)
        except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
            raise Absent(f"{self.text}: {error}") from error


def compile_expression(text: str) -> Expression:
    """Parse a text. Raises ExpressionError, in words for the author of a rule file."""
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"is {len(text)} characters long; the limit is {MAX_LENGTH}")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except SyntaxError as error:
        raise ExpressionError(f"is not an expression: {error.msg}", error.offset or 1) from error
    except (ValueError, MemoryError, RecursionError) as error:
        raise ExpressionError(f"is not an expression: {error}") from error
    names: list[str] = []
    evaluator = _compile(tree.body, names, 0)
    return Expression(text, tuple(dict.fromkeys(names)), evaluator)


# --------------------------------------------------------------------------- functions


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is not a number")
    return value


def _significant(value: float, digits: int) -> float:
    """`value` with so many significant digits: 0.0024983 -> 0.0025 for two."""
    _number(value)
    if not 1 <= digits <= 15:
        raise ValueError("digits must lie in 1..15")
    return float(f"{value:.{int(digits) - 1}e}")


def _steps_scaled(steps: Sequence[Any], factor: float) -> tuple[int, ...]:
    """Milestones stretched by a factor, whole, at least 1, strictly increasing."""
    if isinstance(steps, str) or not isinstance(steps, Sequence):
        raise TypeError("steps_scaled needs a list")
    _number(factor)
    return tuple(sorted({max(1, round(_number(step) * factor)) for step in steps}))


def _finite(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: function(_number(value))


def _several(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *values: function(_number(value) for value in values)


_FUNCTIONS: Mapping[str, tuple[Callable[..., Any], int, int]] = {
    "min": (_several(min), 2, 8),
    "max": (_several(max), 2, 8),
    "ceil": (_finite(math.ceil), 1, 1),
    "floor": (_finite(math.floor), 1, 1),
    "round": (_finite(round), 1, 1),
    "abs": (_finite(abs), 1, 1),
    "sqrt": (_finite(math.sqrt), 1, 1),
    "significant": (_significant, 2, 2),
    "steps_scaled": (_steps_scaled, 2, 2),
}

_ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
}

_ORDER: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: lambda a, b: bool(a < b),
    ast.LtE: lambda a, b: bool(a <= b),
    ast.Gt: lambda a, b: bool(a > b),
    ast.GtE: lambda a, b: bool(a >= b),
}


# --------------------------------------------------------------------------- compiler


def _compile(node: ast.expr, names: list[str], depth: int) -> Evaluator:
    if depth > MAX_DEPTH:
        raise ExpressionError(f"is nested deeper than {MAX_DEPTH} levels")
    builder = _BUILDERS.get(type(node))
    if builder is None:
        raise _refused(node)
    return builder(node, names, depth + 1)


def _refused(node: ast.expr) -> ExpressionError:
    what = {
        ast.Subscript: "subscripts",
        ast.Lambda: "functions of its own",
        ast.IfExp: "if ... else",
        ast.Dict: "dictionaries",
        ast.JoinedStr: "formatted text",
        ast.Starred: "stars",
    }.get(type(node), type(node).__name__)
    return ExpressionError(
        f"uses {what}; an expression may use numbers, text, lists, names, + - * / // %, "
        f"comparisons, and/or/not and {', '.join(_FUNCTIONS)}",
        node.col_offset + 1,
    )


def _constant(node: ast.expr, names: list[str], depth: int) -> Evaluator:
    assert isinstance(node, ast.Constant)
    value = node.value
    if isinstance(value, int) and abs(value) > 10**15:
        raise ExpressionError("holds a number above 1e15", node.col_offset + 1)
    if not isinstance(value, (bool, int, float, str)):
        raise _refused(node)
    return lambda scope: value


def dotted_name(node: ast.expr) -> str | None:
    """`config.SOLVER.BASE_LR` as one name, or None where this is no chain of names."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    return ".".join([node.id, *reversed(parts)])


def _name(node: ast.expr, names: list[str], depth: int) -> Evaluator:
    name = dotted_name(node)
    if name is None or "__" in name:
        raise ExpressionError("uses attributes; only names have dots", node.col_offset + 1)
    room = name.partition(".")[0]
    if "." in name and room not in ROOMS:
        raise ExpressionError(
            f"uses {name!r}; names with dots begin with {', '.join(ROOMS)}", node.col_offset + 1
        )
    if name in ROOMS or name in _FUNCTIONS:
        raise ExpressionError(f"uses {name!r} as a value", node.col_offset + 1)
    names.append(name)

    def look_up(scope: Scope) -> Any:
        value = scope.get(name)
        if value is None:
            raise Absent(name)
        return value

    return look_up


def _call(node: ast.expr, names: list[str], depth: int) -> Evaluator:
    assert isinstance(node, ast.Call)
    name = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)
    if name not in _FUNCTIONS:
        raise ExpressionError(
            f"calls {name!r}; the functions are {', '.join(_FUNCTIONS)}", node.col_offset + 1
        )
    function, least, most = _FUNCTIONS[name]
    if node.keywords or not least <= len(node.args) <= most:
        wanted = str(least) if least == most else f"{least} to {most}"
        raise ExpressionError(f"calls {name} with other than {wanted} values", node.col_offset + 1)
    arguments = [_compile(argument, names, depth) for argument in node.args]
    return lambda scope: function(*[argument(scope) for argument in arguments])


def _binary(node: ast.expr, names: list[str], depth: int) -> Evaluator:
    assert isinstance(node, ast.BinOp)
    operate = _ARITHMETIC.get(type(node.op))
    if operate is None:
        raise ExpressionError(
            f"uses the operator {type(node.op).__name__}; there are + - * / // %",
            node.col_offset + 1,
        )
    left, right = _compile(node.left, names, depth), _compile(node.right, names, depth)
    return lambda scope: operate(_number(left(scope)), _number(right(scope)))


def _unary(node: ast.expr, names: list[str], depth: int) -> Evaluator:
    assert isinstance(node, ast.UnaryOp)
    inner = _compile(node.operand, names, depth)
    if isinstance(node.op, ast.Not):
        return lambda scope: not inner(scope)
    if isinstance(node.op, ast.USub):
        return lambda scope: -_number(inner(scope))
    if isinstance(node.op, ast.UAdd):
        return lambda scope: _number(inner(scope))
    raise _refused(node)


def _logical(node: ast.expr, names: list[str], depth: int) -> Evaluator:
    assert isinstance(node, ast.BoolOp)
    parts = [_compile(value, names, depth) for value in node.values]
    if isinstance(node.op, ast.And):
        return lambda scope: all(part(scope) for part in parts)
    return lambda scope: any(part(scope) for part in parts)


def _compare(node: ast.expr, names: list[str], depth: int) -> Evaluator:
    assert isinstance(node, ast.Compare)
    sides = [_compile(side, names, depth) for side in (node.left, *node.comparators)]
    for operator in node.ops:
        if type(operator) not in _ORDER and not isinstance(operator, (ast.Eq, ast.NotEq)):
            raise ExpressionError(
                f"uses the comparison {type(operator).__name__}", node.col_offset + 1
            )

    def compare(scope: Scope) -> bool:
        values = [side(scope) for side in sides]
        return all(
            _holds(operator, left, right)
            for operator, left, right in zip(node.ops, values, values[1:], strict=False)
        )

    return compare


def _holds(operator: ast.cmpop, left: Any, right: Any) -> bool:
    if isinstance(operator, ast.Eq):
        return bool(_plain(left) == _plain(right))
    if isinstance(operator, ast.NotEq):
        return bool(_plain(left) != _plain(right))
    return _ORDER[type(operator)](_number(left), _number(right))


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _list(node: ast.expr, names: list[str], depth: int) -> Evaluator:
    assert isinstance(node, (ast.List, ast.Tuple))
    items = [_compile(item, names, depth) for item in node.elts]
    return lambda scope: tuple(item(scope) for item in items)


_BUILDERS: Mapping[type[ast.expr], Callable[[ast.expr, list[str], int], Evaluator]] = {
    ast.Constant: _constant,
    ast.Name: _name,
    ast.Attribute: _name,
    ast.Call: _call,
    ast.BinOp: _binary,
    ast.UnaryOp: _unary,
    ast.BoolOp: _logical,
    ast.Compare: _compare,
    ast.List: _list,
    ast.Tuple: _list,
}
