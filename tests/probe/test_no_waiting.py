"""The probe waits for no GPU in an iteration, and charges late work to the phase that asked for it.

No GPU is needed: the trainings run on the processor, under a stand-in for torch.cuda. In it every
operation of the model is put into a queue that is worked off late, with a clock of its own, as on a
GPU, and whatever there has to wait for the queue (`item`, `nonzero`, `tolist`, an index of booleans
...) is noted with the line that asked for it.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import types

import pytest

torch = pytest.importorskip("torch")
train_loop = pytest.importorskip("detectron2.engine.train_loop")

from detectron2.config import get_cfg  # noqa: E402
from detectron2.data import build_detection_train_loader  # noqa: E402
from detectron2.modeling import build_model  # noqa: E402
from detectron2.solver import build_optimizer  # noqa: E402
from detectron2.utils.events import EventStorage  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from d2check.probe import attach, clocks, iteration, nvml, run_config, spikes, wire  # noqa: E402
from d2check.probe.plan import KIND_HOOK, Plan  # noqa: E402
from d2check.probe.recorder import Recorder  # noqa: E402
from d2check.probe.session import Session  # noqa: E402

try:
    from torch.overrides import TorchFunctionMode
except ImportError:  # torch before 1.13
    pytest.skip("this torch has no modes that see every operation", allow_module_level=True)

LAUNCH_S, KERNEL_S, QUERY_S = 5e-6, 50e-6, 1e-6
ITERATIONS = 12  # two of them are sampled
# Operations whose result, or its size, the processor needs (the CUDA kernels' own sources).
WAITING = {
    "_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2",
    "unique_dim", "unique_consecutive", "bincount", "_assert_async",
}  # fmt: skip
READING = {"cpu", "tolist", "numpy", "__array__"}
# Whose code a waiting operation belongs to is told by the innermost file of one of these.
OURS, TRAININGS = "/d2check/probe/", ("/detectron2/", "/torch/optim/", "/torch/amp/", "/tests/")


class Stream:
    """What is queued is done at `done_s`."""

    def __init__(self):
        self.done_s = 0.0


class LateGpu:
    """torch.cuda of one GPU, whose work is done long after it was asked for."""

    def __init__(self):
        self.now_s = 0.0  # the processor's clock
        self.main = self.current = Stream()
        self.waits = []  # (operation, "file:line" of the probe or None)
        self.asked_of = []
        self.trouble = None  # "stuck" or "lost"
        self._made_s = {}  # address -> when what lies there is done
        self._at_hand = {}  # address -> tensor, of what the loader gave: it is in the host's memory
        self.memory = types.SimpleNamespace()
        self.is_current_stream_capturing = lambda: False

    def now(self):
        return self.now_s

    def launch(self, told):
        self.now_s += LAUNCH_S
        self.current.done_s = max(self.current.done_s, self.now_s) + KERNEL_S
        for tensor in _tensors(told):
            self._made_s[tensor.data_ptr()] = self.current.done_s

    def wait(self, operation, *values):
        """For all that is queued in this stream; one that stands apart has nothing queued."""
        waits = self.current is self.main or self.current.done_s > self.now_s
        self.now_s = max(self.now_s, self.current.done_s)
        for tensor in _tensors(values):
            made_s = self._made_s.get(tensor.data_ptr(), 0.0)
            assert made_s <= self.now_s, f"{operation} reads what is not made yet"
        if waits:
            self.waits.append((operation, _place_in_probe()))

    def hold(self, *tensors):
        for tensor in tensors:
            self._at_hand[tensor.data_ptr()] = tensor

    def is_at_hand(self, values):
        tensors = _tensors(values)
        return bool(tensors) and all(t.data_ptr() in self._at_hand for t in tensors)

    # What the probe asks of torch.cuda.
    def Event(self, enable_timing):
        return Event(self)

    def Stream(self, device):
        return Stream()

    def current_stream(self, device):
        self.asked_of.append(device.index)
        return self.current

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream
        yield
        self.current = before

    def synchronize(self, device):
        self.wait("synchronize")

    def current_device(self):
        return 0

    def memory_stats_as_nested_dict(self, device=None):
        pools = {name: {"all": {"current": 2**20, "peak": 2**21}} for name in _MEMORY}
        return {**pools, "num_alloc_retries": 0, "num_ooms": 0}

    def reset_peak_memory_stats(self, device=None):
        pass


_MEMORY = ("allocated_bytes", "reserved_bytes", "active_bytes")


class Event:
    def __init__(self, gpu):
        self._gpu = gpu
        self.at_s = None

    def record(self, stream):
        self.at_s = max(stream.done_s, self._gpu.now_s)

    def query(self):
        if self._gpu.trouble == "lost":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        self._gpu.now_s += QUERY_S
        return self._gpu.trouble is None and self.at_s <= self._gpu.now_s

    def elapsed_time(self, later):
        assert self.at_s <= self._gpu.now_s, "torch raises: device not ready"
        assert later.at_s <= self._gpu.now_s, "torch raises: device not ready"
        return (later.at_s - self.at_s) * 1e3


class Operations(TorchDispatchMode):
    """Queues every operation, and waits where a GPU would have to be waited for."""

    def __init__(self, gpu):
        super().__init__()
        self._gpu = gpu

    def __torch_dispatch__(self, operation, kinds, args=(), kwargs=None):
        told = operation(*args, **(kwargs or {}))
        if self._gpu.is_at_hand([args, kwargs]):
            self._gpu.hold(*_tensors(told))
            return told
        name = operation._schema.name.partition("::")[2]
        if name in WAITING or (name.startswith("index") and _has_booleans(args[1])):
            self._gpu.wait(name, args)
        elif not any(r.alias_info and not r.alias_info.is_write for r in operation._schema.returns):
            self._gpu.launch(told)  # no view
        return told


class Reading(TorchFunctionMode):
    """Sees what on the processor needs no operation: to read a tensor, to move it, to make one."""

    def __init__(self, gpu):
        super().__init__()
        self._gpu = gpu

    def __torch_function__(self, function, kinds, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        makes = function in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None
        moves = name == "to" and _place_in_probe() and "cpu" in map(str, [*args, *kwargs.values()])
        reads = (name in READING or moves) and not self._gpu.is_at_hand(args)
        if makes or reads:
            self._gpu.wait(name, args)
        return function(*args, **kwargs)


def _tensors(values):
    if isinstance(values, torch.Tensor):
        return [values]
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, (list, tuple)):
        return [tensor for value in values for tensor in _tensors(value)]
    return []


def _has_booleans(indices):
    return any(t.dtype in (torch.bool, torch.uint8) for t in _tensors(indices))


def _place_in_probe():
    """The line of the probe that the present operation comes from; None if it is another's."""
    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if OURS in path:
            return f"{path.rpartition('/')[2]}:{frame.f_lineno}"
        if path != __file__ and any(folder in path for folder in TRAININGS):
            return None
        frame = frame.f_back
    return None


