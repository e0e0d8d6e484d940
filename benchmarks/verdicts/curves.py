"""Labelled trainings of Detectron2-like detectors, made from a seed. numpy only.

`make(cls, level, mode, seed)` returns a dict: `it` (iterations of the rows), `m` (name -> values:
total_loss, loss_*, lr, time, data_time, max_mem, and in short runs mem_peak and mem_alloc), `cfg`
(solver and model settings), `label`, `level`, `mode`, `expect` (flags of which any is right).
mode short: raw rows of 100 to 500 iterations of a longer schedule. mode long: rows are medians of
20 iterations, as Detectron2's JSONWriter stores them.

Losses are sums of an early exponential fall and a slow power law in effective iterations, times
log-normal noise with a common part; the noise of each head follows 39 real runs (medians of raw
log-sd: cls 0.34, box 0.23, mask 0.14, rpn_cls 1.0, rpn_loc 0.40), and a level is a factor on it.
Fault shapes (amplitudes, onsets) are assumptions: a score here says what is reachable, no more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEVELS = ["easy", "medium", "hard"]
NOISE = {"easy": 0.5, "medium": 0.85, "hard": 1.4}
HEAD_SD = {
    "loss_cls": 0.34, "loss_box_reg": 0.23, "loss_mask": 0.14, "loss_rpn_cls": 1.0,
    "loss_rpn_loc": 0.40,
}  # fmt: skip
EXPECT: dict[str, set[str]] = {
    "healthy": set(),
    "healthy_dip": set(),
    "healthy_restart": set(),
    "healthy_decay": set(),
    "flat": {"not_decreasing"},
    "late_plateau": {"plateau", "not_decreasing"},
    "swing": {"oscillation"},
    "climb": {"divergence"},
    "leap": {"divergence"},
    "nan": {"nan"},
    "spikes": {"spikes"},
    "head_stuck": {"head_stuck"},
    "roi_stalled": {"roi_stalled"},
    "loader_steady": {"data_bound"},
    "loader_bursty": {"data_bound"},
    "slows_down": {"time_drift", "data_bound"},
    "leak": {"mem_leak"},
    "memory_full": {"mem_limit"},
    "no_warmup": {"lr"},
    "endless_warmup": {"lr"},
    "other_rate": {"lr"},
    "steps_past_end": {"lr"},
    "unscaled_rate": {"lr"},
    "resume_resets_rate": {"lr"},
    "repeated_rows": {"duplicates"},
    "truncated": {"truncated"},
}
CLASSES = list(EXPECT)
LONG_ONLY = {"truncated", "healthy_decay"}
SHORT_ONLY: set[str] = set()


@dataclass
class Draft:
    """What a run is made of before its noise. All arrays are per iteration."""

    rng: np.random.Generator
    n: int
    level: str
    cfg: dict[str, Any]
    lr: Floats
    heads: dict[str, Floats] = field(default_factory=dict)
    extra: Floats | None = None  # added to the logarithm of every head
    per_head: dict[str, Floats] = field(default_factory=dict)
    quiet: dict[str, float] = field(default_factory=dict)  # factor on a head's noise
    wait: Floats | None = None
    onset: int | None = None
    gone: int | None = None  # first iteration that is not a number


def make(cls: str, level: str = "medium", mode: str = "short", seed: int = 0) -> dict[str, Any]:
    """One labelled run. Drafts whose label would be false are drawn again."""
    key = [CLASSES.index(cls), LEVELS.index(level), int(mode == "long"), seed]
    for attempt in range(80):
        run = _make(np.random.default_rng([*key, attempt]), cls, level, mode)
        if run is not None:
            run["id"] = f"{cls}-{level}-{mode}-{seed}"
            return run
    raise RuntimeError(f"no run of {cls} {level} {mode} {seed}")


def _make(rng: np.random.Generator, cls: str, level: str, mode: str) -> dict[str, Any] | None:
    long = mode == "long"
    rows = int(rng.choice([100, 160, 300, 600, 1200] if long else [100, 140, 200, 300, 500]))
    n = rows * 20 if long else rows
    draft = schedule(rng, cls, level, n, long)
    if not long and cls not in _FREE_OF_WARMUP and draft.lr.sum() < 40 * draft.cfg["base_lr"]:
        return None  # five effective iterations prove nothing either way
    losses(draft, cls)
    if not label_holds(draft, cls):
        return None
    _fault(draft, cls, long)
    values = _noisy(draft)
    values["lr"] = draft.lr
    values["time"], values["data_time"] = times(draft, cls)
    peaks, allocated = memory(draft, cls, long)
    values["max_mem"] = np.maximum.accumulate(peaks)
    if not long:
        values["mem_peak"], values["mem_alloc"] = peaks, allocated
    return _rows(draft, cls, level, mode, values)


_FREE_OF_WARMUP = {
    "nan", "leap", "spikes", "no_warmup", "endless_warmup", "unscaled_rate", "repeated_rows",
}  # fmt: skip


def planned(cfg: dict[str, Any], i: Floats) -> Floats:
    """float64[n]: Detectron2's rate at iterations i for a generator's config."""
    decay = cfg["gamma"] ** np.searchsorted(np.asarray(cfg["steps"], float), i, side="right")
    if cfg["sched"] == "WarmupCosineLR":
        decay = 0.5 * (1 + np.cos(np.pi * np.minimum(i / cfg["max_iter"], 1)))
    warmup = cfg["warmup_iters"]
    if warmup > 0:
        a = np.minimum(i / warmup, 1)
        decay = decay * np.where(i < warmup, cfg["warmup_factor"] * (1 - a) + a, 1)
    return np.asarray(cfg["base_lr"] * decay)


def schedule(rng: np.random.Generator, cls: str, level: str, n: int, long: bool) -> Draft:
    batch = int(rng.choice([1, 2, 4, 8, 16], p=[0.1, 0.3, 0.25, 0.15, 0.2]))
    arch = str(rng.choice(["mask", "faster", "retina"], p=[0.45, 0.4, 0.15]))
    if cls == "roi_stalled":
        arch = str(rng.choice(["mask", "faster"]))
    reference = 0.01 if arch == "retina" else 0.02
    cfg: dict[str, Any] = {
        "arch": arch, "ims_per_batch": batch, "num_classes": int(rng.choice([1, 2, 4, 8, 20, 80])),
        "gamma": 0.1, "warmup_factor": 0.001, "sched": "WarmupMultiStepLR",
        "base_lr": float(reference * batch / 16 * rng.choice([0.4, 0.7, 1.0, 1.5])),
        "max_iter": n if long else int(rng.choice([3000, 20000, 90000])),
        "warmup_iters": int(rng.choice([0, 50, 100, 1000], p=[0.2, 0.3, 0.3, 0.2])),
    }  # fmt: skip
    if long:
        cfg["warmup_iters"] = min(cfg["warmup_iters"], n // 5)
    at = cfg["max_iter"]
    cfg["steps"] = [int(at * 0.7), int(at * 0.9)] if rng.uniform() < 0.5 or not long else []
    if cls in ("late_plateau", "flat", "swing") and long:
        cfg["steps"] = []
    if cls == "healthy_decay":
        cfg["steps"] = [int(at * 0.4), int(at * 0.7)]
    if cls == "healthy" and rng.uniform() < 0.25:
        cfg["sched"], cfg["steps"] = "WarmupCosineLR", []
    i = np.arange(n, dtype=float)
    lr = planned(cfg, i)
    draft = Draft(rng, n, level, cfg, lr)
    _bend_schedule(draft, cls, i, long)
    return draft


def _bend_schedule(draft: Draft, cls: str, i: Floats, long: bool) -> None:
    rng, cfg, n = draft.rng, draft.cfg, draft.n
    if cls == "no_warmup":
        cfg["warmup_iters"] = cfg["warmup_iters"] or 200
        draft.lr = planned({**cfg, "warmup_iters": 0}, i)
    elif cls == "endless_warmup":
        cfg["max_iter"], cfg["steps"] = n, []
        cfg["warmup_iters"] = int(n * rng.uniform(1.0, 3.5)) + 1
        draft.lr = planned(cfg, i)
    elif cls == "other_rate":
        draft.lr = draft.lr * rng.choice([0.1, 0.5, 2.0, 8.0])
    elif cls == "steps_past_end":
        cfg["max_iter"] = n if long else cfg["max_iter"]
        cfg["steps"] = [int(cfg["max_iter"] * rng.uniform(1.05, 3))]
        draft.lr = planned(cfg, i)
    elif cls == "unscaled_rate":
        cfg["ims_per_batch"] = 2
        cfg["base_lr"] = 0.01 if cfg["arch"] == "retina" else 0.02
        draft.lr = planned(cfg, i)
    elif cls == "resume_resets_rate":
        cfg["warmup_iters"] = cfg["warmup_iters"] or 100
        draft.lr = planned(cfg, i)
        k = int(n * rng.uniform(0.3, 0.7))
        if rng.uniform() < 0.5:
            draft.lr[k:] = planned(cfg, i[k:] - k)
        else:
            draft.lr[k:] *= rng.choice([0.1, 0.3, 3.0, 10.0])


def losses(draft: Draft, cls: str) -> None:
    rng, cfg, u = draft.rng, draft.cfg, draft.rng.uniform
    names = {
        "mask": list(HEAD_SD),
        "faster": [h for h in HEAD_SD if h != "loss_mask"],
        "retina": ["loss_cls", "loss_box_reg"],
    }[cfg["arch"]]
    share = np.minimum(draft.lr / cfg["base_lr"], 1.5)
    s = np.cumsum(share)
    if cls == "flat":
        s = s * {"easy": 0.0, "medium": 2e-4, "hard": 1e-3}[draft.level] * 200 / max(draft.n, 200)
    if cls == "late_plateau":
        draft.onset = int(draft.n * u(0.3, 0.5))
        s = np.minimum(s, s[draft.onset])
    pretrained = u() < 0.6
    scale, power = math.exp(u(math.log(12), math.log(100))), u(0.3, 0.8)
    depends = u(0.1, 0.3) if cls != "flat" else 0.0  # part of the loss that follows the rate
    for name in names:
        start, fast = _start(rng, name, cfg, pretrained)
        slow = start - fast
        body = (1 + s / (scale * u(0.7, 1.4))) ** (-power * u(0.8, 1.25))
        floor = u(0.03, 0.2)
        body = floor + (1 - floor) * body
        draft.heads[name] = slow * body * (1 - depends + depends * np.sqrt(share)) + fast * np.exp(
            -s / u(4, 25)
        )
    if cls == "healthy_restart":
        for name in names:
            level = min(draft.heads[name][0] * u(0.1, 0.25), 0.3)
            draft.heads[name] = level * (0.97 + 0.03 * np.exp(-s / 500))
    if cls == "healthy_dip":
        _dip(draft, s)


def _start(
    rng: np.random.Generator, name: str, cfg: dict[str, Any], pretrained: bool
) -> tuple[float, float]:
    """(loss at the first iteration, part of it that falls within some ten iterations)."""
    u = rng.uniform
    if name == "loss_cls":
        start = u(0.95, 1.3) if cfg["arch"] == "retina" else math.log(cfg["num_classes"] + 1)
        start *= u(0.95, 1.1)
        return start, start * u(0.3, 0.7)
    if name == "loss_box_reg":
        start = u(0.2, 0.8)
        return start, -start * u(0.0, 0.6)  # few foregrounds at first: it rises, then falls
    if name == "loss_mask":
        return math.log(2) * u(0.97, 1.03), 0.0
    if name == "loss_rpn_cls":
        return (u(0.02, 0.2) if pretrained else math.log(2) * u(0.98, 1.02)), 0.0
    return math.exp(u(math.log(0.03), math.log(0.3))), 0.0


def _dip(draft: Draft, s: Floats) -> None:
    """The box head calls everything background, then finds its foreground. Healthy."""
    width = draft.rng.uniform(8, 40)
    depth = np.exp(-s / width) * (1 - np.exp(-s / (0.2 * width)))
    for name, how in (("loss_cls", 0.8), ("loss_box_reg", 0.95)):
        if name in draft.heads:
            draft.heads[name] = draft.heads[name] * (1 - how * depth)


def label_holds(draft: Draft, cls: str) -> bool:
    total = np.sum(list(draft.heads.values()), axis=0)
    edge = max(5, draft.n // 15)
    fell = math.log(total[:edge].mean() / total[-edge:].mean())
    if cls in ("flat", "healthy_restart"):
        return True
    if cls == "healthy_dip":
        return "loss_rpn_cls" in draft.heads
    if cls == "late_plateau":
        return fell > 0.25
    if cls == "healthy":
        half = math.log(total[draft.n // 2 :][:edge].mean() / total[-edge:].mean())
        return fell > 0.1 and half > 0.06
    return fell > 0.1


def _fault(draft: Draft, cls: str, long: bool) -> None:
    rng, n, u = draft.rng, draft.n, draft.rng.uniform
    i = np.arange(n)
    grade = LEVELS.index(draft.level)
    if cls == "swing":
        amplitude = u(*[(0.5, 0.8), (0.33, 0.5), (0.22, 0.33)][grade])
        period = u(110, max(130, n / 9)) if long else u(2.2, max(12, min(50, n / 8)))
        wander = np.cumsum(0.02 * rng.standard_normal(n))
        turn = 2 * np.pi * (i / period + wander) + u(0, 6.28)
        wave = np.sin(turn) if u() < 0.6 else (2 / np.pi) * np.arcsin(np.sin(turn))
        draft.extra = amplitude * wave * np.clip(i / (0.1 * n), 0, 1)
    elif cls == "climb":
        factor = math.log(u(*[(3, 6), (1.8, 3), (1.45, 1.8)][grade]))
        draft.onset = int(n * u(0.25, 0.55))
        progress = np.clip((i - draft.onset) / (n - draft.onset), 0, 1)
        draft.heads = {
            k: np.where(i < draft.onset, v, v[draft.onset]) for k, v in draft.heads.items()
        }
        draft.extra = factor * progress ** u(0.9, 2.2)
    elif cls == "leap":
        factor = math.log(u(*[(15, 80), (4, 15), (2.1, 4)][grade]))
        draft.onset = int(n * u(0.3, 0.8))
        draft.extra = np.where(i >= draft.onset, factor, 0.0)
    elif cls == "nan":
        draft.gone = int(n * u(0.2, 0.95))
        rows = int(rng.integers(2, 25))
        ramp = np.clip((i - draft.gone + rows) / rows, 0, 1)
        draft.extra = math.log(10 ** u(0.5, 5)) * ramp**2 * (u() < 0.7)
    elif cls == "spikes":
        draft.extra = np.zeros(n)
        for at in rng.choice(np.arange(n // 15, n - 12), max(2, int(n * u(0.005, 0.02)))):
            height = math.log(u(*[(8, 40), (5, 12), (3.6, 6)][grade]))
            width = int(rng.integers(1, 5))
            shape = height * (1 - np.arange(width) / width)
            draft.extra[at : at + width] = np.maximum(draft.extra[at : at + width], shape)
    elif cls == "head_stuck":
        _stick(draft)
    elif cls == "roi_stalled":
        for name, level in (("loss_cls", u(0.5, 0.9)), ("loss_box_reg", u(0.2, 0.6))):
            head = draft.heads[name]
            s = np.cumsum(np.minimum(draft.lr / draft.cfg["base_lr"], 1.0))
            draft.heads[name] = head[0] * (level + (1 - level) * np.exp(-s / u(5, 15)))


def _stick(draft: Draft) -> None:
    rng, u = draft.rng, draft.rng.uniform
    if draft.cfg["arch"] == "retina" or u() < 0.3:
        name = "loss_mask" if "loss_mask" in draft.heads and u() < 0.5 else "loss_box_reg"
        draft.heads[name] = np.zeros(draft.n)
        return
    name = str(
        rng.choice([h for h in ("loss_cls", "loss_mask", "loss_rpn_cls") if h in draft.heads])
    )
    chance = math.log(draft.cfg["num_classes"] + 1) if name == "loss_cls" else math.log(2)
    drift = (0.0, 0.01, 0.03)[LEVELS.index(draft.level)]
    draft.heads[name] = chance * u(0.98, 1.02) * (1 - drift * np.arange(draft.n) / draft.n)
    draft.quiet[name] = 0.3  # a head at chance has little to vary


def _noisy(draft: Draft) -> dict[str, Floats]:
    rng, n = draft.rng, draft.n
    factor = NOISE[draft.level] * (1.15 if draft.cfg["ims_per_batch"] == 1 else 1.0)
    factor *= rng.uniform(0.85, 1.15)
    common = rng.standard_normal(n)
    tail = (np.inf, 9.0, 6.0)[LEVELS.index(draft.level)]
    crowded = rng.random(n) < (0.0, 0.0005, 0.0015)[LEVELS.index(draft.level)]
    values: dict[str, Floats] = {}
    for name, course in draft.heads.items():
        own = rng.standard_normal(n)
        if math.isfinite(tail):
            own = own * np.sqrt((tail - 2) / rng.chisquare(tail, n))
        sd = (
            HEAD_SD[name]
            * factor
            * math.exp(0.2 * rng.standard_normal())
            * draft.quiet.get(name, 1)
        )
        log = sd * (0.3 * common + 0.95 * own)
        log = np.where(log > 0, np.tanh(log), log)  # real losses are bounded above, not below
        log = log + np.where(crowded, rng.uniform(0.3, 0.85), 0.0)
        if draft.extra is not None:
            log = log + draft.extra
        values[name] = course * np.exp(log)
    values["total_loss"] = np.sum(list(values.values()), axis=0)
    if draft.gone is not None:
        bad = str(rng.choice(list(draft.heads)))
        values[bad][draft.gone :] = np.nan
        values["total_loss"][draft.gone :] = np.nan
    return values


def times(draft: Draft, cls: str) -> tuple[Floats, Floats]:
    rng, n, u = draft.rng, draft.n, draft.rng.uniform
    grade = LEVELS.index(draft.level)
    base = math.exp(u(math.log(0.08), math.log(0.9)))
    compute = base * np.exp(u(0.02, 0.1) * rng.standard_normal(n))
    share = u(*[(0.003, 0.05), (0.005, 0.08), (0.01, 0.11)][grade])
    wait = base * share / (1 - share) * np.exp(0.4 * rng.standard_normal(n))
    wait[rng.random(n) < 0.002] *= u(5, 40)
    starved = u(*[(0.6, 0.85), (0.43, 0.6), (0.3, 0.43)][grade])
    more = base * starved / (1 - starved)
    if cls == "loader_steady":
        wait = more * np.exp(0.3 * rng.standard_normal(n))
    elif cls == "loader_bursty":
        every = int(rng.choice([3, 4, 6, 8]))
        hit = np.arange(n) % every == 0
        wait[hit] += more * every * np.exp(0.3 * rng.standard_normal(int(hit.sum())))
    elif cls == "slows_down":
        wait = wait + more * (np.arange(n) / n) ** u(1, 1.5) * np.exp(0.3 * rng.standard_normal(n))
    time = compute + wait
    time[0] *= u(4, 15)
    return time, wait


def memory(draft: Draft, cls: str, long: bool) -> tuple[Floats, Floats]:
    """(peak MiB inside each iteration, MiB held after it)."""
    rng, n, u = draft.rng, draft.n, draft.rng.uniform
    base, per_area = u(1200, 3500), u(800, 4000)
    area = np.minimum(np.exp(0.2 * rng.standard_normal(n)), 1.3) / 1.3
    instances = np.minimum(np.exp(math.log(u(3, 12)) + 0.8 * rng.standard_normal(n)), 300)
    peak = base + per_area * area + u(0, 8) * instances
    held = np.full(n, 0.4 * base) + u(0, 3) * rng.standard_normal(n)
    if cls == "leak":
        grade = LEVELS.index(draft.level)
        rate = u(*[(1.5, 5), (0.4, 1.5), (0.12, 0.4)][grade]) / (5 if long else 1)
        peak, held = peak + rate * np.arange(n), held + rate * np.arange(n)
    ceiling = u(0.45, 0.8)
    if cls == "memory_full":
        ceiling = u(0.955, 0.995)
    draft.cfg["gpu_mem"] = float(peak.max() / ceiling)
    return peak, held


def _rows(
    draft: Draft, cls: str, level: str, mode: str, values: dict[str, Floats]
) -> dict[str, Any]:
    rows = np.arange(draft.n)
    if mode == "long":
        count = draft.n // 20
        rows = np.arange(count) * 20 + 19
        with np.errstate(all="ignore"):
            values = {
                k: v[19::20] if k in ("lr", "max_mem") else np.median(v.reshape(count, 20), axis=1)
                for k, v in values.items()
            }
    stop = len(rows)
    if cls == "nan":  # the first row that is no number ends the run
        bad = ~np.isfinite(values["total_loss"])
        stop = int(np.argmax(bad)) + 1 if bad.any() else stop
        if not bad.any():
            values["total_loss"][-1] = np.nan
    if cls == "truncated":
        stop = int(stop * draft.rng.uniform(0.3, 0.95))
    keep = np.arange(stop)
    if cls == "repeated_rows":
        again = int(stop * draft.rng.uniform(0.3, 0.6))
        until = again + int(stop * draft.rng.uniform(0.05, 0.3))
        keep = np.concatenate((np.arange(until), np.arange(again, stop)))
    return {
        "it": rows[keep], "m": {k: v[keep] for k, v in values.items()}, "cfg": draft.cfg,
        "label": cls, "level": level, "mode": mode, "expect": EXPECT[cls],
        "truth": {"onset": draft.onset, "dsub": "bursty" if cls == "loader_bursty" else ""},
    }  # fmt: skip
