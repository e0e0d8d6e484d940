"""A training whose memory is counted: the iterations of Detectron2's own trainer, one by one."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import torch
import tracing
from caching_allocator import CachingAllocator, Recording
from detectron2.data import DatasetMapper
from detectron2.engine import SimpleTrainer
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.utils.events import EventStorage
from torch.utils._python_dispatch import _disable_current_modes

from d2check.probe.phases import worst_batch

MIB = 2.0**20


class Meter:
    """As probe.memory.CudaMeter, of a counted heap."""

    def __init__(self, heap: CachingAllocator, capacity_mib: float = 80_000.0) -> None:
        self._heap = heap
        self._capacity_mib = capacity_mib

    def capacity(self) -> dict[str, float]:
        return {"gpu_total_mib": self._capacity_mib, "gpu_other_mib": 0.0}

    def begin_trial(self) -> None:
        self._heap.empty_cache()
        self._heap.reset_peaks()

    def take_trial(self) -> dict[str, float]:
        return {
            "peak_allocated_mib": round(self._heap.peak_allocated / MIB, 2),
            "peak_reserved_mib": round(self._heap.peak_reserved / MIB, 2),
        }

    def end_trial(self) -> float:
        self._heap.empty_cache()
        self._heap.reset_peaks()
        return round(self._heap.allocated / MIB, 2)


KINDS = ("sgd", "adam", "amp", "kept-gradients")


class HalfPrecision(SimpleTrainer):
    """Detectron2's AMPTrainer, which wants a GPU, on the CPU."""

    precision = torch.float16

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.grad_scaler = torch.amp.GradScaler("cpu")

    def run_step(self) -> None:
        data = next(self._data_loader_iter)
        with torch.autocast("cpu", dtype=self.precision):
            loss_dict = self.model(data)
            losses = sum(loss_dict.values())
        self.optimizer.zero_grad()
        self.grad_scaler.scale(losses).backward()
        self._write_metrics(loss_dict, 0.0)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()


class Counted:
    """A model and its optimizer; `step(batch)` trains once and tells its peaks, MiB."""

    def __init__(self, cfg: Any, *, computed: bool, kind: str = "sgd") -> None:
        """`computed`: every operator at work. kind: of KINDS."""
        self.cfg = cfg
        self.heap = Recording()
        self.mode = (tracing.Allocations if computed else tracing.Sizes)(self.heap)
        self.model = build_model(cfg)
        self.model.train()
        _calm(self.model)
        self.mode.add(*self.model.parameters(), *self.model.buffers())
        self.optimizer = build_optimizer(cfg, self.model)
        if kind == "adam":
            self.optimizer = torch.optim.AdamW(self.optimizer.param_groups, lr=0.0)
        if kind == "kept-gradients":  # as torch's default before 2.0
            forget = self.optimizer.zero_grad
            self.optimizer.zero_grad = lambda set_to_none=False: forget(set_to_none=False)
        for group in self.optimizer.param_groups:
            group["foreach"] = True  # as on CUDA, where it is torch's choice
        self._batches: list[list[dict]] = []
        endless = iter(lambda: self._batches.pop(), None)
        trainer = HalfPrecision if kind == "amp" else SimpleTrainer
        self.trainer = trainer(self.model, endless, self.optimizer)
        self.trainer.iter = 0
        self.foreground: float | None = None
        self.seen: dict[str, float] = {}

    def step(self, batch: list[dict]) -> dict[str, float]:
        self.heap.reset_peaks()
        self._batches.append(copy.deepcopy(batch))
        with EventStorage(0) as self.trainer.storage, self.counted():
            self.trainer.run_step()
        self.seen = {k: v for k, (v, _) in self.trainer.storage.latest().items()}
        return {
            "allocated_mib": self.heap.peak_allocated / MIB,
            "reserved_mib": self.heap.peak_reserved / MIB,
        }

    @contextlib.contextmanager
    def counted(self):
        """Count what happens meanwhile, as it would be on a GPU that the samples are copied to."""
        prepare = self.model.preprocess_image
        build = worst_batch.build

        def prepared(batch: list[dict]) -> Any:
            return prepare([dict(one, image=one["image"].clone()) for one in batch])

        def uncounted(*args: Any) -> Any:
            with _disable_current_modes():
                return build(*args)

        object.__setattr__(self.model, "preprocess_image", prepared)
        worst_batch.build = uncounted
        try:
            with self._trained(), self.mode:
                yield
        finally:
            object.__delattr__(self.model, "preprocess_image")
            worst_batch.build = build

    @contextlib.contextmanager
    def _trained(self):
        """Proposals around the objects, as a model that has learnt makes them.

        So many that the sampler has this share of the foreground that it may take.
        """
        heads = getattr(self.model, "roi_heads", None)
        if self.foreground is None or not hasattr(heads, "label_and_sample_proposals"):
            yield
            return
        sample = heads.label_and_sample_proposals
        wanted = int(heads.batch_size_per_image * heads.positive_fraction * self.foreground)

        def near(proposals: Any, targets: Any) -> Any:
            for found, target in zip(proposals, targets, strict=True):
                count = min(max(wanted - len(target), 0), len(found))  # objects are proposals too
                if count and len(target):
                    boxes = target.gt_boxes.tensor[torch.arange(count) % len(target)]
                    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
                    found.proposal_boxes.tensor[:count] = boxes + 0.05 * sides
            return sample(proposals, targets)

        object.__setattr__(heads, "label_and_sample_proposals", near)
        try:
            yield
        finally:
            object.__delattr__(heads, "label_and_sample_proposals")


def _calm(model: Any) -> None:
    """Random weights under frozen normalisation let features explode, and proposals with them."""
    for module in model.modules():
        if hasattr(module, "conv3") and hasattr(module, "shortcut"):
            torch.nn.init.zeros_(module.conv3.weight)


def config(name: str, *overrides: Any) -> Any:
    """A config of the model zoo, on the CPU, without weights."""
    from detectron2 import model_zoo

    cfg = model_zoo.get_config(name)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.BASE_LR = 0.0  # it need not learn
    cfg.merge_from_list(list(overrides))
    return cfg


def mapper_of(cfg: Any, *, short: int | None = None) -> DatasetMapper:
    """The config's mapper, or one that always resizes to the same length."""
    if short is not None:
        cfg = cfg.clone()
        cfg.INPUT.MIN_SIZE_TRAIN = (short,)
    return DatasetMapper(cfg, is_train=True)