RETINANET = [
    "MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.RETINANET.NUM_CLASSES", 3, "MODEL.MASK_ON",
    False, "MODEL.RETINANET.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"],
    "MODEL.RETINANET.NUM_CONVS", 1,
]  # fmt: skip


def make_trainer(demo, overrides, gpu, *, amp=False, batches=None):
    """A trainer of the demo's model; its batches are loaded, and none of them is on the GPU."""
    run_config.load_setup(str(demo / "demo_setup.py"))
    cfg = get_cfg()
    cfg.merge_from_file(str(demo / "config.yaml"))
    cfg.merge_from_list(
        ["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", 0, "SOLVER.IMS_PER_BATCH", 2, *overrides]
    )
    if batches is None:
        batches = [*itertools.islice(build_detection_train_loader(cfg), 4)]
    for sample in itertools.chain(*batches):
        fields = sample["instances"].get_fields()
        gpu.hold(sample["image"], fields["gt_boxes"].tensor, fields["gt_classes"])
    batches = list(batches)
    loader = ([dict(sample) for sample in batch] for batch in itertools.cycle(batches))
    torch.manual_seed(1)
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    if amp:
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        return train_loop.AMPTrainer(model, loader, optimizer, scaler)
    return train_loop.SimpleTrainer(model, loader, optimizer)


def train(trainer, gpu, folder, *, phases=None):
    """Records of a training with every default on. Noted are waits of its iterations alone."""
    plan = {
        "folder": str(folder),
        "entry": {"kind": KIND_HOOK},
        "phases": phases or [{"name": "as-configured", "iterations": 100}],
        "grad_norm_every": 10,
    }
    session = Session(Plan(plan), Recorder(str(folder)))
    session.recorder.open(0)
    training = attach.Training(session, trainer, train_loop.HookBase, 0, 1)
    trainer.max_iter = 10**6
    with EventStorage(0) as trainer.storage, Operations(gpu), Reading(gpu):
        trainer.iter = 0
        training.begin(0, trainer.max_iter)
        trainer.iter = -1
        trainer.model(next(trainer._data_loader_iter))  # what is looked at once, at its first pass
        gpu.waits.clear()
        try:
            for trainer.iter in range(ITERATIONS):
                trainer.before_step()
                trainer.run_step()
                trainer.after_step()
        except RuntimeError as error:
            training.end(error)
            raise
        in_iterations = list(gpu.waits)
        training.end(None)
    gpu.waits = in_iterations
    lines = (folder / wire.RECORDS).read_text().splitlines()
    return [wire.decode(line) for line in lines]


