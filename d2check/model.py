"""The frozen types that every room passes on: Run -> Finding -> Report.

Nothing here reads a file, measures or words anything. `Report` and all it holds turn into plain
JSON-ready data with `to_plain`; the schema is documented in DESIGN and shipped in the package.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Scalar = bool | int | float | str | None
Statistic = Literal["raw", "median", "mean"]
Severity = Literal["info", "low", "medium", "high"]
Status = Literal["stable", "trial"]
Risk = Literal["safe", "try", "costly"]

SCHEMA_VERSION = 1


# --------------------------------------------------------------------------- what was observed


@dataclass(frozen=True, eq=False)
class Series:
    """One metric over iterations.

    iterations: int64[n], strictly increasing. values: float64[n], may hold NaN and infinities.
    every: iterations between samples (the usual distance). window: how many iterations each
    value summarises (1 for a raw value, 20 for Detectron2's JSONWriter). statistic: how.
    """

    name: str
    iterations: NDArray[np.int64]
    values: NDArray[np.float64]
    every: int = 1
    window: int = 1
    statistic: Statistic = "raw"

    def __len__(self) -> int:
        return len(self.values)

    def between(self, first: int, last: int) -> Series:
        """The samples whose iteration lies in [first, last]."""
        keep = (self.iterations >= first) & (self.iterations <= last)
        return Series(
            self.name,
            self.iterations[keep],
            self.values[keep],
            self.every,
            self.window,
            self.statistic,
        )


class EndingKind(str, enum.Enum):
    """How a run ended, as far as its traces tell."""

    FINISHED = "finished"  # reached its planned length
    STOPPED = "stopped"  # ended by d2check after what it was asked for
    CRASHED = "crashed"  # an exception left the training loop
    OUT_OF_MEMORY = "out-of-memory"
    NON_FINITE = "non-finite"  # Detectron2 raised because a loss or a prediction was NaN or Inf
    KILLED = "killed"  # a signal ended the process
    HUNG = "hung"  # no iteration within the limit
    INTERRUPTED = "interrupted"  # Ctrl-C
    RUNNING = "running"  # a process still writes the files
    TRUNCATED = "truncated"  # traces stop before the planned length, nobody says why
    UNKNOWN = "unknown"


# Ends that cut a training off by a fault of its own, of its script or of its machine.
BROKEN = (EndingKind.CRASHED, EndingKind.OUT_OF_MEMORY, EndingKind.KILLED, EndingKind.HUNG)


@dataclass(frozen=True)
class Ending:
    """The end of a run: what happened, at which iteration, in whose words and where it was read.

    error: exception class name ("FloatingPointError"), or the signal's name for KILLED.
    message: the exception's own words, one paragraph. traceback: shortened to the user's lines.
    read_from: "log.txt:812", "ending.json". stage: where it crashed, setup, config, dataset, build
    or train; None when nobody said.
    """

    kind: EndingKind = EndingKind.UNKNOWN
    iteration: int | None = None
    error: str | None = None
    message: str | None = None
    traceback: tuple[str, ...] = ()
    read_from: str | None = None
    stage: str | None = None


@dataclass(frozen=True)
class Event:
    """Something that happened once: a resume, an OOM, a warning, a neutralised tracker."""

    kind: str
    message: str
    iteration: int | None = None
    read_from: str | None = None


@dataclass(frozen=True)
class Beginning:
    """What a model was before its first iteration, as far as its traces tell.

    trained: True for trained weights as a whole, False where parts of it were new, None where
    nothing tells. told: by what, in words ("all 320 weights were loaded of out/model_final.pth").
    """

    trained: bool | None
    told: str


@dataclass(frozen=True)
class Config:
    """A Detectron2 config as flat data.

    values: dotted key -> plain value ("SOLVER.BASE_LR": 0.02; lists stay lists).
    complete: every default is present (a dump by Detectron2), else only what a file names.
    matches_run: whether the rows of this segment fit it; None when that could not be tried.
    """

    kind: Literal["yacs", "lazy"]
    values: Mapping[str, Any]
    complete: bool = True
    source: str | None = None
    matches_run: bool | None = None
    mismatch: str | None = None

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a dotted key."""
        return self.values.get(key, default)


@dataclass(frozen=True)
class Phase:
    """A stretch of a short run: `as-configured`, `worst-batch`, `ramp`. Iterations inclusive."""

    name: str
    first_iteration: int
    last_iteration: int


@dataclass(frozen=True, eq=False)
class Run:
    """One training, from its first to its last row, whatever it was read from.

    series: name -> Series; losses keep Detectron2's names, `planned_lr` is the rate that the
    config asks for at the observed iterations. facts: scalars (see FACTS). planned_iterations:
    SOLVER.MAX_ITER, the length the schedule is made for. rows: rows read for this segment.
    malformed_lines: counted, never silently lost. absent: input name -> why it is not there, in
    words that complete "could not be judged: ...".
    """

    source: str
    segment: int = 0
    series: Mapping[str, Series] = field(default_factory=dict)
    facts: Mapping[str, Scalar] = field(default_factory=dict)
    config: Config | None = None
    planned_iterations: int | None = None
    ending: Ending = field(default_factory=Ending)
    events: tuple[Event, ...] = ()
    phases: tuple[Phase, ...] = ()
    rows: int = 0
    malformed_lines: int = 0
    absent: Mapping[str, str] = field(default_factory=dict)

    @property
    def first_iteration(self) -> int | None:
        """The lowest iteration of any series."""
        starts = [int(s.iterations[0]) for s in self.series.values() if len(s)]
        return min(starts, default=None)

    @property
    def last_iteration(self) -> int | None:
        """The highest iteration of any series."""
        ends = [int(s.iterations[-1]) for s in self.series.values() if len(s)]
        return max(ends, default=None)


FACTS: Mapping[str, str] = {
    "world_size": "processes (GPUs) of the training",
    "configured_for": "processes (GPUs) that the config is made for, where fewer trained",
    "processes": "processes that trained, where the config is made for more",
    "images_per_step": "images per step that trained, where the config is made for more processes",
    "images_per_batch": "images per optimizer step over all processes (SOLVER.IMS_PER_BATCH)",
    "images": "images of the training set after filtering",
    "images_before_filter": "images of the training set before Detectron2's filters",
    "instances": "annotated objects of the training set, crowds left out",
    "instances_most": "objects of the commonest class of the training set",
    "commonest_class": "its name",
    "instances_fewest": "objects of the rarest class of the training set",
    "rarest_class": "its name",
    "object_size_px": "median size of the objects after resizing (root of the area, pixels)",
    "boxes_sampled": "boxes of the training set that were looked at",
    "boxes_format": "the format that they say: XYXY_ABS, XYWH_ABS",
    "boxes_misplaced": "of them, those that cannot be meant so: outside their image, no area ...",
    "boxes_reading": "another way to read their numbers, in which the fewest are misplaced",
    "boxes_misplaced_so": "how many are misplaced in that reading",
    "boxes_with_masks": "of the boxes looked at, those compared with the polygons of their object",
    "masks_compared": "objects of the first batches whose box and mask were compared",
    "masks_outside_box": "of them, those whose mask lies mostly outside its box",
    "drawn_compared": "images of the first batches that were compared with their files",
    "drawn_not_compared": "images of the first batches that could not be",
    "drawn_not_compared_why": "the commonest reason",
    "drawn_moved": "of the compared images, those that the mapper mirrored or turned",
    "drawn_resized": "of the compared images, those that it resized by a tenth or more",
    "drawn_followed": "of the compared images, those whose boxes went where their objects went",
    "drawn_stayed": "those whose boxes went where another transform would have put them",
    "drawn_elsewhere": "those whose boxes are where no transform that is known would put them",
    "drawn_untold": "those whose boxes would look the same if they had not gone with the image",
    "drawn_fault": "what the boxes that stayed did instead, in words, where several agree",
    "drawn_fault_kind": "its kind: not moved, not resized, not padded, moved alone ...",
    "drawn_fault_images": "images in which it was seen",
    "drawn_fault_of": "images in which it would have been seen, with those",
    "highest_class": "highest class id of the objects of the first batches, as the model gets them",
    "sampler": "name of the training sampler",
    "classes": "number of object classes the model is built for",
    "meta_architecture": "GeneralizedRCNN, RetinaNet ...",
    "optimizer": "SGD, ADAMW ...: the class that trains, else as far as the config says",
    "device": "cpu or cuda",
    "gpu_name": "name of the GPU",
    "gpu_total_mib": "memory of the GPU, MiB",
    "gpu_held_by_others_mib": "memory of the GPU that others held at the last look, at least, MiB",
    "gpu_unwatched": "why the GPU's driver could not be asked how busy it is and who uses it",
    "host_total_mib": "memory of the host, or of the container that trains, MiB",
    "workers_copied_mib": "memory that forked loader workers shared, and have copied since, MiB",
    "workers_copied_iterations": "in so many iterations",
    "workers_shared_mib": "what copies of all that they still shared at the end would take, MiB",
    "workers": "loader workers per process (DATALOADER.NUM_WORKERS)",
    "cpus": "processor cores that the training may use",
    "load_s_per_image": "seconds that one worker needs to load one image, median",
    "load_cpu_s_per_image": "of them, seconds of processor time; the rest is waiting",
    "read_s_per_image": "of them, seconds to read and decode the image; the rest is transforms",
    "alone_load_s_per_image": "seconds to load one image while nothing else is done, median",
    "alone_load_cpu_s_per_image": "of them, seconds of processor time",
    "alone_read_s_per_image": "of them, seconds to read and decode the image",
    "lr_peak": "highest rate of the schedule (of the group that the logged lr is of)",
    "worst_batch_mib": "peak of reserved memory with the largest possible batch, MiB",
    "worst_batch_oom": "the largest possible batch does not fit into the GPU",
    "worst_batch_height": "height that the images of that batch are padded to, pixels",
    "worst_batch_width": "their width, pixels",
    "worst_batch_objects": "objects of each image of that batch",
    "gpu_other_mib": "memory of the GPU that is not PyTorch's (its context, other processes), MiB",
    "overflow_probability": "at most so likely a planned batch needs more memory than the GPU has",
    "overflow_probability_low": "at least so likely",
    "batch_peak_mib": "peak of reserved memory to expect at most in the planned iterations, MiB",
    "memory_model_error": "error of the memory that is foretold, as a share of it",
    "images_per_gpu_that_fit": "images per GPU with which hardly any planned batch is too big",
    "longest_side_that_fits": "INPUT.MAX_SIZE_TRAIN with which hardly any planned batch is too big",
    "heaviest_images": "images that make batches too large, in words",
    "groups_not_finite": "modules or parameters that hold NaN or infinity at the end",
    "batch_not_finite": "images and boxes of the batch that became NaN which held NaN or infinity",
    "batch_not_finite_named": "which of them, the first ones",
    "first_loss": "median total loss of the first five iterations",
    "control_lr": "peak rate of the same training at lower rates, tried where little was learned",
    "control_learned": "share of the foreground that it learned to recognise, at its best",
    "control_recognised": "share of the foreground that it recognised at its end",
    "ramp_confirmed": "whether a slower ramp with another seed has done as the first one did",
    "second_learned": "share of the foreground learned ahead of that ramp, if it alone failed",
    "second_recognised": "share of the foreground recognised at its end, if it alone failed",
    "end_unexplained": "whether rows stop early or without a known goal, and no log tells why",
    "amp": "automatic mixed precision is on",
    "parameters": "number of trainable parameters",
    "weights": "the checkpoint that was loaded at the start",
    "weights_total": "weights and buffers of the model",
    "weights_missing": "of these, not in the checkpoint that was loaded",
    "weights_skipped": "of these, in another shape in the checkpoint, and so not loaded",
    "weights_backbone": "weights and buffers of the backbone, below its pyramid",
    "weights_backbone_missing": "of these, not in the checkpoint that was loaded",
    "batch_norms": "normalisation layers whose statistics are those of the batch of a process",
    "sync_batch_norms": "the same, of the batch of all processes",
    "frozen_norms": "normalisation layers whose statistics do not change",
    "identity_norms": "of these, with the values they were made with: nothing was loaded into them",
    "frozen_convolutions": "convolutions of the backbone whose weights do not change",
    "state_dicts_loaded": "how often weights were loaded into the model or a part of it",
    "evaluations_empty": "evaluations in which the model predicted nothing at all",
    "seed": "seed of the training",
    "epochs_planned": "planned iterations x images per batch / images",
    "epochs_observed": "the same for the iterations seen",
    "torch": "version of PyTorch",
    "detectron2": "version of Detectron2",
    "python": "version of the training's Python",
    "cuda": "version of CUDA that PyTorch was built for",
}


# --------------------------------------------------------------------------- what was concluded


class Verdict(str, enum.Enum):
    """What a rule says of a run."""

    PASS = "PASS"
    WARN = "WARN"
    FAIL = "FAIL"
    SKIP = "SKIP"  # could not be judged, with the reason
    ERROR = "ERROR"  # the check itself broke: our bug, or a user's check


@dataclass(frozen=True)
class Measurement:
    """What a check measured: one number, its unit, where, and named extras.

    undecided: the check's own guard speaks ("only 5 effective iterations in warm-up"); then the
    rule is skipped with these words. extras may be used by thresholds, messages and fixes.
    span: first and last iteration that the number rests on.
    """

    value: float | None
    unit: str = ""
    span: tuple[int, int] | None = None
    extras: Mapping[str, Scalar] = field(default_factory=dict)
    undecided: str | None = None


@dataclass(frozen=True)
class Proof:
    """What trainings with the fix, and once more without it (control), have shown, in words."""

    outcome: Literal["proven", "refuted", "undecided"]
    before: str
    after: str
    control: str | None = None


@dataclass(frozen=True)
class Override:
    """One Detectron2 setting to change. current is None when the config is not known."""

    key: str
    current: Any
    proposed: Any

    def text(self) -> str:
        """The proposed value as an override has it, not quoted for a shell."""
        value = self.proposed
        if isinstance(value, float):
            text = f"{value:.6g}"
            # yacs refuses an int where the default is a float: 1.0 must not become 1.
            return text if any(mark in text for mark in ".en") else text + ".0"
        if isinstance(value, (list, tuple)):
            return "(" + ", ".join(map(str, value)) + ("," if len(value) == 1 else "") + ")"
        return str(value)

    @property
    def is_lazy(self) -> bool:
        """Whether the setting is one of a LazyConfig: sections of yacs configs are upper case."""
        return not self.key.partition(".")[0].isupper()

    def assignment(self) -> str:
        """`key=value`, as LazyConfig takes it by Hydra's grammar, which has lists and no tuples."""
        value = self.proposed
        if isinstance(value, (list, tuple)):
            return f"{self.key}=[{', '.join(map(str, value))}]"
        return f"{self.key}={self.text()}"

    def pasted(self) -> str:
        """Key and value for a shell, in the form that Detectron2's script for the config takes."""
        if self.is_lazy:
            return _quoted(self.assignment())
        return f"{self.key} {_quoted(self.text())}"


@dataclass(frozen=True)
class Fix:
    """A repair: overrides that can be pasted, or an action that no key covers.

    overrides belong together (IMS_PER_BATCH with BASE_LR).
    """

    because: str
    risk: Risk = "try"
    overrides: tuple[Override, ...] = ()
    action: str | None = None
    proof: Proof | None = None

    def as_command_line(self) -> str:
        """The overrides as Detectron2's train scripts take them, see `Override.pasted`."""
        return " ".join(override.pasted() for override in self.overrides)


@dataclass(frozen=True)
class Finding:
    """One rule's verdict on one run."""

    rule: str
    title: str
    verdict: Verdict
    severity: Severity
    status: Status
    message: str
    reason: str | None = None  # why it was skipped, or what broke
    why: str = ""
    value: float | None = None
    unit: str = ""
    span: tuple[int, int] | None = None
    phase: str | None = None
    extras: Mapping[str, Scalar] = field(default_factory=dict)
    fixes: tuple[Fix, ...] = ()
    explained_by: str | None = None
    ignored: str | None = None  # the reason a project file gives
    confidence: Literal["low", "medium", "high"] = "high"
    links: tuple[str, ...] = ()

    def gates(self, strict: bool = False) -> bool:
        """Whether this finding alone makes the exit code 1.

        Trial rules and warnings do so only when asked to be strict, an ignored rule never does.
        """
        if self.ignored is not None:
            return False
        if strict:
            return self.verdict in (Verdict.FAIL, Verdict.ERROR, Verdict.WARN)
        return self.status == "stable" and self.verdict in (Verdict.FAIL, Verdict.ERROR)


@dataclass(frozen=True, eq=False)
class RunReport:
    """A run with its findings, causes first."""

    run: Run
    findings: tuple[Finding, ...]
    root_causes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unreadable:
    """A path that could not be judged, and why. It never stops the others."""

    path: str
    message: str


@dataclass(frozen=True)
class Summary:
    """Counts over all runs; seconds of wall time that d2check took.

    A rule that a project file ignores counts as ignored, whatever its verdict.
    """

    passed: int = 0
    failed: int = 0
    warned: int = 0
    skipped: int = 0
    errors: int = 0
    ignored: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class Report:
    """All that renderers need."""

    runs: tuple[RunReport, ...]
    summary: Summary
    exit_code: int
    command: tuple[str, ...] = ()
    version: str = ""
    unreadable: tuple[Unreadable, ...] = ()
    neutralised: tuple[str, ...] = ()
    replay: str | None = None
    notes: tuple[str, ...] = ()
    strict: bool = False


# --------------------------------------------------------------------------- to plain data


def _quoted(word: str) -> str:
    """For a shell, where it would take the word apart."""
    return f'"{word}"' if not word or word.startswith("(") or "=[" in word else word


def to_plain(value: Any) -> Any:
    """JSON-ready data: enums become their text, NaN and infinities become None.

    Series and arrays are left to the run folder: a report holds conclusions, not data.
    """
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if is_dataclass(value):
        return {f.name: to_plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, Sequence):
        return [to_plain(v) for v in value]
    if hasattr(value, "item"):  # a numpy scalar
        return to_plain(value.item())
    return str(value)
