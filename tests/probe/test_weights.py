"""Gradient norms, parameters that never change, and their names."""

from __future__ import annotations

import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from d2check.probe import weights  # noqa: E402  (imports torch)


def test_the_norm_is_over_all_gradients():
    parameters = [torch.nn.Parameter(torch.zeros(n)) for n in (2, 3)]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 2.0)
    parameters.append(torch.nn.Parameter(torch.zeros(1)))  # took no part
    assert float(weights.gradient_norm(parameters)) == pytest.approx((5 * 4) ** 0.5)
    assert weights.gradient_norm([]) is None


def test_untouched_parameters_are_named_by_their_module():
    model = torch.nn.ModuleDict({"backbone": torch.nn.Linear(2, 2), "head": torch.nn.Linear(2, 2)})
    model["head"].bias.requires_grad_(False)  # frozen on purpose: nothing to tell
    checksums = weights.Checksums(model)
    assert checksums.untouched() == ["backbone", "head"]
    with torch.no_grad():
        model["head"].weight[0, 0] += 1e-6
        model["backbone"].bias += 1
    assert checksums.untouched() == ["backbone.weight"]


def test_a_step_below_the_grain_of_the_numbers_is_a_step():
    norm, forgotten, unused = (torch.nn.Parameter(torch.ones(2)) for _ in range(3))
    model = torch.nn.Module()
    model.norm, model.forgotten, model.unused = norm, forgotten, unused
    optimizer = torch.optim.SGD([norm, unused], lr=1e-6)
    checksums = weights.Checksums(model)
    (norm.sum() * 1e-3 + forgotten.sum()).backward()
    optimizer.step()  # 1 - 1e-9 is 1 in float32
    assert checksums.untouched() == ["forgotten", "norm", "unused"]
    assert checksums.untouched(optimizer) == ["forgotten", "unused"]
    optimizer.param_groups[0]["lr"] = 0.0
    assert checksums.untouched(optimizer) == ["forgotten", "norm", "unused"]


def test_values_that_trade_places_count_as_changed():
    model = torch.nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -1.0]]))
    checksums = weights.Checksums(model)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2.0, -2.0]]))  # the same sum
    assert checksums.untouched() == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_parameters_that_are_not_finite_are_named(value):
    model = torch.nn.ModuleDict({"backbone": torch.nn.Linear(2, 2), "head": torch.nn.Linear(2, 2)})
    checksums = weights.Checksums(model)
    assert checksums.not_finite() == []
    with torch.no_grad():
        model["head"].bias[1] = value
    assert checksums.not_finite() == ["head.bias"]


NAMES = st.sets(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(lambda p: ".".join([*p, "w"])),
    min_size=1,
)


@given(NAMES, st.data())
def test_common_names_cover_the_chosen_and_nothing_else(every, data):
    chosen = data.draw(st.sets(st.sampled_from(sorted(every))))
    names = weights.common_names(chosen, every)
    covered = {n for n in every if any(n == c or n.startswith(c + ".") for c in names)}
    assert covered == chosen


def test_no_float64_is_asked_of_a_gpu_that_may_have_none():
    """Apple's raise a TypeError, which ended every training with MODEL.DEVICE mps."""
    assert weights._sums(torch.ones(2, device="meta")).dtype is torch.float32
    assert weights._sums(torch.ones(2)).dtype is torch.float64


@pytest.fixture
def one_rank(tmp_path):
    """A process group of this process alone."""
    dist = torch.distributed
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", world_size=1, rank=0)
    yield
    dist.destroy_process_group()


def test_of_a_model_divided_among_ranks_this_ranks_part_is_summed_up(one_rank):
    """No rank may ask the others: they need not look in the same iteration."""
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    if not hasattr(fsdp, "fully_shard"):
        pytest.skip("this torch divides no model into DTensors")
    from torch.distributed.device_mesh import init_device_mesh

    model = torch.nn.Linear(2, 2)
    fsdp.fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    checksums = weights.Checksums(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    model(torch.ones(1, 2)).sum().backward()
    assert weights.gradient_norm(list(model.parameters())) is None
    assert checksums.untouched(optimizer) == ["bias", "weight"]
    optimizer.param_groups[0]["lr"] = 0.1
    assert checksums.untouched(optimizer) == []
    optimizer.step()
    assert checksums.untouched() == []


def test_the_weights_that_a_checkpoint_lacks_are_counted_for_the_backbone_too(tmp_path):
    checkpoint = pytest.importorskip("fvcore.common.checkpoint")

    class Stand:
        class Checkpointer(checkpoint.Checkpointer):
            pass

    class Session:
        def __init__(self):
            self.facts = {}
            self.recorder = types.SimpleNamespace(note=lambda *args, **more: None)

    session = Session()
    weights.watch_checkpointer(Stand, session)
    bottom_up = torch.nn.ModuleDict(
        {"stem": torch.nn.Conv2d(1, 1, 1), "n": torch.nn.BatchNorm2d(1)}
    )
    backbone = torch.nn.ModuleDict({"bottom_up": bottom_up, "fpn_lateral2": torch.nn.Linear(1, 1)})
    model = torch.nn.ModuleDict({"backbone": backbone, "head": torch.nn.Linear(1, 1)})
    kept = {k: v for k, v in model.state_dict().items() if "stem" not in k and "tracked" not in k}
    torch.save({"model": kept}, tmp_path / "w.pth")
    Stand.Checkpointer(model).load(str(tmp_path / "w.pth"))
    assert session.facts["weights_backbone"] == 6  # two of the convolution, four of the norm
    assert session.facts["weights_backbone_missing"] == 2
