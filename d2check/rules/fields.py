"""Reading one value of a rule file: right, or a problem at its place and None."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from d2check.rules.expressions import Expression, ExpressionError, compile_expression
from d2check.rules.model import STATISTICS, BySampling
from d2check.rules.yaml_text import Document, Path, describe

MAX_TEXT = 4000


@dataclass(frozen=True)
class Field:
    """A value with its place. Readers return None after they reported a problem."""

    document: Document
    where: Path
    value: Any

    @property
    def name(self) -> str:
        """The dotted path, as the author would say it: `fail.above`, `examples[2].config`."""
        words = ""
        for step in self.where:
            words += f"[{step + 1}]" if isinstance(step, int) else f".{step}"
        return words.lstrip(".") or "the file"

    def problem(self, message: str, *, key: bool = False, shift: int = 0) -> None:
        """Report something about this value, or about its key."""
        self.document.report(self.where, f"{self.name} {message}", key=key, shift=shift)

    def expected(self, what: str) -> None:
        """Report that the value is of another kind."""
        self.problem(f"is {describe(self.value)}; expected {what}")

    def entries(
        self, allowed: Collection[str] | None = None, required: Iterable[str] = ()
    ) -> dict[str, Field]:
        """The entries of a mapping; unknown and missing keys are reported."""
        if not isinstance(self.value, Mapping):
            self.expected("a mapping")
            return {}
        fields = {key: Field(self.document, (*self.where, key), v) for key, v in self.value.items()}
        if allowed is not None:
            for key in [key for key in fields if key not in allowed]:
                unknown = fields.pop(key)
                unknown.problem("is no key of the rule language" + nearest(key, allowed), key=True)
        for key in required:
            if key not in fields or fields[key].value is None:
                self.problem(f"has no {key!r}, which it needs")
        return {key: entry for key, entry in fields.items() if entry.value is not None}

    def items(self) -> Iterator[Field]:
        """The items of a list."""
        if not isinstance(self.value, list):
            self.expected("a list")
            return
        for index, item in enumerate(self.value):
            yield Field(self.document, (*self.where, index), item)

    def text(self) -> str | None:
        """A text that is not empty."""
        if not isinstance(self.value, str) or not self.value.strip():
            self.expected("text")
            return None
        if len(self.value) > MAX_TEXT:
            self.problem(f"is longer than {MAX_TEXT} characters")
            return None
        return self.value.strip()

    def line(self) -> str | None:
        """A text of one line."""
        text = self.text()
        if text is not None and "\n" in text:
            self.problem("has several lines; expected one")
            return None
        return text

    def texts(self) -> tuple[str, ...]:
        """One text or a list of them."""
        if not isinstance(self.value, list):
            text = self.text()
            return (text,) if text is not None else ()
        texts = (item.text() for item in self.items())
        return tuple(text for text in texts if text is not None)

    def number(self) -> float | int | None:
        """A finite number, or an infinity where the author wrote one."""
        if isinstance(self.value, bool) or not isinstance(self.value, (int, float)):
            self.expected("a number")
            return None
        if math.isnan(self.value):
            self.expected("a number that can be compared")
            return None
        return self.value

    def integer(self, least: int = 0) -> int | None:
        """A whole number, at least `least`."""
        if isinstance(self.value, bool) or not isinstance(self.value, int) or self.value < least:
            self.expected(f"a whole number, {least} or more")
            return None
        return self.value

    def boolean(self) -> bool | None:
        """true or false."""
        if not isinstance(self.value, bool):
            self.expected("true or false")
            return None
        return self.value

    def choice(self, choices: Collection[str]) -> str | None:
        """One of some words."""
        if self.value not in choices:
            self.expected(" or ".join([", ".join(list(choices)[:-1]), list(choices)[-1]]).lstrip())
            return None
        return str(self.value)

    def expression(self) -> Expression | None:
        """An expression; a bare number, or true and false, is one, too."""
        if isinstance(self.value, (int, float)):
            return compile_expression(repr(self.value))
        text = self.line()
        if text is None:
            return None
        try:
            return compile_expression(text)
        except ExpressionError as error:
            self.problem(str(error), shift=error.column - 1)
            return None

    def by_sampling(self) -> BySampling | None:
        """`{raw: 2.2, median: 1.6}` where the value is such a mapping; reports none."""
        if isinstance(self.value, Mapping) and set(self.value) & set(STATISTICS):
            entries = self.entries(STATISTICS)
            return BySampling({name: entries[name].value for name in STATISTICS if name in entries})
        return None

    def threshold(self) -> Any:
        """A number, or numbers by sampling."""
        if self.by_sampling() is None:
            return self.number()
        numbers = {key: entry.number() for key, entry in self.entries(STATISTICS).items()}
        return BySampling({s: numbers[s] for s in STATISTICS if s in numbers})


def nearest(word: str, choices: Collection[str]) -> str:
    """`; did you mean 'x'?`, or nothing."""
    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(choices)}"
