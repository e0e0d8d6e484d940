"""Gold files: what a report looked like when somebody last read it and found it right.

Renew them with `D2CHECK_RENEW_GOLD=1 pytest tests/report`, then read the diff.
"""

from __future__ import annotations

import os
from pathlib import Path

_FOLDER = Path(__file__).with_name("gold")


def assert_gold(name: str, actual: str) -> None:
    path = _FOLDER / name
    if os.environ.get("D2CHECK_RENEW_GOLD"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(actual, encoding="utf-8")
    assert actual == path.read_text(encoding="utf-8"), f"{name} changed; {__doc__}"
