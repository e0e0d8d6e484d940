"""Links: one that the user names is followed, one that leads out of what was named is not."""

from __future__ import annotations

import os
from pathlib import Path

from d2check.errors import InputError


def leads_out(path: Path, root: Path) -> bool:
    """Whether a path is a link that ends outside of the root, or nowhere.

    root: a folder, links in its own path followed.
    """
    if not os.path.islink(path):
        return False
    try:
        return not path.resolve(strict=True).is_relative_to(root)
    except (OSError, RuntimeError):  # it leads nowhere, or to itself
        return True


def not_followed(path: Path, expected: str) -> InputError:
    """What to tell of a link that leads out of the folder that it lies in."""
    where = os.readlink(path)
    try:
        path.resolve(strict=True)
    except FileNotFoundError:
        return InputError(
            str(path), f"a link that leads nowhere ({where})", expected, "Copy the file itself"
        )
    except (OSError, RuntimeError):
        return InputError(
            str(path), f"a link that leads to itself ({where})", expected, "Remove it"
        )
    return InputError(
        str(path),
        f"a link that leads out of the folder ({where}), which is not followed",
        expected,
        "Name the link itself, or what it leads to",
    )
