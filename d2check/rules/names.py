"""The names that a rule file may use: of inputs, in expressions and in messages."""

from __future__ import annotations

from collections.abc import Callable, Collection

from d2check.model import FACTS
from d2check.rules import wording
from d2check.rules.expressions import Expression
from d2check.rules.fields import Field, nearest

ValidKey = Callable[[str], bool]

RUN_NAMES = (
    "ending", "events", "planned_iterations", "first_iteration", "last_iteration", "config",
    "malformed_lines", "rows", "segment", "complete", "misspelt_keys", "meant_keys",
    "before_ramp", "beginning",
)  # fmt: skip
RUN_NUMBERS = ("planned_iterations", "first_iteration", "last_iteration", "malformed_lines", "rows")
ROOMS = ("series", "facts", "config", "run")


def check_name(
    field: Field, name: str, valid_key: ValidKey, of_run: Collection[str] = RUN_NAMES
) -> bool:
    """Whether `room.name` can be had from a run at all; a problem where not."""
    room, _, rest = name.partition(".")
    if room not in ROOMS or not rest:
        field.problem(f"is {name!r}; names begin with {', '.join(f'{r}.' for r in ROOMS)}")
    elif room == "facts" and rest not in FACTS:
        field.problem(f"names the fact {rest!r}, which no run has" + nearest(rest, FACTS))
    elif room == "run" and rest not in of_run:
        field.problem(f"names {name!r}, which no run has" + nearest(rest, of_run))
    elif room == "config" and not valid_key(rest):
        field.problem(f"names {rest!r}, which is no key of Detectron2")
    else:
        return True
    return False


def check_names(
    field: Field, names: Collection[str], valid_key: ValidKey, *, of_symptom: bool = False
) -> None:
    """The same for the names of an expression or a message, of which those with a dot are known."""
    for name in names:
        if of_symptom and name.startswith("symptom."):
            continue
        if "." in name:
            check_name(field, name, valid_key, RUN_NUMBERS)


def parse_expression(
    field: Field, valid_key: ValidKey, *, of_symptom: bool = False
) -> Expression | None:
    """An expression whose names can be had. of_symptom: `symptom.NAME` is one of them."""
    parsed = field.expression()
    if parsed is not None:
        check_names(field, parsed.names, valid_key, of_symptom=of_symptom)
    return parsed


def parse_templates(field: Field, valid_key: ValidKey) -> tuple[str, ...]:
    """One message or a list of them, each of one line, with names that can be had."""
    texts = field.texts()
    for text in texts:
        try:
            check_names(field, wording.names_in(text), valid_key)
        except ValueError as error:
            field.problem(str(error))
        if "\n" in text:
            field.problem("has several lines; expected one")
    return texts


def parse_template(field: Field, valid_key: ValidKey) -> str | None:
    """One message."""
    return next(iter(parse_templates(field, valid_key)), None)