def of_probe(gpu):
    """Lines of the probe that waited for the GPU, each with the operation."""
    return sorted({f"{name} at {place}" for name, place in gpu.waits if place})


@pytest.fixture
def gpu(monkeypatch):
    gpu = LateGpu()
    device = types.SimpleNamespace(type="cuda", index=1)
    monkeypatch.setattr(iteration, "gpu_of", lambda *_: (gpu, device))
    monkeypatch.setattr(clocks, "_now_s", gpu.now)

    def no_driver(ordinal):
        raise nvml.Unavailable("it is a stand-in")

    monkeypatch.setattr(nvml, "pci_address", no_driver)
    return gpu


def iterations_of(records):
    return [record for record in records if record["t"] == "iter"]


def test_the_stand_in_sees_what_waits_for_a_gpu(gpu):
    """Otherwise the tests below would pass whatever the probe did."""
    here = torch.arange(3.0)
    gpu.hold(here)
    mine = compile("wait(there)", "/d2check/probe/made_up.py", "exec")
    for wait in (
        float, bool, torch.nonzero, torch.Tensor.tolist, torch.Tensor.cpu, torch.Tensor.numpy,
        lambda t: t[t > 0], lambda t: torch.equal(t, t), lambda t: t.unique(), int,
        lambda t: torch.tensor([1.0], device=t.device), lambda t: t.masked_select(t > 0),
    ):  # fmt: skip
        gpu.waits.clear()
        with Operations(gpu), Reading(gpu):
            there = torch.ones(1) * 2
            exec(mine, {"wait": wait, "there": there})
            seen = len(gpu.waits)
            float(here.max())
            assert len(gpu.waits) == seen
        assert of_probe(gpu), wait


@pytest.mark.training
@pytest.mark.parametrize(
    ("overrides", "amp"),
    [([], False), (RETINANET, False), ([], True)],
    ids=["Mask R-CNN", "RetinaNet", "mixed precision"],
)
def test_no_line_of_the_probe_waits_for_the_gpu(overrides, amp, gpu, demo, tmp_path, monkeypatch):
    monkeypatch.setattr(spikes, "USUAL", 3)
    if amp:
        if not hasattr(torch.amp, "GradScaler"):
            pytest.skip("torch before 2.3 has no scaler for the processor")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr("torch.cuda.amp.autocast", contextlib.nullcontext)
    phases = [
        {"name": "as-configured", "iterations": 8},
        {"name": "ramp", "iterations": 6, "climb": 3},
    ]
    trainer = make_trainer(demo, overrides, gpu, amp=amp)

    def spike(model, given, losses):
        return {name: loss * (9 if trainer.iter == 5 else 1) for name, loss in losses.items()}

    trainer.model.register_forward_hook(spike)
    records = train(trainer, gpu, tmp_path, phases=phases)
    assert of_probe(gpu) == []
    assert len(gpu.waits) > ITERATIONS  # Detectron2's own: it reads its losses in each iteration
    told = iterations_of(records)
    assert len(told) == ITERATIONS
    sampled = [record["i"] for record in told if "grad_norm" in record]
    assert sampled == [0, 10]
    if amp:
        assert all("grad_scale" in record for record in told if record["i"] in sampled)
    if overrides:
        assert "dense/fg_found" in told[10]["scalars"]
    assert any(record.get("kind") == "spike" for record in records)
    assert set(gpu.asked_of) == {1}  # the model's GPU, and not the current one


