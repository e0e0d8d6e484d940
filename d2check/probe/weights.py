"""What happens to the weights: loaded or not, gradients, parameters that never change."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from .session import Session

LISTED = 20  # names that a note spells out


def watch_checkpointer(module: Any, session: Session) -> None:
    """Note the weights that a checkpoint lacks, has in another shape, or has in excess.

    fvcore computes these lists for its own log (Checkpointer._log_incompatible_keys).
    """
    cls = module.Checkpointer
    log = getattr(cls, "_log_incompatible_keys", None)
    if log is None:  # fvcore before 0.1.1
        return

    def log_and_note(self: Any, incompatible: Any) -> Any:
        names = list(self.model.state_dict())
        total = len(names)
        missing = list(incompatible.missing_keys)
        skipped = ["%s %s, model has %s" % tuple(s) for s in incompatible.incorrect_shapes or []]
        unused = list(incompatible.unexpected_keys)
        session.facts.update(
            weights_total=total,
            weights_missing=len(missing),
            weights_skipped=len(skipped),
            weights_unused=len(unused),
            weights_backbone=len(_of_backbone(names)),
            weights_backbone_missing=len(_of_backbone(missing)),
        )
        if missing:
            note(session, "missing-weights", missing, "of %d are not in the checkpoint" % total)
        if skipped:
            note(session, "skipped-weights", skipped, "of %d have another shape there" % total)
        return log(self, incompatible)

    cls._log_incompatible_keys = log_and_note


def _of_backbone(names: list[str]) -> list[str]:
    """Weights of the network below the pyramid, which a pretrained backbone brings.

    Without batch norm's counters, which the files of Detectron2's model zoo lack.
    """
    above = (".fpn_", ".simfp_", ".top_block.", ".num_batches_tracked")
    return [n for n in names if n.startswith("backbone.") and not any(a in n for a in above)]


def note(session: Session, kind: str, names: list[str], what: str) -> None:
    """Record a list of weights by its length and its first names."""
    session.recorder.note(
        kind, "%d weights %s" % (len(names), what), count=len(names), names=names[:LISTED]
    )


def gradient_norm(parameters: list[Any]) -> Any:
    """Euclidean norm over all gradients, a tensor (so that nothing waits for the GPU), or None.

    None for a model that is divided among ranks (FSDP): one has a part of the gradients, and all of
    them would have to ask together.
    """
    gradients = [p.grad for p in parameters]
    if any(hasattr(p, "to_local") or hasattr(p, "_fsdp_flattened") for p in parameters[:1]):
        return None
    gradients = [g for g in gradients if g is not None and g.layout is torch.strided]
    if not gradients:
        return None
    if hasattr(torch, "_foreach_norm"):
        norms = torch._foreach_norm(gradients)
    else:
        norms = [torch.norm(g) for g in gradients]
    kinds = {(n.dtype, n.device) for n in norms}
    if len(kinds) > 1 or norms[0].dtype is not torch.float32:
        device = norms[0].device
        norms = [n.to(device=device, dtype=torch.float32) for n in norms]
    return torch.norm(torch.stack(list(norms)))


class Checksums:
    """Sum and norm of every trainable parameter, to see which ones a training leaves untouched."""

    def __init__(self, model: Any) -> None:
        """Take the first checksums."""
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        # Of a model that is divided among ranks one may have nothing of a parameter.
        self._parameters = {n: p for n, p in trained.items() if _own_part(p).numel()}
        self._first = self._take()

    def untouched(self, optimizer: Any = None) -> list[str]:
        """Names of parameters that have not changed, a module's own where none of its have.

        Not those to which the optimizer brings a gradient: early in a warm-up a step may be
        smaller than the grain of float32 (a norm's weight of 1 does not move by 3e-8).
        """
        now = self._take()
        same = {n for n, before in self._first.items() if now[n] == before}
        if same:
            moved = stepped(optimizer)
            same = {n for n in same if id(self._parameters[n]) not in moved}
        return common_names(same, set(self._first))

    def note_untouched(self, session: Session, iterations: int, optimizer: Any = None) -> None:
        """Record which parameters a loop of so many iterations has left as they were."""
        names = self.untouched(optimizer) if iterations > 1 else []
        if names:
            session.recorder.note(
                "untouched",
                "trainable, but unchanged after %d iterations: %s"
                % (iterations, ", ".join(names[:LISTED])),
                names=names[:100],
            )

    def not_finite(self) -> list[str]:
        """Names of parameters that hold NaN or infinity, as `untouched` names them."""
        now = self._take()
        bad = {n for n, sums in now.items() if not all(map(math.isfinite, sums))}
        return common_names(bad, set(now))

    def note_not_finite(self, session: Session) -> None:
        """Record which parameters are beyond repair."""
        names = self.not_finite()
        session.recorder.write({"t": "facts", "facts": {"groups_not_finite": len(names)}})
        if names:
            session.recorder.note(
                "not-finite",
                "parameters hold NaN or infinity: %s" % ", ".join(names[:LISTED]),
                names=names[:100],
            )

    def _take(self) -> dict[str, tuple[float, float]]:
        if not self._parameters:
            return {}
        with torch.no_grad():
            sums = [_sums(_own_part(p.detach())) for p in self._parameters.values()]
            device = sums[0].device
            rows = torch.stack([s.to(device) for s in sums]).cpu().tolist()
        return {n: (row[0], row[1]) for n, row in zip(self._parameters, rows)}


def _own_part(tensor: Any) -> Any:
    """What this rank has of a tensor: all of it, but for a DTensor."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _sums(values: Any) -> Any:
    """Sum and norm of a tensor."""
    # Apple's GPUs know no float64, nor do some of Intel's.
    wide = torch.float64 if values.device.type in ("cpu", "cuda") else torch.float32
    return torch.stack([values.sum(dtype=wide), values.float().norm().to(wide)])


def stepped(optimizer: Any) -> set[int]:
    """Ids of the parameters that an optimizer steps at a rate above zero, by a gradient not zero.

    A gradient that is not finite makes no step that could be told from none.
    """
    found = set()
    for group in getattr(optimizer, "param_groups", None) or []:
        for parameter in group["params"] if group.get("lr") else []:
            if parameter.grad is None or parameter.grad.layout is not torch.strided:
                continue
            gradient = _own_part(parameter.grad)
            largest = float(gradient.detach().abs().max()) if gradient.numel() else 0.0
            if 0.0 < largest < math.inf:
                found.add(id(parameter))
    return found


def common_names(chosen: set[str], every: set[str]) -> list[str]:
    """Dotted names for `chosen`, shortened to the module whose parameters are all in `chosen`.

    >>> common_names({"a.b.w", "a.b.v", "c.w"}, {"a.b.w", "a.b.v", "a.x", "c.w", "c.v"})
    ['a.b', 'c.w']
    """
    rest = every - chosen
    names = set()
    for name in chosen:
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            prefix = ".".join(parts[:length])
            if length == len(parts) or not any(other.startswith(prefix + ".") for other in rest):
                names.add(prefix)
                break
    return sorted(names)
