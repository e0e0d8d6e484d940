"""Lines as the logger wrote them, without what launchers, shells and issues put around them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from d2check.sources.log_txt import messages

_QUOTE = re.compile(rb"^[ \t]*(?:> ?)+")
# What launchers and containers put in front of each line: torch >= 2.2, mpirun, ray, srun -l, CRI.
_LABEL = re.compile(
    rb"(?:\[rank\d+\]: ?|\[\d+,\d+\]<std(?:out|err)>:? ?|\((?:[\w.]+ )?pid=\d+[^)]{0,40}\) ?|"
    rb"\d{1,4}: |"
    rb"\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:?\d\d) (?:std(?:out|err) [FP] )?)"
)
_STAMP = re.compile(r"\[\d\d/\d\d \d\d:\d\d:\d\d[ \]]")
_BLOCK_BYTES = 64 * 1024


def blocks_of(batch: bytes) -> Iterator[bytes]:
    """The lines of a batch, some hundred at a time, each time without the last newline."""
    begin = 0
    while begin <= len(batch):
        end = batch.find(b"\n", begin + _BLOCK_BYTES)
        end = end if end >= 0 else len(batch)
        yield batch[begin:end]
        begin = end + 1


def _unmarked(line: bytes) -> bytes:
    """The line without the quote, the bold or the code marks that an issue begins it with."""
    line = _QUOTE.sub(b"", line)
    if line.lstrip()[:2] == b"**":
        return line.replace(b"**", b"")
    return line.lstrip(b"`") if line[:1] == b"`" else line


def from_stamp(text: str) -> tuple[str, re.Match[str] | None]:
    """The text from a logger's stamp inside it on, if there is one, and the match of its prefix."""
    stamp = _STAMP.search(text, 1)
    if stamp is None:
        return text, None
    message = text[stamp.start() :].rstrip("\"'` *")
    found = messages.PREFIX.match(message)
    return (message, found) if found else (text, None)


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip()


def bare(line: bytes) -> tuple[bytes, str]:
    """The line without quote, bold and code marks and a launcher's label, as bytes and as text."""
    if line.strip()[:1] in b">*`":
        line = _unmarked(line)
    label = _LABEL.match(line)
    if label:
        line = line[label.end() :]
    return line, _text(line)
