"""Start of the child: `INTERPRETER -u .../main.py`, with D2CHECK_PLAN in its environment.

Loads the folder that it lies in as the package `d2check_probe`. The folder itself must not stay
on `sys.path`: its modules' names would hide the user's.
"""

from __future__ import annotations

import importlib.util
import os
import sys

NAME = "d2check_probe"


def load_package():
    # type: () -> object
    """The probe's package, loaded once per process under a name that no user's module has."""
    if NAME in sys.modules:
        return sys.modules[NAME]
    folder = os.path.dirname(os.path.abspath(__file__))
    spec = importlib.util.spec_from_file_location(
        NAME, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = package
    spec.loader.exec_module(package)
    return package


if __name__ == "__main__":
    # `python main.py` puts this folder first; the user's working directory takes its place, as
    # `python train_net.py` in that directory would have it.
    sys.path[0] = os.getcwd()
    load_package()
    from d2check_probe import child  # type: ignore[import-not-found]

    sys.exit(child.main())
