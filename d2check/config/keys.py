"""Which config keys Detectron2 knows, and which one was meant.

`detectron2_keys.json` is written by `ci/keys`: `core` maps each key to [newest default, first
version, last version]; `former` gives, by the last version that had it, a default that changed
later; `projects` the keys that Detectron2's own projects add; `renamed` old names. A key that ends
in `.*` is a section that takes any name.
"""

from __future__ import annotations

import difflib
import functools
import importlib.resources
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from d2check.model import Config

# Below _ALIKE difflib's ratio pairs words that merely share letters. Tried on the 740 keys of
# other projects in 15 real dumps: four guesses at 0.8, and none of them above _SURELY_MEANT.
_ALIKE = 0.8
_SURELY_MEANT = 0.92
_LONG_ENOUGH = 6  # letters


@dataclass(frozen=True)
class UnknownKey:
    """A key that Detectron2 does not have.

    nearest: the valid key that it resembles, or None. misspelt: it is so near to a valid key that
    it was surely meant; otherwise it may well belong to the user's own code (add_xxx_config), which
    a file alone cannot tell. section: the part of a foreign key that is foreign altogether
    ("MODEL.MASK_FORMER"), for grouping; the key itself where its section is Detectron2's.
    """

    key: str
    nearest: str | None
    misspelt: bool = False
    section: str = ""


@dataclass(frozen=True)
class WrongType:
    """A value whose type yacs will refuse: `SOLVER.BASE_LR: 1` where the default is a float."""

    key: str
    value: Any
    expected: str


@functools.cache
def _table() -> dict[str, Any]:
    file = importlib.resources.files(__package__) / "detectron2_keys.json"
    table: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return table


@functools.cache
def defaults() -> Mapping[str, Any]:
    """Every key of Detectron2's newest version with its default. Not to be changed."""
    return {key: row[0] for key, row in _table()["core"].items()}


def default(key: str) -> Any:
    """The default of a key of Detectron2 or of one of its projects; None for a key without one."""
    if key in defaults():
        return defaults()[key]
    for added in _table()["projects"].values():
        if key in added:
            return added[key]
    return None


def since(key: str) -> str | None:
    """The first Detectron2 version that knows a key ("0.1" ... "0.6", "main"), or None."""
    row = _table()["core"].get(key)
    return None if row is None else str(row[1])


def renamed(key: str) -> str | None:
    """Today's name of a key that Detectron2 has renamed."""
    name: str | None = _table()["renamed"].get(key)
    return name


@functools.cache
def _valid(projects: bool) -> tuple[frozenset[str], tuple[str, ...]]:
    names = set(defaults())
    if projects:
        for added in _table()["projects"].values():
            names.update(added)
    return (
        frozenset(n for n in names if not n.endswith(".*")),
        tuple(n[:-1] for n in names if n.endswith(".*")),
    )


@functools.cache
def _sections() -> frozenset[str]:
    names = _valid(True)[0]
    return frozenset(n[:i] for n in names for i, c in enumerate(n) if c == ".")


def is_valid(key: str, *, projects: bool = True) -> bool:
    """Whether Detectron2, or with `projects` one of its own projects, has this key or section.

    Old names that Detectron2 still converts (MODEL.WEIGHT) are valid too.
    """
    names, open_sections = _valid(projects)
    return (
        key in names
        or key in _table()["renamed"]
        or any(key.startswith(s) or key == s[:-1] for s in open_sections)
        or key in _sections()
    )


def nearest(key: str) -> str | None:
    """The valid key that was most likely meant, or None when nothing is near.

    Knows the ways keys go wrong in real configs: an underscore for the dot (SOLVER_STEPS), a
    missing section (MIN_SIZE_TRAIN, BASE_LR), a wrong section (SOLVER.NUM_WORKERS), wrong case,
    a renamed key, a slip of the fingers (SOLVER.WARMUP_ITER).
    """
    guess = _guess(key)
    return guess[0] if guess else None


@functools.lru_cache(4096)
def _guess(key: str) -> tuple[str, bool] | None:
    """The nearest valid key, and whether it was surely meant."""
    names = _valid(False)[0]
    upper = key.upper()
    if key in _table()["renamed"]:
        return _table()["renamed"][key], True
    same_words = [n for n in names if n.replace(".", "_") == upper.replace(".", "_")]
    if same_words:
        return same_words[0], True
    section, _, leaf = upper.rpartition(".")
    tails = [n for n in names if n.endswith("." + leaf)]
    if tails and not section:
        return _preferred(tails), "_" in leaf
    without_head = [n for n in names if n.endswith("." + upper)]
    if without_head:
        return without_head[0], True
    slips = [n for n in names if _one_letter_off(upper, n)]
    if len(slips) == 1:  # BASE_LS: short, so its ratio is low
        return slips[0], True
    likeness, name = max((_likeness(upper, n), n) for n in names)
    if likeness >= _ALIKE:
        return name, likeness >= _SURELY_MEANT and not _foreign(key)
    if _foreign(key):
        return None
    # A word left out (SOLVER.LR, DATALOADER.WORKERS), a section left out (MODEL.NUM_CLASSES), the
    # wrong section (SOLVER.NUM_WORKERS): worth a hint, never an accusation.
    longer = [n for n in names if n.rpartition(".")[0] == section and n.endswith("_" + leaf)]
    below = [n for n in tails if n.startswith(section + ".")]
    for candidates in (longer, below, tails if len(tails) == 1 and "_" in leaf else []):
        if candidates:
            return _preferred(candidates), False
    return None


