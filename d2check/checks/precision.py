"""What half precision does to the steps of the optimizer."""

from __future__ import annotations

from d2check.model import Measurement, Scalar, Series


def skipped_steps(
    skipped: Series | None = None,
    scale: Series | None = None,
    optimizer: Series | None = None,
    amp: bool | None = None,
    *,
    skip_rows: int = 30,
    min_rows: int = 50,
) -> Measurement:
    """Share of the iterations whose step was left out because gradients were not finite.

    skipped: 0 or 1 per iteration, raw. scale: of the gradient scaler, sampled. The scaler finds
    its scale in the first iterations by skipping: they do not count. extras: skipped (their
    number), last_scale (below 1 means that gradients overflow whatever is tried; None if unknown).

    amp: whether Detectron2's scaler is there. Without any scaler nothing leaves a step out for its
    gradients: 0 where every iteration made its step (optimizer: the time it took), else undecided,
    for then the script gathers the gradients of several iterations.
    """
    if amp is False and not _has_scaler(skipped):
        if skipped is not None and len(skipped):
            return Measurement(None, undecided="by design the script steps in some iterations only")
        if optimizer is not None and len(optimizer):
            span = (int(optimizer.iterations[0]), int(optimizer.iterations[-1]))
            return Measurement(0.0, "share", span, {"skipped": 0, "last_scale": None})
    if skipped is None:
        return Measurement(None, undecided="nothing tells which steps were made")
    values = skipped.values[skip_rows:]
    if len(values) < min_rows:
        return Measurement(
            None, undecided=f"only {len(values)} iterations after the first {skip_rows}"
        )
    extras: dict[str, Scalar] = {
        "skipped": int(values.sum()),
        "last_scale": float(scale.values[-1]) if scale is not None and len(scale) else None,
    }
    span = (int(skipped.iterations[skip_rows]), int(skipped.iterations[-1]))
    return Measurement(float(values.mean()), "share", span, extras)


def _has_scaler(skipped: Series | None) -> bool:
    """Whether steps that were made are told as such: only beside a scaler they are."""
    return skipped is not None and bool((skipped.values == 0).any())
