"""Data sets with the sizes and the object counts of COCO's train2017, and no pictures.

Published of it: 117,266 images with objects, 860,001 objects, 7.3 per image, 93 at most; images of
at most 640 pixels, most of them 640 x 480 or 480 x 640. Assumed: that the counts are geometric
(which has that mean, and one image in a million beyond 93), and the shares of the sizes, which are
rounded. Boxes: 41 % small, 34 % medium, 24 % large, as published.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

# (width, height): share
SIZES = {
    (640, 480): 0.33, (640, 427): 0.17, (640, 426): 0.05, (480, 640): 0.15, (427, 640): 0.06,
    (500, 375): 0.06, (612, 612): 0.03, (640, 360): 0.03, (500, 333): 0.03, (375, 500): 0.03,
    (640, 640): 0.02, (640, 425): 0.02, (360, 640): 0.01, (333, 500): 0.01,
}  # fmt: skip
MOST = 93
MEAN = 7.3


def shapes(images: int, seed: int = 0) -> list[tuple[int, int, int]]:
    """(height, width, objects) of so many images; one of them has as many objects as any."""
    rng = np.random.default_rng(seed)
    sizes = np.array(list(SIZES))
    shares = np.array(list(SIZES.values()))
    chosen = sizes[rng.choice(len(sizes), images, p=shares / shares.sum())]
    objects = np.minimum(rng.geometric(1 / MEAN, images), MOST)
    objects[int(rng.integers(images))] = MOST
    return [(int(h), int(w), int(n)) for (w, h), n in zip(chosen, objects, strict=True)]


def sample_of(
    height: int, width: int, objects: int, folder: Path, seed: int, keypoints: bool = False
) -> dict:
    """A data set's dict of an image with objects that are somewhere, with polygons."""
    rng = np.random.default_rng(seed)
    file = folder / f"{width}x{height}.jpg"
    if not file.exists():
        Image.new("RGB", (width, height)).save(file)
    annotations = []
    for _ in range(objects):
        side = float(np.exp(rng.normal(np.log(50), 1.0)))
        w, h = np.clip(side * np.array([0.8, 1.25]), 8, [width * 0.95, height * 0.95])
        x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
        turns = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        around = np.stack((x + w / 2 * (1 + np.cos(turns)), y + h / 2 * (1 + np.sin(turns))), 1)
        one = {
            "bbox": [x, y, w, h],
            "bbox_mode": 1,
            "category_id": 0 if keypoints else int(rng.integers(80)),
            "segmentation": [around.reshape(-1).tolist()],
            "iscrowd": 0,
        }
        if keypoints:
            inside = np.stack((rng.uniform(x, x + w, 17), rng.uniform(y, y + h, 17)), 1)
            one["keypoints"] = np.concatenate((inside, np.full((17, 1), 2.0)), 1).reshape(-1)
            one["keypoints"] = one["keypoints"].tolist()
        annotations.append(one)
    return {
        "file_name": str(file),
        "height": height,
        "width": width,
        "image_id": seed,
        "annotations": annotations,
    }
