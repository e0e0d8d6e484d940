"""Which start of a training a line belongs to."""

from __future__ import annotations

import re

from d2check.sources.log_txt.start import Start

# Headings that each process prints once; the second one is another process.
_HEADINGS = {"Environment", "Command", "Running"}
# What building a trainer prints and no evaluation does.
_SETUP = ("Model:", "Removed ", "Using training sampler", "Auto-scaling the config")


class Starts:
    """The starts of one log so far. line: number of the line that is being read."""

    def __init__(self, name: str) -> None:
        self.all: list[Start] = []
        self.line = 0
        self._name = name

    def current(self, line: int | None = None) -> Start:
        """The start that the line belongs to; the first one begins at `line`."""
        if not self.all:
            self.all.append(Start(self._name, line or max(self.line, 1)))
        return self.all[-1]

    def next(self, line: int) -> Start:
        """A new start, unless nothing was heard of the current one yet."""
        if not self.all or self.all[-1].last_line:
            self.all.append(Start(self._name, line))
        return self.all[-1]

    def heard(self, word: str, text: str) -> None:
        """Begin a new start where a message tells of one. word: its first."""
        start = self.current()
        if word == "Rank":
            found = re.match(r"Rank of current process: (\d+)", text)
            rank = int(found[1]) if found else 0
            if rank in start.ranks or start.has_begun:
                start = self.next(self.line)
            start.ranks.add(rank)
            return
        again = start.began_line is not None and text.startswith("Starting training from")
        if again or (start.is_over and text.startswith(_SETUP)):
            self._next_train_call(start)
        elif word in _HEADINGS:
            if start.has_begun or (word in start.headings and len(start.ranks) < 2):
                start = self.next(self.line)
            start.headings.add(word)

    def _next_train_call(self, start: Start) -> None:
        """A second `train()` in one process: what was told of the process holds on."""
        if not (start.is_over or start.rows):
            return  # another rank begins
        new = self.next(self.line)
        new.facts = {k: v for k, v in start.facts.items() if k not in ("total_s", "hooks_s")}
        new.class_instances = dict(start.class_instances)
        new.config_text = list(start.config_text)
