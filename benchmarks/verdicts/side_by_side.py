"""Tables of several doctors on the same labelled runs."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH = 13


@dataclass(frozen=True)
class Said:
    """What every doctor that saw one run called it. flags: doctor -> flags raised."""

    cls: str
    level: str
    expected: frozenset[str]
    flags: Mapping[str, frozenset[str]]


def wilson(hits: int, runs: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    if not runs:
        return 0.0, 1.0
    p, zz = hits / runs, z * z
    middle = (p + zz / (2 * runs)) / (1 + zz / runs)
    half = z * math.sqrt(p * (1 - p) / runs + zz / (4 * runs * runs)) / (1 + zz / runs)
    return max(0.0, middle - half), min(1.0, middle + half)


def show_doctors(said: Sequence[Said], doctors: Sequence[str], levels: Sequence[str]) -> None:
    """One column a doctor: healthy runs flagged, then for each fault any / right flag, by level."""
    names = [textwrap.wrap(doctor, WIDTH - 2) for doctor in doctors]
    height = max(map(len, names))
    print("\n  side by side: healthy runs flagged, with the 95 % interval; of each fault the runs")
    print(f"  with any flag / a right one, and a right one at {', '.join(levels)}; all in %")
    for line in range(height):
        _row("", [name[line] if line < len(name) else "" for name in names])
    seen = {doctor: [s for s in said if doctor in s.flags] for doctor in doctors}
    for cls in dict.fromkeys(s.cls for s in said):
        mine = {d: [s for s in seen[d] if s.cls == cls] for d in doctors}
        if cls.startswith("healthy"):
            shares = [_flagged(mine[d], d) for d in doctors]
            _row(cls, [f"{100 * share:.1f}" for share, *_ in shares])
            _row("", [f"{100 * low:.1f}-{100 * high:.1f}" for _, low, high in shares])
        else:
            _row(cls, [_any_right(mine[d], d) for d in doctors])
            _row("", [_by_level(mine[d], d, levels) for d in doctors])
    _row("runs", [str(len(seen[d])) for d in doctors])


def show_confusion(said: Sequence[Said], doctor: str) -> None:
    """Class and level against what the doctor called it, in % of the runs."""
    mine = [s for s in said if doctor in s.flags]
    columns = sorted({flag for s in mine for flag in s.flags[doctor]})
    print(f"\n  {doctor}: what each class was called, in % of its runs ('.' none)")
    print(f"  {'':36s} {'runs':>5s} {'none':>5s} " + " ".join(f"{_short(c):>12s}" for c in columns))
    for cls, level in dict.fromkeys((s.cls, s.level) for s in mine):
        runs = [s.flags[doctor] for s in mine if (s.cls, s.level) == (cls, level)]
        nothing = 100 * sum(not flags for flags in runs) / len(runs)
        shares = [100 * sum(c in flags for flags in runs) / len(runs) for c in columns]
        cells = " ".join(f"{share:12.0f}" if share else f"{'.':>12s}" for share in shares)
        print(f"  {cls + ', ' + level:36s} {len(runs):5d} {nothing:5.0f} {cells}")


def _short(name: str) -> str:
    return name.replace("divergence", "diverg.").replace("single_", "")[:12]


def _row(head: str, cells: Sequence[str]) -> None:
    print(f"  {head:20s}" + "".join(f"{cell:>{WIDTH}s}" for cell in cells))


def _flagged(runs: Sequence[Said], doctor: str) -> tuple[float, float, float]:
    """(share with any flag, its interval)."""
    hits = sum(bool(s.flags[doctor]) for s in runs)
    return hits / max(len(runs), 1), *wilson(hits, len(runs))


def _any_right(runs: Sequence[Said], doctor: str) -> str:
    if not runs:
        return "-"
    return f"{100 * _flagged(runs, doctor)[0]:.0f} / {100 * _right(runs, doctor):.0f}"


def _by_level(runs: Sequence[Said], doctor: str, levels: Sequence[str]) -> str:
    parts = [[s for s in runs if s.level == level] for level in levels]
    return " ".join(f"{100 * _right(part, doctor):.0f}" if part else "-" for part in parts)


def _right(runs: Sequence[Said], doctor: str) -> float:
    return sum(bool(s.flags[doctor] & s.expected) for s in runs) / len(runs)
