"""Are boxes of real data sets called wrong, and are they when their format is: COCO files in, a
table out.

`python benchmarks/verdicts/annotations.py FILE ...`: what labels/box-format says of each file as it
is, and, without its polygons, with its boxes written in another format than they say; and what
labels/boxes-misplaced says of it as it is and with the labels of each image given to another one.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from d2check.model import Ending, EndingKind, Run, Verdict
from d2check.probe import boxes
from d2check.rules.judge import judge
from d2check.rules.load import load_rules

XYXY, XYWH = 0, 1
Numbers = list[float]
# name -> (the format that is said, the numbers that are written)
WRONG: dict[str, tuple[int, Callable[[float, float, float, float], Numbers]]] = {
    "corners said to be XYWH": (XYWH, lambda x, y, w, h: [x, y, x + w, y + h]),
    "XYWH said to be corners": (XYXY, lambda x, y, w, h: [x, y, w, h]),
    "centres said to be XYWH": (XYWH, lambda x, y, w, h: [x + w / 2, y + h / 2, w, h]),
}


def records(path: Path) -> list[dict[str, Any]]:
    """The data set of a COCO file, as Detectron2 loads it."""
    coco = json.loads(path.read_text())
    by_image: dict[Any, list[dict[str, Any]]] = {}
    for note in coco["annotations"]:
        by_image.setdefault(note["image_id"], []).append({**note, "bbox_mode": XYWH})
    return [{**image, "annotations": by_image.get(image["id"], [])} for image in coco["images"]]


def rewritten(dicts: list[dict[str, Any]], wrong: str) -> list[dict[str, Any]]:
    """The same boxes in a wrong format, without polygons."""
    mode, write = WRONG[wrong]
    return [
        {
            **record,
            "annotations": [
                {"bbox": write(*note["bbox"]), "bbox_mode": mode}
                for note in record["annotations"]
                if len(note.get("bbox") or ()) == 4 and not note.get("iscrowd")
            ],
        }
        for record in dicts
    ]


def moved(dicts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The labels of each image given to the one a third of the data set further on."""
    by = max(1, len(dicts) // 3)
    return [
        {**record, "annotations": dicts[number - by]["annotations"]}
        for number, record in enumerate(dicts)
    ]


def verdict(
    dicts: list[dict[str, Any]], rule_id: str = "labels/box-format"
) -> tuple[Verdict, float]:
    """(what a rule says of a data set, the share of its boxes that is misplaced)."""
    rules = [rule for rule in load_rules() if rule.id == rule_id]
    run = Run("", facts=boxes.facts(dicts), ending=Ending(EndingKind.FINISHED))
    (finding,) = judge(rules, run)
    return finding.verdict, finding.value or 0.0


def main() -> None:
    """Print one line a file, and how often each verdict was given."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("files", type=Path, nargs="+")
    others = ("misplaced as it is", "labels of other images")
    said: dict[str, Counter[str]] = {name: Counter() for name in ("as it is", *WRONG, *others)}
    for path in ask.parse_args().files:
        dicts = records(path)
        variants = {"as it is": dicts} | {name: rewritten(dicts, name) for name in WRONG}
        line = []
        for name, variant in variants.items():
            found, share = verdict(variant)
            said[name][found.name] += 1
            line.append(f"{name}: {found.name} {share:.0%}")
        for name, variant in zip(others, (dicts, moved(dicts)), strict=True):
            found, share = verdict(variant, "labels/boxes-misplaced")
            said[name][found.name] += 1
            line.append(f"{name}: {found.name} {share:.0%}")
        print(f"{path}: {', '.join(line)}")
    for name, counts in said.items():
        print(f"{name:26}", ", ".join(f"{n} {word}" for word, n in counts.most_common()))


if __name__ == "__main__":
    main()
