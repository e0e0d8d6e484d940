"""Brings the probe into every Python process of a user's own training script.

Its folder is put first on PYTHONPATH, so Python runs this file at its start, in the script and in
the processes that it spawns. A sitecustomize that the user has runs as well, first.
"""

import os
import runpy
import sys
from importlib.machinery import PathFinder

_HERE = os.path.dirname(os.path.abspath(__file__))


def _run_the_users_own():
    # type: () -> None
    elsewhere = [path for path in sys.path if os.path.abspath(path or ".") != _HERE]
    spec = PathFinder.find_spec("sitecustomize", elsewhere)
    if spec is not None and spec.origin is not None:
        runpy.run_path(spec.origin, run_name="sitecustomize")


try:
    _run_the_users_own()
finally:
    if "D2CHECK_PLAN" in os.environ:
        main = runpy.run_path(os.path.join(os.path.dirname(_HERE), "main.py"), run_name="d2check")
        main["load_package"]()
        from d2check_probe import run_command  # type: ignore[import-not-found]

        run_command.install()
