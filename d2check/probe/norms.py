"""How the model normalises and what of it is frozen, by the model itself.

Configs tell it of Detectron2's own parts only; projects have backbones and heads of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .taps import is_compiled

if TYPE_CHECKING:
    from .session import Session

_BATCH_NORM = torch.nn.modules.batchnorm._BatchNorm


def tell_at_first_forward(model: Any, session: Session) -> None:
    """Record the facts when the model is first run, after whatever the script does to its modes.

    A trainer sets its model to training; scripts then set some layers back, often in `run_step`.
    """
    if not hasattr(model, "register_forward_pre_hook"):
        return

    def tell(module: Any, arguments: Any = None) -> None:
        if handle is not None:
            handle.remove()
        found = facts(module)
        if session.state_dicts_loaded is not None:
            found["state_dicts_loaded"] = session.state_dicts_loaded
        session.recorder.write({"t": "facts", "facts": found})

    handle = None
    if is_compiled(model):  # and its hooks with it
        tell(model)
    else:
        handle = model.register_forward_pre_hook(tell)


def facts(model: Any) -> dict[str, int]:
    """Counts of layers, by the names of d2check.model.FACTS."""
    bare = getattr(model, "module", model)
    norms = [m for m in bare.modules() if _is_batch_norm(m) or _is_frozen_norm(m)]
    trained = [m for m in norms if _uses_the_batch(m)]
    frozen = [m for m in norms if not _uses_the_batch(m)]
    pooled = [m for m in trained if "Sync" in type(m).__name__]
    convolutions = torch.nn.modules.conv._ConvNd
    backbone: Any = getattr(bare, "backbone", None)
    layers = backbone.modules() if hasattr(backbone, "modules") else ()
    return {
        "batch_norms": len(trained) - len(pooled),
        "sync_batch_norms": len(pooled),
        "frozen_norms": len(frozen),
        "identity_norms": sum(_is_identity(m) for m in frozen),
        "frozen_convolutions": sum(
            isinstance(m, convolutions) and not m.weight.requires_grad for m in layers
        ),
    }


def _is_batch_norm(module: Any) -> bool:
    return isinstance(module, _BATCH_NORM)


def _is_frozen_norm(module: Any) -> bool:
    # By name: projects have copies of Detectron2's and torchvision's FrozenBatchNorm2d.
    return type(module).__name__ == "FrozenBatchNorm2d"


def _uses_the_batch(module: Any) -> bool:
    """Whether the layer's statistics are those of the batch (torch's `_BatchNorm.forward`)."""
    if not _is_batch_norm(module):
        return False
    return bool(module.training or (module.running_mean is None and module.running_var is None))


def _is_identity(module: Any) -> bool:
    """Whether a frozen norm has the values that it was made with: nothing was loaded into it.

    Checkpoints whose norms are folded into scale and offset keep the statistics and change those.
    """
    values = (
        (getattr(module, "weight", None), 1.0),
        (getattr(module, "bias", None), 0.0),
        (getattr(module, "running_mean", None), 0.0),
        (getattr(module, "running_var", None), 1.0),
    )
    with torch.no_grad():
        # Detectron2 makes the variance 1 - eps, so that the layer is exactly the identity.
        return all(
            bool((value.detach() - usual).abs().max() < 1e-4)
            for value, usual in values
            if value is not None and value.numel()
        )
