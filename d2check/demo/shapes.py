"""Coloured shapes as a COCO data set: images, boxes and polygon masks, from a seed.

Three classes (disc, square, triangle) on a noisy background. Drawn with numpy and written as PNG
with the standard library, so that the demo needs no imaging package.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from d2check.errors import UsageError

Sick = Literal["lr", "loader", "labels"]
SICK: tuple[Sick, ...] = ("lr", "loader", "labels")

CLASSES = ("disc", "square", "triangle")
TRAIN_IMAGES, VAL_IMAGES = 50, 10
SIDES_PX = (128, 160)
GRAIN = 8  # pixels
# Per image: a network disk. Without workers two thirds of each iteration wait for it, and three
# workers hide it, whatever the cores, since they work little and wait much.
SLOW_LOAD_S = 0.04

_FILES = Path(__file__).parent / "files"
_CORNERS = {"disc": 12, "square": 4, "triangle": 3}
_HUES = {"disc": (220, 60, 50), "square": (50, 200, 70), "triangle": (60, 80, 230)}
_TURN = {"disc": 0.0, "square": math.pi / 4, "triangle": -math.pi / 2}


@dataclass(frozen=True)
class Shape:
    """One object. Coordinates and radius in pixels; colour is RGB, 0..255."""

    kind: str
    x: float
    y: float
    radius: float
    colour: tuple[int, int, int]

    def polygon(self) -> list[tuple[float, float]]:
        """Its corners, clockwise on the screen."""
        corners = _CORNERS[self.kind]
        steps = [_TURN[self.kind] + 2 * math.pi * k / corners for k in range(corners)]
        return [
            (self.x + self.radius * math.cos(a), self.y + self.radius * math.sin(a)) for a in steps
        ]


def write_demo(folder: Path, sick: Sick | None = None, *, seed: int = 0) -> Path:
    """Write the demo into `folder` and return the path of its config.

    `folder` gets `images/`, `train.json`, `val.json`, `config.yaml` and `demo_setup.py` (the file
    for `--setup`). `sick` plants one fault: "lr" a rate 100 times too high, "loader" images on a
    slow disk, "labels" annotations exported with one class too many, so that the model takes
    every object for background. Raises UsageError for another word, OSError when it cannot write.
    """
    if sick is not None and sick not in SICK:
        raise UsageError(f"'{sick}' is no sick demo. Choose one of: {', '.join(SICK)}.")
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for split, count in (("train", TRAIN_IMAGES), ("val", VAL_IMAGES)):
        _write_split(folder, split, count, rng, one_class=sick == "labels")
    settings = {"load_s": SLOW_LOAD_S if sick == "loader" else 0.0}
    (folder / "demo.json").write_text(json.dumps(settings) + "\n")
    config = (_FILES / "config.yaml").read_text()
    if sick == "lr":
        config = _replace_once(config, "BASE_LR: 0.005", "BASE_LR: 0.5")
    if sick == "labels":
        config = _replace_once(config, "NUM_CLASSES: 3", "NUM_CLASSES: 1")
    (folder / "demo_setup.py").write_text((_FILES / "demo_setup.py").read_text())
    path = folder / "config.yaml"
    path.write_text(config)
    return path


def draw(
    shapes: list[Shape], height: int, width: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """The shapes, later ones on top, over a noisy background. uint8[height, width, 3], RGB."""
    ground = rng.integers(90, 150, size=3)
    # Coarse grain: noise in every pixel would make PNG decoding a quarter of an iteration.
    coarse = rng.normal(0, 12, size=(-(-height // GRAIN), -(-width // GRAIN), 3))
    grain = coarse.repeat(GRAIN, axis=0).repeat(GRAIN, axis=1)[:height, :width]
    canvas = np.clip(ground + grain, 0, 255)
    rows, columns = np.mgrid[0:height, 0:width] + 0.5
    for shape in shapes:
        inside = np.ones((height, width), dtype=bool)
        corners = shape.polygon()
        for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
            inside &= (x1 - x0) * (rows - y0) - (y1 - y0) * (columns - x0) >= 0
        canvas[inside] = np.clip(np.asarray(shape.colour) + grain[inside] / 2, 0, 255)
    return np.clip(canvas, 0, 255).astype(np.uint8)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """An RGB image, uint8[height, width, 3], as the bytes of a PNG file."""
    height, width, _ = pixels.shape
    rows = np.zeros((height, 1 + 3 * width), dtype=np.uint8)  # filter type 0 before each row
    rows[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def _scatter(height: int, width: int, rng: np.random.Generator) -> list[Shape]:
    """A few shapes that do not touch each other."""
    shapes: list[Shape] = []
    for _ in range(int(rng.integers(3, 9))):
        radius = float(rng.uniform(0.12, 0.24) * min(height, width))
        x = float(rng.uniform(radius, width - radius))
        y = float(rng.uniform(radius, height - radius))
        if any(math.hypot(s.x - x, s.y - y) < s.radius + radius for s in shapes):
            continue
        kind = str(rng.choice(CLASSES))
        red, green, blue = (int(c + rng.integers(-40, 41)) for c in _HUES[kind])
        shapes.append(Shape(kind, x, y, radius, (red, green, blue)))
    return shapes


def _write_split(
    folder: Path, split: str, count: int, rng: np.random.Generator, *, one_class: bool
) -> None:
    (folder / "images").mkdir(exist_ok=True)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number in range(count):
        height, width = (int(n) for n in rng.integers(SIDES_PX[0], SIDES_PX[1] + 1, size=2))
        shapes = _scatter(height, width, rng)
        name = f"images/{split}_{number:03d}.png"
        (folder / name).write_bytes(png(draw(shapes, height, width, rng)))
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for shape in shapes:
            # Some annotation tools export their project's name as an extra class, number 0: the
            # only real class then is number 1, which a model built for one class calls background.
            category = 1 if one_class else 1 + CLASSES.index(shape.kind)
            annotations.append(_annotation(len(annotations) + 1, number, category, shape))
    names = {0: "shapes", 1: "shape"} if one_class else dict(enumerate(CLASSES, start=1))
    coco = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": k, "name": name} for k, name in names.items()],
    }
    (folder / f"{split}.json").write_text(json.dumps(coco) + "\n")


def _annotation(number: int, image: int, category: int, shape: Shape) -> dict[str, object]:
    """A COCO annotation: box as x, y, width, height, and the polygon, in pixels."""
    corners = [(round(x, 2), round(y, 2)) for x, y in shape.polygon()]
    xs, ys = [x for x, _ in corners], [y for _, y in corners]
    left, top, wide, high = min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
    area = 0.5 * abs(
        sum(
            x0 * y1 - x1 * y0
            for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True)
        )
    )
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [left, top, round(wide, 2), round(high, 2)],
        "segmentation": [[n for corner in corners for n in corner]],
        "area": round(area, 2),
        "iscrowd": 0,
    }


def _replace_once(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, f"the demo's config must hold '{old}' once"
    return text.replace(old, new)
