"""Runs a function right after a module has been imported, whoever imports it."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any, Callable

Action = Callable[[Any], None]


class AfterImport:
    """A finder that changes nothing but lets each named module be patched once it is complete.

    Modules that copy a name (`from x import f`) get the patched one, because the patch is applied
    before the importing module goes on.
    """

    def __init__(self) -> None:
        """No module is watched yet."""
        self._actions: dict[str, list[Action]] = {}
        self._searching: set[str] = set()

    def add(self, module: str, action: Action) -> None:
        """Call `action(module object)` after the import; at once if it is imported already."""
        if module in sys.modules:
            action(sys.modules[module])
            return
        self._actions.setdefault(module, []).append(action)

    def install(self) -> None:
        """Put the finder first."""
        sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """The module's own spec, whose loader calls the actions at its end."""
        if name not in self._actions or name in self._searching:
            return None
        self._searching.add(name)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._searching.discard(name)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_then_patch(module: Any) -> None:
            execute(module)
            for action in self._actions.pop(name, []):
                action(module)

        spec.loader.exec_module = execute_then_patch  # type: ignore[method-assign]
        return spec
