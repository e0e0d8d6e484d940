"""What single log messages tell of a start. Words are Detectron2's, fvcore's and PyTorch's own."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from d2check.sources.log_txt.start import MAX_NAMES, Evaluation, Start

# A prefix of Detectron2's logger (console and file), or of those that logging and loguru have where
# nobody set them up: `WARNING:fvcore.common.checkpoint:`.
PREFIX = re.compile(
    r"(?:(?P<level>WARNING|ERROR|CRITICAL|DEBUG) )?"
    r"(?:\[\d\d/\d\d \d\d:\d\d:\d\d(?: [^\]]*\]: ?|\] [\w.]+ (?P<level2>[A-Z]+): ?)"
    r"|\[\d{4}-\d\d-\d\d[ T][\d:.,]+\]\[[^\]]*\]\[(?P<level5>[A-Z]+)\] - "
    r"|\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:[.,]\d+)? *(?:[\w. ]*?(?P<level3>[A-Z]{4,8}):? |"
    r"\| *(?P<level4>[A-Z]+) *\| [^-]*- )"
    r"|(?P<level6>DEBUG|INFO|WARNING|ERROR|CRITICAL):[\w.]+:(?! ))"
)

# Blocks of several lines that a message opens, up to the next message.
ENVIRONMENT, CONFIG, MISSING, TABLE, SKIPPED_TEXT = "env", "config", "missing", "table", "skip"

_Handler = Callable[[Start, "re.Match[str]", int], "str | None"]


def _rank(start: Start, found: re.Match[str], line: int) -> None:
    start.facts["world_size"] = int(found[2])
    return


def _arguments(start: Start, found: re.Match[str], line: int) -> None:
    text = found[1]
    start.facts["command"] = text[:2000]
    start.evaluation_only = "eval_only=True" in text
    gpus = re.search(r"num_gpus=(\d+)", text)
    if gpus:
        start.facts["gpus_asked"] = int(gpus[1])
    return


def _seed(start: Start, found: re.Match[str], line: int) -> None:
    start.facts["seed"] = int(found[1])
    return


def _removed(start: Start, found: re.Match[str], line: int) -> None:
    gone, left = int(found[1]), int(found[2])
    start.facts["images"] = left
    start.facts["images_before_filter"] = gone + left
    start.after_sampler = False
    if gone:
        share = 100.0 * gone / (gone + left)
        text = f"{gone:,} of {gone + left:,} images have no usable annotations ({share:.1f} %)"
        start.event("images-filtered", text, line)
    return


def _removed_keypoints(start: Start, found: re.Match[str], line: int) -> None:
    left = start.facts.get("images")
    if isinstance(left, int):
        start.facts["images"] = left - int(found[1])
    return


def _sampler(start: Start, found: re.Match[str], line: int) -> None:
    start.facts["sampler"] = found[1]
    start.after_sampler = True
    if "images" not in start.facts and start.serialized is not None:
        start.facts["images"] = start.serialized
    return


def _serializing(start: Start, found: re.Match[str], line: int) -> None:
    # Since v0.3 the training set is packed after its sampler is named; before, in front of it.
    start.serialized = int(found[1])
    if start.after_sampler:
        start.facts["images"] = start.serialized
        start.after_sampler = False
    return


def _categories(start: Start, found: re.Match[str], line: int) -> str | None:
    if start.began_line is not None or "sampler" in start.facts:
        return SKIPPED_TEXT  # of a test set
    start.facts["classes"] = int(found[1])
    start.class_instances.clear()
    return TABLE


def _auto_scale(start: Start, found: re.Match[str], line: int) -> None:
    start.facts["images_per_batch"] = int(found[1])
    start.planned = int(found[3])
    text = (
        f"Detectron2 scaled the config to {found[1]} images per batch, rate {found[2]}, "
        f"{found[3]} iterations, warm-up {found[4]}"
    )
    start.event("auto-scaled", text, line)
    return


def _steps_beyond(start: Start, found: re.Match[str], line: int) -> None:
    start.event("steps-beyond-end", found[0], line)
    return


def _loading(start: Start, found: re.Match[str], line: int) -> None:
    source = found[1].strip().removesuffix("...").strip()
    if source and source != "None" and "weights" not in start.facts:
        start.facts["weights"] = source
    start.weights_line = line
    return


def _scratch(start: Start, found: re.Match[str], line: int) -> None:
    start.event("from-scratch", "no checkpoint was found, the weights are random", line)
    return


def _skip_parameter(start: Start, found: re.Match[str], line: int) -> None:
    if len(start.skipped) < MAX_NAMES:
        start.skipped.append(found[1])
    start.weights_line = line
    return


def _missing(start: Start, found: re.Match[str], line: int) -> str:
    start.weights_line = line
    return MISSING


def _starting(start: Start, found: re.Match[str], line: int) -> None:
    start.start_iteration = int(found[1])
    start.began_line = line
    return


def _overall(start: Start, found: re.Match[str], line: int) -> None:
    if start.timed_iterations is None:
        start.timed_iterations = int(found[1])
        start.facts["iteration_s"] = float(found[3])
    return


def _total(start: Start, found: re.Match[str], line: int) -> None:
    if start.total_line is None:
        start.total_line = line
        start.facts["total_s"] = _seconds(found[1])
        start.facts["hooks_s"] = _seconds(found[2])
    return


def _seconds(text: str) -> int:
    days, _, clock = text.rpartition(" day")
    hours, minutes, seconds = (int(part) for part in clock.split()[-1].split(":"))
    return (int(days or 0) * 24 + hours) * 3600 + 60 * minutes + seconds


def _saving(start: Start, found: re.Match[str], line: int) -> None:
    if "model_final" in found[1]:
        start.final_save_line = line
    return


def _cpu_copy(start: Start, found: re.Match[str], line: int) -> None:
    start.event("oom", found[0], line)
    return


def _cached(start: Start, found: re.Match[str], line: int) -> None:
    start.event("stale-cache", found[0], line)
    return


def _category_ids(start: Start, found: re.Match[str], line: int) -> None:
    start.event("category-ids", found[0], line)
    return


def _no_segmentation(start: Start, found: re.Match[str], line: int) -> None:
    start.event("instances-filtered", found[0], line)
    return


def _batch_size(start: Start, found: re.Match[str], line: int) -> None:
    size = start.facts.get("world_size")
    if isinstance(size, int) and "images_per_batch" not in start.facts:
        start.facts["images_per_batch"] = int(found[1]) * size
    return


def _data_set(start: Start, found: re.Match[str], line: int) -> None:
    start.dataset = found[1]
    return


def _copypaste(start: Start, found: re.Match[str], line: int) -> None:
    text = found[1].strip()
    if text.startswith("Task:"):
        start.task, start.columns = text.removeprefix("Task:").strip(), ()
    elif not start.columns and not re.match(r"[-+\d.nai]+(,|$)", text):
        start.columns = tuple(part.strip() for part in text.split(","))
    else:
        try:
            values = [float(part) for part in text.split(",")]
        except ValueError:
            return
        results = tuple(zip(start.columns, values, strict=False))
        one = Evaluation(start.dataset, start.task or "bbox", results, start.last_iteration)
        start.evaluations.append(one)
        start.waiting.append(one)
        start.columns = ()
    return


def _no_predictions(start: Start, found: re.Match[str], line: int) -> None:
    # Said once for each task of an evaluation: boxes, masks.
    start.event("no-predictions", found[0], line)
    start.empty_evaluations.add(start.last_iteration)
    start.facts["evaluations_empty"] = len(start.empty_evaluations)
    return


def _opens(block: str) -> _Handler:
    def handler(start: Start, found: re.Match[str], line: int) -> str:
        return block

    return handler


def _config(start: Start, found: re.Match[str], line: int) -> str:
    start.config_text.clear()
    return CONFIG


def _seen(start: Start, found: re.Match[str], line: int) -> None:
    return None


_DURATION = r"((?:\d+ days?, )?\d+:\d\d:\d\d)"
# First word of a message -> what it may be. Words that no table below names are other messages.
_TABLE: Mapping[str, tuple[tuple[str, _Handler], ...]] = {
    "Rank": ((r"Rank of current process: (\d+)\. World size: (\d+)", _rank),),
    "Environment": ((r"Environment info:", _opens(ENVIRONMENT)),),
    "Command": ((r"Command line arguments: (.*)", _arguments),),
    "Contents": ((r"Contents of args.config_file=", _opens(SKIPPED_TEXT)),),
    "Running": ((r"Running with full config:", _config),),
    "Full": ((r"Full config saved to ", _seen),),
    "Using": (
        (r"Using a (?:generated )?random seed (\d+)", _seed),
        (r"Using training sampler (\w+)", _sampler),
        (r"Using previously cached COCO format annotations.*", _cached),
    ),
    "Model:": ((r"Model:", _opens(SKIPPED_TEXT)),),
    "Removed": (
        (r"Removed (\d+) images with no usable annotations\. (\d+) images left", _removed),
        (r"Removed (\d+) images with fewer than \d+ keypoints", _removed_keypoints),
    ),
    "Serializing": ((r"Serializing (\d+) elements", _serializing), (r"Serializing", _seen)),
    "Serialized": ((r"Serialized dataset takes", _seen),),
    "Distribution": ((r"Distribution of (?:training )?instances among all (\d+) categories",
                      _categories),),
    "Making": ((r"Making batched data loader with batch_size=(\d+)", _batch_size),),
    "Loaded": ((r"Loaded \d+ images in COCO format", _seen),),
    "Loading": (
        (r"Loading (?:checkpoint )?from (.+)", _loading),
        (r"Loading checkpoint (.+)", _loading),
        (r"Loading (?:optimizer|scheduler|trainer)", _seen),
    ),
    "[Checkpointer]": ((r"\[Checkpointer\] Loading from (.*)", _loading),),
    "[DetectionCheckpointer]": ((r"\[DetectionCheckpointer\] Loading from (.*)", _loading),),
    "No": (
        (r"No checkpoint found\. (?:Initializing|Training) model from scratch", _scratch),
        (r"No predictions from the model!?", _no_predictions),
    ),
    "Unable": ((r"Unable to load '([^']+)' to the model", _skip_parameter),),  # before v0.2
    "Skip": ((r"Skip loading parameter '([^']+)'", _skip_parameter),),
    "Some": ((r"Some model parameters (?:or buffers )?are not (?:found )?in the checkpoint",
              _missing),),
    "The": ((r"The checkpoint (?:state_dict )?contains (?:keys|parameters) (?:that are )?not used",
             _opens(SKIPPED_TEXT)),),
    "Auto-scaling": ((r"Auto-scaling the config to batch_size=(\d+), learning_rate=([\d.e+-]+), "
                      r"max_iter=(\d+), warmup=(\d+)", _auto_scale),),
    "SOLVER.STEPS": ((r"SOLVER\.STEPS contains values larger than SOLVER\.MAX_ITER.*",
                      _steps_beyond),),
    "Starting": ((r"Starting training from iteration (\d+)", _starting),),
    "Start": ((r"Start(?:ing)? training(?: from iteration (\d+))?$", _seen),),
    "Overall": ((r"Overall training speed: (\d+) iterations in " + _DURATION +
                 r" \(([\d.]+) s / it\)", _overall),),
    "Total": ((r"Total training time: " + _DURATION + r" \(" + _DURATION + r" on hooks\)",
               _total),),
    "Saving": ((r"Saving checkpoint to (\S+)", _saving),),
    "Attempting": ((r"Attempting to copy inputs of .* to CPU due to CUDA OOM", _cpu_copy),),
    "Category": ((r"Category ids in annotations are not in \[1, #categories\].*",
                  _category_ids),),
    "Filtered": ((r"Filtered out \d+ instances without valid segmentation.*", _no_segmentation),),
    "Evaluation": ((r"Evaluation results for (\S+) in csv format", _data_set),),
    "copypaste:": ((r"copypaste: (.*)", _copypaste),),
}  # fmt: skip
# First words of messages that mean something, the reader's own included.
WORDS = frozenset((*_TABLE, "Exception"))
_COMPILED = {
    word: tuple((re.compile(pattern), handler) for pattern, handler in rows)
    for word, rows in _TABLE.items()
}


def take(start: Start, text: str, line: int) -> tuple[bool, str | None]:
    """Read one message. Whether it is known, and the block of lines that it opens, if any."""
    word = text.partition(" ")[0]
    for pattern, handler in _COMPILED.get(word, ()):
        found = pattern.match(text)
        if found:
            return True, handler(start, found, line)
    return False, None
