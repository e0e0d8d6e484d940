"""Choosing rules by an expression, as pytest's -k does: substrings of ids, and, or, not."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial

from d2check.errors import UsageError
from d2check.rules.model import Rule

_TOKEN = re.compile(r"\s*(\(|\)|[^\s()]+)")
_MAX_DEPTH = 50

Matcher = Callable[[str], bool]


def matching(rules: Sequence[Rule], expression: str) -> tuple[Rule, ...]:
    """The rules whose id matches: `schedule or loss`, `not (time or memory)`, case ignored.

    Raises UsageError for a text that is no such expression.
    """
    matches = _compile(expression)
    return tuple(rule for rule in rules if matches(rule.id.lower()))


def _compile(expression: str) -> Matcher:
    tokens = _TOKEN.findall(expression)
    if not tokens:
        raise UsageError("-k is empty. Expected a part of a rule's id, such as 'schedule'.")
    matcher, rest = _either(tokens, expression, 0)
    if rest:
        raise _unexpected(rest[0], expression)
    return matcher


def _either(tokens: Sequence[str], expression: str, depth: int) -> tuple[Matcher, Sequence[str]]:
    left, rest = _both(tokens, expression, depth)
    while rest and rest[0].lower() == "or":
        right, rest = _both(rest[1:], expression, depth)
        left = partial(_any_of, left, right)
    return left, rest


def _both(tokens: Sequence[str], expression: str, depth: int) -> tuple[Matcher, Sequence[str]]:
    left, rest = _single(tokens, expression, depth)
    while rest and rest[0].lower() == "and":
        right, rest = _single(rest[1:], expression, depth)
        left = partial(_all_of, left, right)
    return left, rest


def _single(tokens: Sequence[str], expression: str, depth: int) -> tuple[Matcher, Sequence[str]]:
    if depth > _MAX_DEPTH:
        raise UsageError(f"-k {expression[:40]!r}... is nested too deeply.")
    if not tokens:
        raise _unexpected("the end", expression)
    word, rest = tokens[0].lower(), tokens[1:]
    if word == "not":
        inner, rest = _single(rest, expression, depth + 1)
        return partial(_none_of, inner), rest
    if word == "(":
        inner, rest = _either(rest, expression, depth + 1)
        if not rest or rest[0] != ")":
            raise _unexpected(rest[0] if rest else "the end", expression)
        return inner, rest[1:]
    if word in (")", "and", "or"):
        raise _unexpected(tokens[0], expression)
    return partial(_contains, word), rest


def _contains(word: str, rule_id: str) -> bool:
    return word in rule_id


def _any_of(left: Matcher, right: Matcher, rule_id: str) -> bool:
    return left(rule_id) or right(rule_id)


def _all_of(left: Matcher, right: Matcher, rule_id: str) -> bool:
    return left(rule_id) and right(rule_id)


def _none_of(inner: Matcher, rule_id: str) -> bool:
    return not inner(rule_id)


def _unexpected(token: str, expression: str) -> UsageError:
    return UsageError(
        f"-k {expression!r}: {token!r} was not expected there. Expected parts of rule ids, joined "
        "by and, or, not and brackets."
    )
