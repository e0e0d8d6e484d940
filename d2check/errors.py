"""What can go wrong, worded once: where, what was found, what was expected, what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


class D2CheckError(Exception):
    """A problem of the input, told to the user without a traceback. Exit code 4."""


class UsageError(D2CheckError):
    """The command line, or a file that it names, cannot be used."""


class InputError(UsageError):
    """A file or folder cannot be read as what it was taken for."""

    def __init__(self, where: str, found: str, expected: str, todo: str) -> None:
        """Word the four parts. Each is a phrase without a final full stop."""
        self.where, self.found, self.expected, self.todo = where, found, expected, todo
        super().__init__(f"{where}: {found}. Expected {expected}. {todo}.")

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str, str, str]]:
        """How to make it again: an exception is pickled by its words, of which this makes others.

        Worker processes hand theirs over by pickling.
        """
        return type(self), (self.where, self.found, self.expected, self.todo)


def refused(path: object, error: OSError, expected: str) -> InputError:
    """A file that the operating system does not let be read, and why."""
    reason = error.strerror or type(error).__name__
    return InputError(
        str(path), f"it cannot be read ({reason})", expected, "Check the path and its rights"
    )


@dataclass(frozen=True)
class Problem:
    """One mistake in one place of a rule file or project file. Lines and columns count from 1."""

    path: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}: {self.message}"


class RuleFileError(UsageError):
    """All mistakes of all rule files (or of a project file), at once."""

    def __init__(self, problems: Iterable[Problem], what: str = "rule files") -> None:
        """Keep the problems in file order."""
        self.problems, self.what = tuple(problems), what
        count = len(self.problems)
        head = "1 problem" if count == 1 else f"{count} problems"
        super().__init__("\n".join([f"{head} in {what}:", *map(str, self.problems)]))

    def __reduce__(self) -> tuple[type[RuleFileError], tuple[tuple[Problem, ...], str]]:
        """How to make it again, as of InputError."""
        return type(self), (self.problems, self.what)


class LaunchError(UsageError):
    """The training could not even be started (no such interpreter, no permission)."""
