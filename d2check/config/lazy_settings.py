"""Settings of a LazyConfig by their yacs names, where the two count in other ways.

A LazyConfig's schedule is relative: the warm-up is a share of the training, milestones stand for
shares of the last one (configs/common/coco_schedule.py, fvcore's MultiStepParamScheduler).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from d2check.config import keys
from d2check.model import Config

_MULTIPLIER = "lr_multiplier"
_FORMATS = (
    "dataloader.train.mapper.image_format",
    "dataloader.train.mapper.img_format",
)  # detrex's
_DIGITS = 6
_KEY = re.compile(r"\b[A-Z]+(?:\.[A-Z_0-9]+)+\b")
# Told in iterations; the config has shares.
_IN_TEXT = {
    "SOLVER.STEPS": "the milestones of lr_multiplier",
    "SOLVER.WARMUP_ITERS": "the warm-up of lr_multiplier",
    "MODEL.PIXEL_MEAN": "model.pixel_mean",
    "MODEL.PIXEL_STD": "model.pixel_std",
}


def lazy_setting(config: Config, key: str) -> Any:
    """A yacs key's value as a LazyConfig means it; None where it does not say."""
    own = keys.lazy_name(key)
    if own:
        return config.values.get(own)
    return _READ[key](config) if key in _READ else None


def lazy_change(config: Config, key: str, value: Any) -> tuple[str, Any] | None:
    """Name and value in the LazyConfig's own terms of a yacs key to be set.

    None where no single setting does the same.
    """
    own = keys.lazy_name(key)
    if own:
        return own, value
    return _WRITE[key](config, value) if key in _WRITE else None


def in_lazy_names(text: str) -> str:
    """A text about yacs keys with the names that LazyConfigs have for them, where there are any."""
    return _KEY.sub(
        lambda found: keys.lazy_name(found[0]) or _IN_TEXT.get(found[0], found[0]), text
    )


def _kind(target: Any) -> str:
    return str(target or "").rpartition(".")[2]


def _length(config: Config) -> float | None:
    return _number(config.values.get("train.max_iter"))


def _number(value: Any) -> float | None:
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
    return float(value) if usable else None


def _numbers(value: Any) -> list[float] | None:
    if not isinstance(value, list):
        return None
    plain = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value)
    return [float(v) for v in value] if plain else None


def _main(config: Config) -> str:
    """Where the schedule past the warm-up stands."""
    wrapped = _kind(config.values.get(f"{_MULTIPLIER}._target_")) == "WarmupParamScheduler"
    return f"{_MULTIPLIER}.scheduler" if wrapped else _MULTIPLIER


def _warmup_iterations(config: Config) -> int | None:
    length = _length(config)
    if length is None or f"{_MULTIPLIER}._target_" not in config.values:
        return None
    if _main(config) == _MULTIPLIER:
        return 0 if _scheduler(config) else None
    share = config.values.get(f"{_MULTIPLIER}.warmup_length")
    return round(share * length) if isinstance(share, (int, float)) else None


def _scheduler(config: Config) -> str | None:
    """yacs' name of the scheduler."""
    return _SCHEDULERS.get(_kind(config.values.get(f"{_main(config)}._target_")))


def _multi_step(config: Config) -> tuple[list[float], list[float], float] | None:
    """(values, milestones, what the milestones count to) of a MultiStepParamScheduler."""
    if _scheduler(config) != _SCHEDULERS["MultiStepParamScheduler"]:
        return None
    values, milestones = (
        _numbers(config.values.get(f"{_main(config)}.{name}")) for name in ("values", "milestones")
    )
    if not values or not milestones:
        return None
    last = _number(config.values.get(f"{_main(config)}.num_updates"))
    if last is None:
        *milestones, last = milestones
    whole = last > 0 and len(values) == len(milestones) + 1
    return (values, milestones, last) if whole else None


def _steps(config: Config) -> list[int] | None:
    schedule, length = _multi_step(config), _length(config)
    if schedule is None or length is None:
        return None
    return [round(milestone / schedule[2] * length) for milestone in schedule[1]]


def _gamma(config: Config) -> float | None:
    schedule = _multi_step(config)
    if schedule is None or len(schedule[0]) < 2 or not schedule[0][0]:
        return None
    return schedule[0][1] / schedule[0][0]


def _test_sets(config: Config) -> list[str] | None:
    """lazyconfig_train_net.py evaluates where there is an evaluator."""
    if not any(key.startswith("dataloader.train.") for key in config.values):
        return None
    names = config.values.get("dataloader.test.dataset.names")
    if not any(key.startswith("dataloader.evaluator") for key in config.values):
        return []
    return [str(name) for name in (names if isinstance(names, list) else [names]) if name]


def _format_key(config: Config) -> str | None:
    return next((key for key in _FORMATS if key in config.values), None)


def _image_format(config: Config) -> Any:
    key = _format_key(config)
    return config.values[key] if key else None


def _pixels(name: str) -> Callable[[Config], Any]:
    return lambda config: _numbers(config.values.get(name))


def _set_warmup(config: Config, iterations: Any) -> tuple[str, Any] | None:
    length = _length(config)
    if length is None or _main(config) == _MULTIPLIER:
        return None
    return f"{_MULTIPLIER}.warmup_length", float(f"{iterations / length:.{_DIGITS}g}")


def _set_steps(config: Config, steps: Any) -> tuple[str, Any] | None:
    schedule, length = _multi_step(config), _length(config)
    if schedule is None or length is None or len(steps) != len(schedule[1]):
        return None  # as many as there are values
    milestones = [round(step / length * schedule[2]) for step in steps]
    if f"{_main(config)}.num_updates" not in config.values:
        milestones.append(round(schedule[2]))
    return f"{_main(config)}.milestones", milestones


def _set_format(config: Config, value: Any) -> tuple[str, Any] | None:
    key = _format_key(config)
    return (key, value) if key else None


_SCHEDULERS: Mapping[str, str] = {
    "MultiStepParamScheduler": "WarmupMultiStepLR",
    "CosineParamScheduler": "WarmupCosineLR",
}
_READ: Mapping[str, Callable[[Config], Any]] = {
    "SOLVER.WARMUP_ITERS": _warmup_iterations,
    "SOLVER.LR_SCHEDULER_NAME": _scheduler,
    "SOLVER.STEPS": _steps,
    "SOLVER.GAMMA": _gamma,
    "DATASETS.TEST": _test_sets,
    "MODEL.PIXEL_MEAN": _pixels("model.pixel_mean"),
    "MODEL.PIXEL_STD": _pixels("model.pixel_std"),
    "INPUT.FORMAT": _image_format,
}
_WRITE: Mapping[str, Callable[[Config, Any], tuple[str, Any] | None]] = {
    "SOLVER.WARMUP_ITERS": _set_warmup,
    "SOLVER.STEPS": _set_steps,
    "MODEL.PIXEL_MEAN": lambda _, value: ("model.pixel_mean", value),
    "MODEL.PIXEL_STD": lambda _, value: ("model.pixel_std", value),
    "INPUT.FORMAT": _set_format,
}