def _preferred(candidates: list[str]) -> str:
    """Of keys with the same last part, the one that users mean (NUM_CLASSES, WEIGHTS ...)."""
    order = ("SOLVER.", "INPUT.", "DATALOADER.", "DATASETS.", "MODEL.ROI_HEADS.", "MODEL.", "TEST.")
    ranks = {c: next((i for i, p in enumerate(order) if c.startswith(p)), 9) for c in candidates}
    return min(candidates, key=lambda c: (c.count("."), ranks[c], c))


def _likeness(key: str, name: str) -> float:
    """0..1: how alike two dotted keys are; one that names another section counts for less."""
    section, _, leaf = key.rpartition(".")
    other_section, _, other_leaf = name.rpartition(".")
    if section == other_section:
        # The shared section must not lend its length to leaves that differ.
        return _ratio(leaf, other_leaf)
    if leaf == other_leaf:
        return _ratio(section, other_section)
    return _ratio(key, name) - 0.05


def _one_letter_off(key: str, name: str) -> bool:
    """Whether two keys of one section differ by one letter, or by two that changed places.

    Digits may number things (CONV1, CONV2), and of short names another is soon made.
    """
    section, _, leaf = key.rpartition(".")
    other_section, _, other_leaf = name.rpartition(".")
    if section != other_section or len(leaf) != len(other_leaf) or len(leaf) < _LONG_ENOUGH:
        return False
    pairs = [(a, b) for a, b in zip(leaf, other_leaf, strict=True) if a != b]
    if not all(letter.isalpha() for pair in pairs for letter in pair):
        return False
    return len(pairs) == 1 or (len(pairs) == 2 and pairs[0] == pairs[1][::-1])


def _ratio(one: str, other: str) -> float:
    matcher = difflib.SequenceMatcher(None, one, other, autojunk=False)
    return matcher.ratio() if matcher.real_quick_ratio() >= 0.7 else 0.0


def _foreign(key: str) -> bool:
    """Whether the key's own section is none of Detectron2's: then its author knew what it is."""
    section = key.rpartition(".")[0]
    return bool(section) and section.upper() not in _sections()


def _foreign_section(key: str) -> str:
    parts = key.split(".")
    for end in range(1, len(parts)):
        if ".".join(parts[:end]) not in _sections():
            return ".".join(parts[:end])
    return key


def unknown_keys(config: Config, *, projects: bool = True) -> tuple[UnknownKey, ...]:
    """The config's keys that Detectron2 does not have, in the config's order.

    A LazyConfig is code, any key goes: nothing is ever unknown there. projects: whether keys of
    Detectron2's own projects (PointRend, DeepLab, DensePose ...) count as known.
    """
    if config.kind != "yacs":
        return ()
    found = []
    for key in config.values:
        if not is_valid(key, projects=projects) and not _computed(key):
            near, sure = _guess(key) or (None, False)
            found.append(UnknownKey(key, near, sure, _foreign_section(key)))
    return tuple(found)


def _computed(key: str) -> bool:
    """Whether code may insert it: fvcore lets it insert COMPUTED_ names into any config."""
    return key.rpartition(".")[2].startswith("COMPUTED_")


def wrong_types(config: Config) -> tuple[WrongType, ...]:
    """The config's values that yacs refuses to merge over Detectron2's default.

    yacs lets list and tuple replace each other and None anything; an int for a float it refuses.
    Values that only Python could make (`!!python/object/apply:eval`) cannot be judged.
    """
    if config.kind != "yacs":
        return ()
    found = []
    for key, value in config.values.items():
        expected = defaults().get(key)
        if expected is None or value is None or type(value) is type(expected):
            continue
        if not (isinstance(value, str) and value.startswith("!!python/")):
            kind = "list" if isinstance(expected, list) else type(expected).__name__
            found.append(WrongType(key, value, kind))
    return tuple(found)


# What the same setting is called in Detectron2's LazyConfig (configs/common, lazyconfig_train_net).
_LAZY_NAMES = {
    "SOLVER.BASE_LR": "optimizer.lr",
    "SOLVER.OPTIMIZER": "optimizer._target_",
    "SOLVER.MAX_ITER": "train.max_iter",
    "SOLVER.WEIGHT_DECAY": "optimizer.weight_decay",
    "SOLVER.MOMENTUM": "optimizer.momentum",
    "SOLVER.IMS_PER_BATCH": "dataloader.train.total_batch_size",
    "SOLVER.AMP.ENABLED": "train.amp.enabled",
    "SOLVER.CHECKPOINT_PERIOD": "train.checkpointer.period",
    "DATALOADER.NUM_WORKERS": "dataloader.train.num_workers",
    "MODEL.WEIGHTS": "train.init_checkpoint",
    "MODEL.DEVICE": "train.device",
    "MODEL.ROI_HEADS.NUM_CLASSES": "model.roi_heads.num_classes",
    "MODEL.RETINANET.NUM_CLASSES": "model.num_classes",
    "TEST.EVAL_PERIOD": "train.eval_period",
    "OUTPUT_DIR": "train.output_dir",
    "SEED": "train.seed",
}


def lazy_name(key: str) -> str | None:
    """The LazyConfig name of a yacs key, or None where no single one does the same."""
    return _LAZY_NAMES.get(key)
