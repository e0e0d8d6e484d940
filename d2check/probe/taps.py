"""Places in a trainer where the probe listens, each taken off again.

`inner` is the trainer that owns model, optimizer and loader: the `_trainer` of a DefaultTrainer,
else the trainer itself. What a trainer lacks is left out, and its phase with it.
"""

from __future__ import annotations

import contextlib
import functools
import types
from typing import Any, Callable

import torch

from .clocks import (
    FETCH,
    FETCHED,
    FORWARD,
    FORWARD_DONE,
    METRICS,
    OPTIMIZER,
    OPTIMIZER_DONE,
)

Undo = Callable[[], None]
Mark = Callable[[int], None]
# v0.6 holds the iterator itself, main makes it on first use.
_ITERATORS = ("_data_loader_iter_obj", "_data_loader_iter")


class TimedIterator:
    """The loader's iterator, timed. `make` gives the real one on first use."""

    def __init__(self, make: Callable[[], Any], mark: Mark, see: Callable[[Any], None]) -> None:
        """`see` is shown each batch."""
        self._make = make
        self._source: Any = None
        self._mark = mark
        self._see = see

    def __iter__(self) -> TimedIterator:
        """Itself."""
        return self

    def __next__(self) -> Any:
        """The next batch."""
        self._mark(FETCH)
        if self._source is None:
            self._source = iter(self._make())
        batch = next(self._source)
        self._mark(FETCHED)
        self._see(batch)
        return batch

    def __getattr__(self, name: str) -> Any:
        """Whatever else the real iterator has."""
        if name.startswith("__") or self.__dict__.get("_source") is None:
            raise AttributeError(name)
        return getattr(self._source, name)


def tap_loader(inner: Any, mark: Mark, see: Callable[[Any], None]) -> Undo | None:
    """Time the waiting for data; None when the trainer keeps its iterator elsewhere."""
    name = next((name for name in _ITERATORS if name in vars(inner)), None)
    if name is None:
        return None
    attribute, real = name, vars(inner)[name]
    timed = TimedIterator(lambda: inner.data_loader if real is None else real, mark, see)
    setattr(inner, attribute, timed)

    def undo() -> None:
        if vars(inner).get(attribute) is timed:
            setattr(inner, attribute, real if timed._source is None else timed._source)

    return undo


def tap_model(model: Any, mark: Mark, see: Callable[[Any], None] | None) -> Undo:
    """Time the forward pass. `see` is shown the batch where the loader could not be tapped."""

    def before(module: Any, arguments: Any) -> None:
        if see is not None and arguments:
            see(arguments[0])
        mark(FORWARD)

    def after(module: Any, arguments: Any, output: Any) -> None:
        mark(FORWARD_DONE)

    if is_compiled(model):
        return _tap_compiled(model, before, after)
    handles = (model.register_forward_pre_hook(before), model.register_forward_hook(after))

    def undo() -> None:
        for handle in handles:
            handle.remove()

    return undo


def autocast_now(device_type: str) -> Callable[[], Any]:
    """The context of mixed precision that is active now, to be entered again later.

    Not every trainer has Detectron2's scaler: with bfloat16 there is none, and scripts have theirs.
    """
    if hasattr(torch, "get_autocast_dtype"):  # torch 2.4; the others are deprecated since
        active = torch.is_autocast_enabled(device_type)
        dtype = torch.get_autocast_dtype(device_type) if active else None
    elif device_type == "cuda":
        dtype = torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None
    else:
        dtype = torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
    if dtype is None:
        return contextlib.nullcontext
    return lambda: torch.autocast(device_type, dtype=dtype)


def is_compiled(model: Any) -> bool:
    """Whether `model.compile()` was called: then its hooks are compiled with it.

    A hook of ours would break its graph, and `fullgraph=True` would refuse it. What
    `torch.compile(model)` returns is a module around it, whose own hooks are not compiled.
    """
    return vars(model).get("_compiled_call_impl") is not None


def _tap_compiled(model: Any, before: Any, after: Any) -> Undo:
    real = model._compiled_call_impl

    def call(*args: Any, **kwargs: Any) -> Any:
        before(model, args)
        output = real(*args, **kwargs)
        after(model, args, output)
        return output

    model._compiled_call_impl = call

    def undo() -> None:
        if vars(model).get("_compiled_call_impl") is call:
            model._compiled_call_impl = real

    return undo


def tap_method(owner: Any, name: str, wrap: Callable[[Any], Any]) -> Undo | None:
    """Replace a method of one object by `wrap(method)`; None when there is no such method."""
    method = getattr(owner, name, None)
    if method is None:
        return None
    own = vars(owner).get(name)
    wrapped = wrap(method)

    # wraps() also copies the marks that learning-rate schedulers leave on `optimizer.step`; one
    # that is made later, in a hook's before_train, wants a bound method there.
    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return wrapped(*args, **kwargs)

    wrapper = types.MethodType(call, owner)
    setattr(owner, name, wrapper)

    def undo() -> None:
        if vars(owner).get(name) is wrapper:
            if own is None:
                delattr(owner, name)
            else:
                setattr(owner, name, own)

    return undo


def tap_metrics(inner: Any, mark: Mark) -> Undo | None:
    """The end of the backward pass: Detectron2 reads the losses right after it."""

    def wrap(write: Any) -> Any:
        def write_metrics(*args: Any, **kwargs: Any) -> Any:
            mark(METRICS)
            return write(*args, **kwargs)

        return write_metrics

    if getattr(inner, "async_write_metrics", False):
        return None  # called in another thread, at no particular moment
    return tap_method(inner, "_write_metrics", wrap)


def tap_optimizer(
    optimizer: Any,
    mark: Mark,
    before: Callable[[], None],
    after: Callable[[], None] = lambda: None,
) -> Undo | None:
    """Time the optimizer's step; `before` runs ahead of it, when gradients are complete.

    `after` runs behind it, even when it failed.

    `step` itself is wrapped, not hooked: Detectron2 clips gradients inside a subclass's `step`,
    and torch's own step hooks may then run after the clipping (and do not exist before torch 2).
    Under AMP the scaler has unscaled the gradients by then, and leaves the step out when they
    are not finite.
    """

    def wrap(step: Any) -> Any:
        def timed_step(*args: Any, **kwargs: Any) -> Any:
            before()
            mark(OPTIMIZER)
            try:
                result = step(*args, **kwargs)
            finally:
                after()
            mark(OPTIMIZER_DONE)
            return result

        return timed_step

    return tap_method(optimizer, "step", wrap)
