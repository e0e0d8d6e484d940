"""Lines that no logger wrote: the shell, the scheduler, NCCL, the keyboard."""

from __future__ import annotations

import re

from d2check.sources.log_txt.start import Start

_MAX_CHARS = 4096
_MAX_KEPT = 500
_KILLED = re.compile(
    r"^(?:\S+: line \d+: +\d+ )?(?P<shell>Killed|Terminated|Segmentation fault|Bus error|Aborted)"
    r"(?: \(core dumped\))?(?:\s{2,}.*)?$"
    r"|(?P<slurm>(?:slurmstepd|srun): error: .*(?:CANCELLED|oom|Out Of Memory|Killed|Terminated|"
    r"Segmentation fault|TIME LIMIT).*)"
    r"|.*\bterminated with signal (?P<torch>SIG\w+).*"
)
# One of these is in every line that the patterns below, tracebacks and bare errors begin with.
HINTS = (
    b"Killed", b"Terminated", b"fault", b"Bus error", b"Aborted", b"error: ", b"with signal",
    b"Watchdog", b"KeyboardInterrupt", b"^C", b"Traceback",
    b'File "', b"Error", b"Exception", b"out of memory", b"infinite or NaN", b"device-side assert",
    b"loss_dict",
)  # fmt: skip
_SIGNALS = {
    "Killed": "SIGKILL",
    "Terminated": "SIGTERM",
    "Segmentation fault": "SIGSEGV",
    "Bus error": "SIGBUS",
    "Aborted": "SIGABRT",
}
_STUCK = re.compile(r"Watchdog caught collective operation timeout")
_INTERRUPT = re.compile(r"^\^?C?KeyboardInterrupt$|^\^C$")


def tells_of_an_end(start: Start, text: str, line: int, *, in_traceback: bool) -> bool:
    """Read a raw line; whether it tells how the process ended."""
    text = text.strip()[:_MAX_CHARS]
    killed = _KILLED.match(text)
    if killed:
        signal = killed["torch"] or _SIGNALS.get(killed["shell"] or "", "")
        start.killed = (signal, text[:_MAX_KEPT], line)
        return True
    if _STUCK.search(text):
        start.event("collective-timeout", text[:_MAX_KEPT], line)
        return not in_traceback  # there it is the message of the error
    if _INTERRUPT.match(text) and not in_traceback:
        start.interrupted_line = line
        return True
    return False
