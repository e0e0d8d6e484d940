"""Gradient norms, parameters that never change, and their names."""

from __future__ import annotations

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
