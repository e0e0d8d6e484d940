"""What the training set holds, and what one image costs to load, measured where it is loaded."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any

from . import boxes as box_formats
from .batch import LOAD_KEY

if TYPE_CHECKING:
    from .session import Session

CLASSES_LISTED = 100
BOXES_SAMPLED = 2000
# Of Detectron2's segmentations; of Detic's images that are labelled as a whole.
OTHER_LABELS = (
    "sem_seg_file_name",
    "pan_seg_file_name",
    "segments_info",
    "pos_category_ids",
    "captions",
)
XYXY_ABS, XYWH_ABS = 0, 1  # detectron2.structures.BoxMode


def watch_data_sets(module: Any, session: Session) -> None:
    """Note every data set that `detectron2.data.build` loads, before and after its filters."""
    before_filter: list[int] = []
    load = module.get_detection_dataset_dicts
    keep_usable = module.filter_images_with_only_crowd_annotations

    @functools.wraps(keep_usable)
    def keep_usable_and_count(dataset_dicts: Any) -> Any:
        before_filter.append(len(dataset_dicts))
        return keep_usable(dataset_dicts)

    @functools.wraps(load)
    def load_and_count(*args: Any, **kwargs: Any) -> Any:
        before_filter.clear()
        try:
            dicts = load(*args, **kwargs)
        except Exception:
            session.stage = "dataset"
            raise
        names = args[0] if args else kwargs.get("names", kwargs.get("dataset_names"))
        session.data_sets.append(
            {
                "names": [names] if isinstance(names, str) else list(names or []),
                "images": len(dicts),
                "images_before_filter": before_filter[0] if before_filter else len(dicts),
                "instances": count_instances(dicts) if isinstance(dicts, list) else None,
                "boxes": sample_boxes(dicts) if isinstance(dicts, list) else [],
                "shapes": image_shapes(dicts) if isinstance(dicts, list) else None,
                "files": [one.get("file_name") for one in dicts] if isinstance(dicts, list) else [],
                "facts": box_formats.facts(dicts) if isinstance(dicts, list) else {},
            }
        )
        return dicts

    module.filter_images_with_only_crowd_annotations = keep_usable_and_count
    module.get_detection_dataset_dicts = load_and_count


def count_instances(dicts: list[dict[str, Any]]) -> dict[int, int] | None:
    """Annotated objects by category id; crowds are left out, as the training does.

    None where the set is not one of objects: nothing is annotated, but in another way.
    """
    counts: dict[int, int] = {}
    for sample in dicts:
        for annotation in sample.get("annotations", ()):
            if not annotation.get("iscrowd", 0):
                category = annotation.get("category_id", -1)
                counts[category] = counts.get(category, 0) + 1
    if not counts and not all(_is_of_objects(sample) for sample in dicts[:1]):
        return None
    return counts


def _is_of_objects(sample: dict[str, Any]) -> bool:
    """Whether a record has annotations, though none may be in them, and no other kind of labels."""
    return "annotations" in sample and not any(name in sample for name in OTHER_LABELS)


def sample_boxes(dicts: list[dict[str, Any]]) -> list[tuple[float, float, float]]:
    """(root of the area, shorter and longer side of the image) of some boxes, all in pixels.

    Images are taken evenly over the set, until there are enough boxes for a median.
    """
    boxes: list[tuple[float, float, float]] = []
    for sample in dicts[:: max(1, len(dicts) // BOXES_SAMPLED)]:
        height, width = sample.get("height"), sample.get("width")
        if not height or not width:
            continue
        for annotation in sample.get("annotations", ()):
            box, mode = annotation.get("bbox"), annotation.get("bbox_mode")
            if annotation.get("iscrowd", 0) or box is None or len(box) != 4:
                continue
            if mode == XYWH_ABS:
                area = float(box[2]) * float(box[3])
            elif mode == XYXY_ABS:
                area = (float(box[2]) - float(box[0])) * (float(box[3]) - float(box[1]))
            else:
                continue
            if area > 0:
                boxes.append((area**0.5, min(height, width), max(height, width)))
        if len(boxes) >= BOXES_SAMPLED:
            break
    return boxes


def object_size_px(boxes: list[tuple[float, float, float]], cfg: Any) -> float | None:
    """Median size of the boxes after Detectron2's ResizeShortestEdge; None where not known."""
    if not boxes or cfg is None or "INPUT" not in cfg:
        return None
    shortest = sorted(cfg.INPUT.MIN_SIZE_TRAIN)[len(cfg.INPUT.MIN_SIZE_TRAIN) // 2]
    longest = cfg.INPUT.MAX_SIZE_TRAIN
    if not shortest:  # resizing is switched off
        return sorted(size for size, _, _ in boxes)[len(boxes) // 2]
    sizes: list[float] = sorted(
        size * min(shortest / short, longest / long if longest else shortest / short)
        for size, short, long in boxes
    )
    return sizes[len(sizes) // 2]


def image_shapes(dicts: list[dict[str, Any]]) -> list[tuple[int, int, int]] | None:
    """(height, width, objects) of each image, crowds left out; None where sizes are not known."""
    if not all("height" in sample and "width" in sample for sample in dicts):
        return None
    return [
        (
            int(sample["height"]),
            int(sample["width"]),
            sum(not a.get("iscrowd", 0) for a in sample.get("annotations", ())),
        )
        for sample in dicts
    ]


def training_set(session: Session, loader: Any, cfg: Any) -> dict[str, Any] | None:
    """The data set that the training reads: by the config's names, else by the loader's length."""
    length = data_set_length(loader)
    if cfg is not None and "DATASETS" in cfg:
        wanted = list(cfg.DATASETS.TRAIN)
        for entry in session.data_sets:
            if entry["names"] == wanted:
                return dict(entry, object_size_px=object_size_px(entry.get("boxes", []), cfg))
    for entry in session.data_sets:
        if entry["images"] == length:
            return entry
    return None if length is None else {"images": length}


def data_set_length(loader: Any) -> int | None:
    """Images behind a loader, through Detectron2's wrappers; None for a stream without length."""
    layer = innermost(loader)
    try:
        return len(layer) if layer is not None else None
    except TypeError:
        return None


def innermost(loader: Any) -> Any:
    """The data set inside nested loaders and data sets.

    Detectron2's: AspectRatioGroupedDataset > DataLoader > ToIterableDataset > MapDataset > list.
    A ToIterableDataset has the sampler's length, an endless stream's, so it is never stopped at.
    """
    for _ in range(10):
        vars_ = getattr(loader, "__dict__", {})
        inner = vars_.get("dataset", vars_.get("_dataset"))
        if inner is None:
            return loader
        loader = inner
    return loader


def find_workers(loader: Any) -> int | None:
    """`num_workers` of the DataLoader inside nested loaders; None when there is none."""
    for _ in range(10):
        if loader is None:
            return None
        if hasattr(loader, "num_workers"):
            return int(loader.num_workers)
        vars_ = getattr(loader, "__dict__", {})
        loader = vars_.get("dataset", vars_.get("_dataset"))
    return None


class _Reading:
    """Seconds that this process has spent reading and decoding images; None until it is seen."""

    spent_s: float | None = None


def watch_reading(module: Any) -> None:
    """Have `detectron2.data.detection_utils.read_image` timed: reading and decoding, no transform.

    Mappers that call it by the module's name, as DatasetMapper does, are seen.
    """
    read = module.read_image

    @functools.wraps(read)
    def read_and_time(*args: Any, **kwargs: Any) -> Any:
        started_s = time.perf_counter()
        image = read(*args, **kwargs)
        _Reading.spent_s = (_Reading.spent_s or 0.0) + time.perf_counter() - started_s
        return image

    module.read_image = read_and_time


def watch_loading(module: Any, session: Session | None = None) -> None:
    """Have `detectron2.data.common` put into each sample what it cost to load.

    And keep the name of an image whose loading breaks.

    On the classes, because loader workers are forked from this process and nothing of the probe
    may have to be pickled. The key is taken out again before the model sees the sample
    (`batch.BatchFacts.add`). With workers that are spawned, samples come without it.
    """
    get = module.MapDataset.__getitem__

    @functools.wraps(get)
    def get_and_time(self: Any, index: Any) -> Any:
        cost = Cost()
        try:
            sample = get(self, index)
        except Exception as error:
            if session is not None:
                session.unloaded_image.tell(self._dataset, index, error)
            raise
        return cost.stamp(sample)

    module.MapDataset.__getitem__ = get_and_time
    if not hasattr(module, "_MapIterableDataset"):  # Detectron2 before 0.6
        return

    def iterate_and_time(self: Any) -> Any:
        for source in self._dataset:
            cost = Cost()
            try:
                sample = self._map_func(source)
            except Exception as error:
                if session is not None:
                    session.unloaded_image.keep(source, error)
                raise
            if sample is None:
                continue
            # A list comes from a collating function over whole batches: no image's cost.
            yield cost.stamp(sample) if isinstance(source, dict) else sample

    module._MapIterableDataset.__iter__ = iterate_and_time


class Cost:
    """What it takes to load one image, from now on.

    Beside the seconds, those that the processor worked: the rest was waiting, for a disk or a
    network, and workers that wait need no core. Only this thread's work is counted.
    """

    __slots__ = ("_cpu_s", "_started_s")

    def __init__(self) -> None:
        """Begin."""
        _Reading.spent_s = None
        self._cpu_s = time.thread_time()
        self._started_s = time.perf_counter()

    def take(self) -> tuple[float, float, float | None]:
        """(seconds, processor seconds, seconds of reading and decoding or None) until now."""
        load_s = time.perf_counter() - self._started_s
        return load_s, time.thread_time() - self._cpu_s, _Reading.spent_s

    def stamp(self, sample: Any) -> Any:
        """The sample with its cost inside, if it is a plain dict."""
        if type(sample) is dict:
            sample[LOAD_KEY] = self.take()
        return sample


def note_training_set(session: Session, loader: Any, cfg: Any) -> None:
    """Record what the training set holds, where it is known."""
    entry = training_set(session, loader, cfg)
    if entry is not None:
        session.recorder.note("dataset", **describe(entry, class_names(entry)))


def class_names(entry: dict[str, Any]) -> list[str]:
    """`thing_classes` of the first data set of an entry; empty when it has none."""
    from detectron2.data import MetadataCatalog

    names = entry.get("names") or []
    if not names:
        return []
    return list(getattr(MetadataCatalog.get(names[0]), "thing_classes", []))


def describe(entry: dict[str, Any], class_names: list[str]) -> dict[str, Any]:
    """A `dataset` note: message, images before and after the filters, objects by class."""
    told = entry.get("instances")
    counts = told or {}
    by_class = {
        class_names[c] if 0 <= c < len(class_names) else "category %d" % c: n
        for c, n in sorted(counts.items())[:CLASSES_LISTED]
    }
    return {
        "message": "%d images" % entry["images"]
        + (", %d objects" % sum(counts.values()) if told is not None else ""),
        "names": entry.get("names", []),
        "images": entry["images"],
        "images_before_filter": entry.get("images_before_filter", entry["images"]),
        "instances": by_class,
        "object_size_px": entry.get("object_size_px"),
        "category_ids": [min(counts), max(counts)] if counts else None,
    }
