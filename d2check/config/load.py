"""A Detectron2 config file, read without Detectron2 and without executing anything in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from d2check.config import keys, lazy, yacs
from d2check.config.yaml_tree import MAX_BYTES, parse
from d2check.errors import InputError
from d2check.model import Config

_EXPECTED = "a Detectron2 config in YAML"
_BASE = "_BASE_"
_LAZY_SECTIONS = frozenset({"model", "dataloader", "optimizer", "lr_multiplier", "train"})

# Every dump by Detectron2 since v0.1 has these, whatever the project removed or added; a config
# written by hand has never been seen with all of them.
_IN_EVERY_DUMP = (
    "DATALOADER.NUM_WORKERS", "DATASETS.TEST", "DATASETS.TRAIN", "MODEL.DEVICE",
    "MODEL.META_ARCHITECTURE", "MODEL.WEIGHTS", "OUTPUT_DIR", "SEED", "SOLVER.BASE_LR",
    "SOLVER.CHECKPOINT_PERIOD", "SOLVER.GAMMA", "SOLVER.IMS_PER_BATCH", "SOLVER.LR_SCHEDULER_NAME",
    "SOLVER.MAX_ITER", "SOLVER.STEPS", "SOLVER.WARMUP_FACTOR", "SOLVER.WARMUP_ITERS",
    "SOLVER.WARMUP_METHOD", "TEST.EVAL_PERIOD",
)  # fmt: skip


def load_config(path: Path, within: Path | None = None) -> Config:
    """The config of a YAML file: a dump (`config.yaml`), a source with `_BASE_`, a LazyConfig dump.

    within: a folder that what it inherits from must not lie outside of, links followed.

    Raises:
        InputError: the file, or one that it inherits from, is missing, unreadable, binary, empty,
            no YAML or no Detectron2 config.
    """
    path = Path(path)
    tree = _read_with_bases(path, (), within)
    return _config(tree, str(path))


def config_from_text(text: str | bytes, source: str) -> Config:
    """The config that a text holds, a dump inside a log for example. `source` names its origin.

    Raises:
        InputError: as `load_config`; also for a text with `_BASE_`, which only a file can resolve.
    """
    tree = _mapping(parse(text, source), source)
    if _BASE in tree:
        raise InputError(
            source, f"{_BASE}: {tree[_BASE]!r}", "a config that is complete by itself",
            "Give the file, so that what it inherits from can be found",
        )  # fmt: skip
    return _config(tree, source)


def _config(tree: dict[str, Any], source: str) -> Config:
    if _is_lazy(tree, source):
        return Config("lazy", yacs.flatten(lazy.resolve(tree)), complete=True, source=source)
    flat = yacs.flatten(tree)
    values = {key: yacs.decode_for(key, value) for key, value in flat.items()}
    # A value that yacs reads as a dict is a section to it, however it was written.
    values = yacs.flatten(values)
    complete = all(key in values for key in _IN_EVERY_DUMP)
    return Config("yacs", values, complete=complete, source=source)


def _is_lazy(tree: dict[str, Any], source: str) -> bool:
    """Whether a tree is a LazyConfig; yacs sections and any upper-case name speak for yacs."""
    if not tree or any(keys.is_valid(name) or name.isupper() for name in tree):
        return False
    if _LAZY_SECTIONS & tree.keys():
        return True
    names = ", ".join(sorted(tree)[:4])
    raise InputError(
        source, f"a YAML file about something else (its keys: {names})", _EXPECTED,
        "Give the config.yaml of an output folder, or the .yaml file that you train with",
    )  # fmt: skip


def _read_with_bases(path: Path, chain: tuple[Path, ...], within: Path | None) -> dict[str, Any]:
    """A file's tree merged over those of its bases, as fvcore's load_yaml_with_base does."""
    for earlier in chain:
        if earlier.resolve() == path.resolve():
            trail = " -> ".join(str(p) for p in (*chain, path))
            raise InputError(
                str(chain[-1]), f"configs that inherit from each other in a circle ({trail})",
                "a chain that ends", f"Remove one {_BASE}",
            )  # fmt: skip
    if within is not None and not path.resolve().is_relative_to(within.resolve()):
        raise InputError(
            str(chain[-1] if chain else path), f"it inherits from {path}, outside of its folder",
            "a config that is complete by itself", "Name the config itself",
        )  # fmt: skip
    where = str(path) if not chain else f"{path} ({_BASE} of {chain[-1]})"
    tree = _mapping(parse(_read_bytes(path, where), where), where)
    if _BASE not in tree:
        return tree
    bases = tree.pop(_BASE)
    merged: dict[str, Any] = {}
    for base in bases if isinstance(bases, list) else [bases]:
        base_tree = _read_with_bases(_base_path(base, path), (*chain, path), within)
        merged = _merge(base_tree, merged, where)
    return _merge(tree, merged, where)


def _base_path(base: Any, path: Path) -> Path:
    if not isinstance(base, str) or not base.strip():
        raise InputError(
            str(path), f"{_BASE}: {base!r}", "the path of a YAML file, or a list of them",
            "Name the file to inherit from, relative to this one",
        )  # fmt: skip
    if "://" in base:
        raise InputError(
            str(path), f"{_BASE}: {base}, which is not on this machine", "the path of a YAML file",
            "Download that file and name its path; nothing is fetched from the network",
        )  # fmt: skip
    named = Path(base)
    try:
        named = named.expanduser()
    except RuntimeError as error:
        raise InputError(
            str(path), f"{_BASE}: {base}, the home of a user who is not known here",
            "the path of a YAML file", "Write the path in full",
        ) from error  # fmt: skip
    return path.parent / named


def _merge(over: dict[str, Any], under: dict[str, Any], where: str) -> dict[str, Any]:
    """`under` with all that `over` names; sections are merged, everything else is replaced."""
    merged = dict(under)
    for key, value in over.items():
        if isinstance(value, dict) and key in merged:
            if not isinstance(merged[key], dict):
                raise InputError(
                    where, f"{key} is a section here and a value in what it inherits from",
                    "the same kind in both", f"Rename one, or give {key} a value",
                )  # fmt: skip
            merged[key] = _merge(value, merged[key], where)
        else:
            merged[key] = value
    return merged


def _mapping(tree: Any, where: str) -> dict[str, Any]:
    if isinstance(tree, dict):
        return tree
    if tree is None:
        found = "an empty file"
    elif isinstance(tree, list):
        found = "a list"
    else:
        found = "text that is no mapping of keys to values"
    raise InputError(
        where, found, _EXPECTED, "Give a file with sections such as MODEL, SOLVER and DATASETS"
    )


def _read_bytes(path: Path, where: str) -> bytes:
    try:
        if path.suffix == ".py" and path.is_file():
            raise InputError(
                where, "a LazyConfig in Python, which would have to be executed", _EXPECTED,
                "Give the config.yaml that its training wrote into the output folder",
            )  # fmt: skip
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise InputError(
                where, "a pipe or a device", _EXPECTED, "Save the config to a file and name that"
            )
        with path.open("rb") as file:
            # One byte more than is allowed, so that parse() sees that there is more.
            return file.read(MAX_BYTES + 1)
    except IsADirectoryError as error:
        raise InputError(
            where, "a folder", _EXPECTED, "Name the file in it, config.yaml for example"
        ) from error
    except FileNotFoundError as error:
        raise InputError(
            where, "no such file", _EXPECTED, "Check the path, and from where it is relative"
        ) from error
    except PermissionError as error:
        raise InputError(
            where, "no permission to read it", _EXPECTED, "Ask for the right to read this file"
        ) from error
    except (OSError, ValueError) as error:
        # A name that is too long, an I/O error; ValueError is a NUL in the path.
        raise InputError(
            where, f"a file that cannot be read ({error})", _EXPECTED, "Check the path and the disk"
        ) from error
