"""A training health checker for Detectron2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from d2check.api import audit, run, run_command

__all__ = ["D2CheckHook", "__version__", "audit", "run", "run_command"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The library, loaded at its first use: the command line starts without it.

    `D2CheckHook` needs Detectron2 in this very environment; nothing else of d2check does.
    """
    import importlib

    if name == "D2CheckHook":
        return importlib.import_module("d2check.probe.hook").D2CheckHook
    if name in __all__:
        return getattr(importlib.import_module("d2check.api"), name)
    raise AttributeError(f"module 'd2check' has no attribute {name!r}")
