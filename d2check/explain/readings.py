"""What can be read from a training line, and what the user may add to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from d2check.config.lr_shape import LrShape
from d2check.model import Config

LossKind = Literal[
    "classifier", "proposal-class", "identity", "focal", "box", "anchor-box", "overlap", "mask",
    "objectness", "proposal-box", "keypoint", "centerness", "semantic", "points", "triplet",
    "query-class", "query-box", "query-overlap", "query-mask", "dice", "other",
]  # fmt: skip


@dataclass(frozen=True)
class Known:
    """What the user or the folder adds to the line. gpu_total_mib: memory of the card, MiB.

    iteration: False where the line does not say it.
    """

    images: int | None = None
    images_per_batch: int | None = None
    gpu_total_mib: float | None = None
    classes: int | None = None
    world_size: int | None = None
    config: Config | None = None
    iteration: bool = True


@dataclass(frozen=True)
class Progress:
    """Where in the run the line stands.

    planned_from: "told" by a config or log, "eta" (an estimate) or None. Epochs need the images
    and the batch. from_one: the project may count from 1, since Detectron2's own trainer prints
    19, 39 and so on.
    """

    iteration: int
    planned: int | None
    planned_from: Literal["told", "eta"] | None
    share: float | None
    epochs_seen: float | None
    epochs_planned: float | None
    iterations_per_epoch: float | None
    from_one: bool = False


@dataclass(frozen=True)
class Eta:
    """Seconds left, and the iterations that they stand for.

    told: the planned length is known, so that the iterations are exact; else they are an estimate
    by `time`, which is iteration_s.
    """

    seconds: float
    iterations_left: int | None
    iteration_s: float | None
    told: bool = False


@dataclass(frozen=True)
class Total:
    """The total loss and the sum of its printed parts. first: its value in the first row."""

    value: float
    parts_sum: float | None
    parts: int
    first: float | None


@dataclass(frozen=True)
class Loss:
    """One part of the loss.

    chance: the level of knowing nothing, where the head has one; at_chance: None if it cannot be
    told. classes_if_chance: how many classes would make this value chance. first: its value in
    the first row, None for a single line.
    """

    name: str
    value: float
    kind: LossKind
    chance: float | None
    at_chance: bool | None
    classes_if_chance: int | None
    first: float | None


@dataclass(frozen=True)
class Layers:
    """The same loss after the earlier layers of a decoder. values: first layer first."""

    base: str
    names: tuple[str, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Time:
    """Seconds per iteration, and the share of them spent waiting for data.

    data_s: of `rows` rows, on average. time_is_mean: `time` is a mean since the process started.
    data_is_median: then a low share clears nothing. images_per_s, epoch_s: where batch and images
    are known. last_s, last_data_s: of the very last iteration, which Detectron2's main prints.
    """

    iteration_s: float | None
    data_s: float | None
    share: float | None
    time_is_mean: bool
    data_is_median: bool
    images_per_s: float | None
    epoch_s: float | None
    rows: int = 1
    last_s: float | None = None
    last_data_s: float | None = None


@dataclass(frozen=True)
class Rate:
    """The learning rate: every schedule whose formula gives the printed digits.

    readings: the likeliest first; exact: the first one gives them exactly. planned: what the
    config asks for here; reference: by the linear scaling rule for this batch.
    """

    value: float
    rows: int
    readings: tuple[LrShape, ...]
    exact: bool
    planned: float | None
    agrees: bool | None
    reference: float | None


@dataclass(frozen=True)
class Memory:
    """Highest memory that PyTorch allocated since the process started, MiB."""

    mib: float
    total_mib: float | None


@dataclass(frozen=True)
class Other:
    """A number that Detectron2 itself does not print."""

    name: str
    value: float


Reading = Eta | Progress | Total | Loss | Layers | Time | Rate | Memory | Other


@dataclass(frozen=True)
class Explanation:
    """All readings of one row, in the order of the line.

    early: little can be learned by now; None where the line does not tell its iteration.
    """

    rows: int
    first_iteration: int
    early: bool | None
    readings: tuple[Reading, ...]
