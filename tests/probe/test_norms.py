"""What a model's own layers tell of its normalisation and its frozen parts."""

from __future__ import annotations

import types

import pytest

torch = pytest.importorskip("torch")

from d2check.probe import norms  # noqa: E402  (imports torch)


class FrozenBatchNorm2d(torch.nn.Module):
    """As Detectron2's: buffers only, made so that the layer changes nothing."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels) - 1e-5)


class Model(torch.nn.Module):
    """A frozen stem, two norms in the backbone and one in the head."""

    def __init__(self, frozen=FrozenBatchNorm2d):
        super().__init__()
        self.backbone = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3), frozen(4), torch.nn.Conv2d(4, 4, 3), torch.nn.BatchNorm2d(4)
        )
        self.backbone[0].weight.requires_grad_(False)
        self.head = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 1), torch.nn.GroupNorm(2, 4))
        self.head[0].weight.requires_grad_(False)

    def forward(self, x):
        return x


def test_layers_are_counted_by_what_they_do():
    assert norms.facts(Model().train()) == {
        "batch_norms": 1,
        "sync_batch_norms": 0,
        "frozen_norms": 1,
        "identity_norms": 1,
        "frozen_convolutions": 1,  # the head's own is no feature extractor
    }


def test_a_batch_norm_that_a_script_has_set_to_evaluate_is_frozen():
    model = Model().train()
    model.backbone[3].eval()
    found = norms.facts(model)
    assert (found["batch_norms"], found["frozen_norms"]) == (0, 2)


def test_a_batch_norm_without_running_statistics_always_uses_the_batch():
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(4, track_running_stats=False)).eval()
    assert norms.facts(model)["batch_norms"] == 1


@pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_var"])
def test_a_frozen_norm_that_anything_was_loaded_into_is_no_identity(name):
    model = Model()
    getattr(model.backbone[1], name).add_(torch.tensor([0.0, 0.0, 0.5, 0.0]))
    assert norms.facts(model)["identity_norms"] == 0


def test_norms_that_pool_over_processes_are_counted_apart():
    model = torch.nn.Sequential(torch.nn.SyncBatchNorm(4), torch.nn.BatchNorm2d(4)).train()
    found = norms.facts(model)
    assert (found["batch_norms"], found["sync_batch_norms"]) == (1, 1)


def test_the_model_is_looked_at_when_it_is_first_run_and_never_again():
    told = []
    recorder = types.SimpleNamespace(write=told.append)
    session = types.SimpleNamespace(recorder=recorder, state_dicts_loaded=2)
    model = Model().train()
    norms.tell_at_first_forward(model, session)
    model.backbone[3].eval()  # in the script's own run_step
    for _ in range(3):
        model(torch.zeros(1))
    (record,) = told
    assert record["facts"]["batch_norms"] == 0
    assert record["facts"]["state_dicts_loaded"] == 2
    assert not model._forward_pre_hooks


def test_what_is_no_module_is_not_looked_at():
    norms.tell_at_first_forward(lambda batch: {}, None)


@pytest.mark.training
def test_a_training_tells_them_beside_what_was_loaded(healthy):
    facts = {}
    for record in healthy.of("facts"):
        facts.update(record["facts"])
    assert facts["batch_norms"] > 0
    assert facts["frozen_norms"] == facts["frozen_convolutions"] == 0
    assert facts["state_dicts_loaded"] == 0  # the demo trains from scratch


def test_of_a_model_that_is_compiled_in_place_the_facts_are_told_at_once():
    """A hook would be compiled with it, and break its graph."""
    model = Model()
    model._compiled_call_impl = model.forward
    told = []
    session = types.SimpleNamespace(
        state_dicts_loaded=None, recorder=types.SimpleNamespace(write=told.append)
    )
    norms.tell_at_first_forward(model, session)
    assert told == [{"t": "facts", "facts": norms.facts(model)}]
    assert not model._forward_pre_hooks