@pytest.mark.training
def test_what_is_read_late_is_what_the_iteration_itself_had(gpu, demo, tmp_path, monkeypatch):
    """The same training, recorded on a GPU that lags behind and on the processor."""
    loaded = make_trainer(demo, RETINANET, gpu)
    batches = [next(loaded._data_loader_iter) for _ in range(4)]
    told = []
    for name in ("late", "at-once"):
        trainer = make_trainer(demo, RETINANET, gpu, batches=batches)
        folder = tmp_path / name
        folder.mkdir()
        told.append(iterations_of(train(trainer, gpu, folder)))
        monkeypatch.setattr(iteration, "gpu_of", lambda *_: (None, None))
    late, at_once = told
    for one, other in zip(late, at_once, strict=True):
        del one["scalars"]["data_time"], other["scalars"]["data_time"]
        assert one["scalars"] == pytest.approx(other["scalars"])
    assert "dense/fg_found" in late[10]["scalars"]
    assert late[10]["grad_norm"] == pytest.approx(at_once[10]["grad_norm"])
    assert "memory" in late[0]


class FewKernels(torch.nn.Module):
    """Two milliseconds of work for the GPU, asked for in a fifth of that."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, batch):
        loss = self.weight
        for _ in range(40):
            loss = loss + 1
        return {"loss": loss.sum()}


class LongStep(torch.optim.SGD):
    """Ten milliseconds of it."""

    def step(self, closure=None):
        one = torch.ones(1)
        for _ in range(200):
            one = one + 1
        return super().step(closure)


def test_late_work_is_charged_to_the_phase_that_asked_for_it(gpu, tmp_path):
    """A wait for data that the GPU spends on the optimizer's step is half a wait."""

    def loader():
        while True:
            gpu.now_s += 0.020  # of which the GPU has work for 10 ms
            yield [{"image": torch.zeros(3, 8, 8)}]

    model = FewKernels()
    trainer = train_loop.SimpleTrainer(model, loader(), LongStep(model.parameters(), lr=0.0))
    told = iterations_of(train(trainer, gpu, tmp_path))[2:-1]
    for record in told:
        assert record["optimizer_s"] == pytest.approx(0.010, abs=0.001)
        assert record["data_s"] == pytest.approx(0.010, abs=0.001)
        assert record["forward_s"] == pytest.approx(0.002, abs=0.0005)
        phases = [value for name, value in record.items() if name.endswith("_s")]
        assert sum(phases) == pytest.approx(2 * record["total_s"], abs=1e-6)
    assert of_probe(gpu) == []


@pytest.mark.parametrize("trouble", ["stuck", "lost"])
def test_a_gpu_in_trouble_keeps_nothing_from_being_recorded(trouble, gpu, tmp_path, monkeypatch):
    """In a collective operation with a rank that is gone, `synchronize` would wait for ever."""
    monkeypatch.setattr(iteration, "GPU_LIMIT_S", 0.05)

    class Breaks(FewKernels):
        def forward(self, batch):
            if trainer.iter == ITERATIONS - 2:
                gpu.trouble = trouble
                raise RuntimeError("NCCL error: remote process exited")
            return super().forward(batch)

    loader = iter([[{"image": torch.zeros(3, 8, 8)}]] * 20)
    model = Breaks()
    trainer = train_loop.SimpleTrainer(model, loader, LongStep(model.parameters(), lr=0.0))
    with pytest.raises(RuntimeError, match="NCCL"):
        train(trainer, gpu, tmp_path)
    records = [wire.decode(line) for line in (tmp_path / wire.RECORDS).read_text().splitlines()]
    assert [r["i"] for r in iterations_of(records)] == list(range(ITERATIONS - 2))
    assert all(r["total_s"] >= 0 for r in iterations_of(records))
    assert records[-1]["t"] == "end"
    assert records[-1]["message"] == "NCCL error: remote process exited"
    assert not any("groups_not_finite" in r.get("facts", {}) for r in records)


class LaterMetrics(train_loop.SimpleTrainer):
    """As Detectron2 main with async_write_metrics: in a thread, while the next iteration runs."""

    async_write_metrics = True
    unwritten = None

    def _write_metrics(self, loss_dict, data_time):
        if self.unwritten is not None:
            at, loss = self.unwritten
            self.storage._latest_scalars["total_loss"] = (loss, at)  # put_scalar of main
        self.unwritten = self.iter, float(loss_dict["loss"].detach()) + self.iter


def test_losses_that_come_an_iteration_later_are_told_of_their_own(gpu, tmp_path):
    loader = iter([[{"image": torch.zeros(3, 8, 8)}]] * 20)
    model = FewKernels()
    trainer = LaterMetrics(model, loader, LongStep(model.parameters(), lr=0.0))
    told = iterations_of(train(trainer, gpu, tmp_path))
    assert [r["i"] for r in told] == list(range(ITERATIONS))
    assert [r["scalars"].get("total_loss") for r in told[:-1]] == [
        41.0 + at for at in range(ITERATIONS - 1)
    ]
