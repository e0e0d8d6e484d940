"""The same faults in other shapes, on other noise, lengths, models and logging periods.

`python benchmarks/verdicts/score.py --generator benchmarks/verdicts/shapes.py` shows where the
rules lean on how curves.py draws a fault. Nothing here was fitted to a log: the shapes are what
one could think of, and a low share is a limit to know rather than a rate to expect.

A class is a fault and its shape (`climb_exponential`). Every run also draws its world: noise 0.6,
1 or 1.5 times that of its level, Gaussian or with heavy tails, white or correlated from row to row
(-0.2 to 0.5); raw rows of 100 to 500 iterations, or medians of 20 written every 20 or 100; an
R-CNN, RetinaNet, FCOS, a deeply supervised segmenter with 30 losses and a total of tens, or a
diffusion model with 24.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from curves import HEAD_SD, LEVELS, NOISE, Draft, Floats, losses, memory, schedule, times

__all__ = ["CLASSES", "EXPECT", "LEVELS", "LONG_ONLY", "NOISE", "make"]

SHAPES: dict[str, tuple[str, ...]] = {
    "healthy": ("", "slow", "dip", "restart", "decay"),
    "flat": ("exact", "drift", "tails", "wander"),
    "plateau": ("early", "late", "gradual"),
    "climb": ("linear", "exponential", "late", "heads"),
    "leap": ("once", "steps", "ebbing"),
    "swing": ("sine", "sawtooth", "square", "growing", "irregular"),
    "spikes": ("single", "wide"),
    "stuck": ("start", "late", "elsewhere"),
    "loader": ("steady", "every2", "every12", "every40", "random"),
    "memory": ("steps", "ramp"),
}
_EXPECT_OF = {
    "healthy": set(),
    "flat": {"not_decreasing"},
    "plateau": {"plateau", "not_decreasing"},
    "climb": {"divergence"},
    "leap": {"divergence"},
    "swing": {"oscillation"},
    "spikes": {"spikes"},
    "stuck": {"head_stuck", "roi_stalled"},
    "loader": {"data_bound"},
    "memory": {"mem_leak"},
}
EXPECT: dict[str, set[str]] = {
    "_".join(filter(None, (fault, shape))): _EXPECT_OF[fault]
    for fault, shapes in SHAPES.items()
    for shape in shapes
}
CLASSES = list(EXPECT)
LONG_ONLY = {"healthy_decay"}
MODELS = ("mask", "faster", "retina", "fcos", "deep", "diffusion")
MODEL_ODDS = (0.3, 0.3, 0.1, 0.1, 0.1, 0.1)
# (first level, what it can fall to as a share of that, sd of one raw row) by the head's stem
OTHER_HEADS = {
    "fcos": {"loss_fcos_cls": (1.0, 0.2, 0.3), "loss_fcos_loc": (0.8, 0.3, 0.2),
             "loss_fcos_ctr": (0.69, 0.85, 0.03)},
    "deep": {"loss_ce": (3.0, 0.1, 0.35), "loss_mask": (1.2, 0.2, 0.3),
             "loss_dice": (4.0, 0.2, 0.2)},
    "diffusion": {"loss_ce": (1.2, 0.2, 0.3), "loss_bbox": (1.0, 0.2, 0.3),
                  "loss_giou": (1.5, 0.25, 0.2), "loss_mask": (1.0, 0.3, 0.25)},
}  # fmt: skip
HEADS_OF_CURVES = ("mask", "faster", "retina")
LAYERS = {"fcos": 1, "deep": 10, "diffusion": 6}


@dataclass(frozen=True)
class World:
    """What a run has besides its fault. phi: correlation of neighbouring raw rows."""

    noise: float
    degrees: float  # of freedom of Student's t; infinite is Gaussian
    phi: float
    period: int  # iterations between rows
    model: str


def make(cls: str, level: str = "medium", mode: str = "short", seed: int = 0) -> dict[str, Any]:
    """One labelled run. Drafts whose label would be false are drawn again."""
    fault, _, shape = cls.partition("_")
    key = [*cls.encode(), LEVELS.index(level), int(mode == "long"), seed]
    for attempt in range(400):
        rng = np.random.default_rng([*key, attempt])
        run = _make(rng, fault, shape, level, mode)
        if run is not None:
            return {**run, "id": f"{cls}-{level}-{mode}-{seed}", "label": cls, "level": level,
                    "mode": mode, "expect": EXPECT[cls]}  # fmt: skip
    raise RuntimeError(f"no run of {cls} {level} {mode} {seed}")


def _make(
    rng: np.random.Generator, fault: str, shape: str, level: str, mode: str
) -> dict[str, Any] | None:
    long = mode == "long"
    world = World(
        float(rng.choice([0.6, 1.0, 1.5])),
        float(rng.choice([math.inf, 3.5])),
        float(rng.choice([-0.2, 0.0, 0.3, 0.5])),
        int(rng.choice([20, 100])) if long else 1,
        str(rng.choice(MODELS, p=MODEL_ODDS)),
    )
    rows = int(rng.choice([100, 150, 350, 900] if long else [100, 150, 350, 500]))
    n = rows * world.period
    draft = _course(rng, world, fault, shape, level, n, long)
    if draft is None or not _label_holds(draft, fault, shape):
        return None
    _bend(draft, fault, shape)
    values = _noisy(draft, world)
    values["lr"] = draft.lr
    values["time"], values["data_time"] = _waits(draft, fault, shape)
    peak, held = _memory_of(draft, fault, shape, long)
    values["max_mem"] = np.maximum.accumulate(peak)
    if not long:
        values["mem_peak"], values["mem_alloc"] = peak, held
    it, m = _rows(values, n, world.period)
    draft.cfg["arch"] = world.model
    truth = {"onset": draft.onset, "dsub": "", "world": world}
    return {"it": it, "m": m, "cfg": draft.cfg, "truth": truth}


# --------------------------------------------------------------------------- what a sound run does


def _course(
    rng: np.random.Generator, world: World, fault: str, shape: str, level: str, n: int, long: bool
) -> Draft | None:
    like = {"flat": "flat", "plateau": "late_plateau", "swing": "swing"}.get(fault, "healthy")
    if shape == "decay":
        like = "healthy_decay"
    draft = schedule(rng, like, level, n, long)
    if not long and draft.lr.sum() < 40 * draft.cfg["base_lr"]:
        return None
    two_stage = world.model in ("mask", "faster")
    if two_stage == (draft.cfg["arch"] == "retina"):  # the linear rule of the model drawn here
        factor = 2.0 if two_stage else 0.5
        draft.cfg["base_lr"] *= factor
        draft.lr = draft.lr * factor
    draft.cfg["arch"] = world.model if world.model in HEADS_OF_CURVES else "retina"
    if fault == "stuck" and not two_stage:
        return None
    as_curves = {"dip": "healthy_dip", "restart": "healthy_restart"}.get(shape, "healthy")
    losses(draft, "flat" if fault == "flat" else as_curves)
    if world.model in OTHER_HEADS:
        if shape in ("dip", "restart"):
            return None
        _other_heads(draft, world, still=fault == "flat")
    if shape == "dip" and "loss_rpn_cls" not in draft.heads:
        return None
    if shape == "slow":
        for name, course in draft.heads.items():
            draft.heads[name] = course[0] * (course / course[0]) ** (0.5 if long else 0.35)
    return draft


def _other_heads(draft: Draft, world: World, still: bool) -> None:
    rng, u = draft.rng, draft.rng.uniform
    s = np.cumsum(np.minimum(draft.lr / draft.cfg["base_lr"], 1.5))
    if still:
        s = s * 0.0
    scale, power = math.exp(u(math.log(12), math.log(100))), u(0.3, 0.8)
    draft.heads = {}
    for layer in range(LAYERS[world.model]):
        for stem, (start, floor, _) in OTHER_HEADS[world.model].items():
            name = stem if not layer else f"{stem}_{layer - 1}"
            body = (1 + s / (scale * u(0.8, 1.25))) ** (-power * u(0.8, 1.25))
            first = start * u(0.8, 1.2) * (1 + 0.3 * rng.random() * (not still) * np.exp(-s / 15))
            draft.heads[name] = first * (floor + (1 - floor) * body)


def _label_holds(draft: Draft, fault: str, shape: str) -> bool:
    if fault == "flat" or shape == "restart":
        return True
    total = np.sum(list(draft.heads.values()), axis=0)
    edge = max(5, draft.n // 15)
    fell = math.log(total[:edge].mean() / total[-edge:].mean())
    if fault == "healthy":  # a plateau is one before a decay and after a dip, too
        base = total[: _decay(draft)]
        part = max(3, len(base) // 15)
        late = math.log(base[len(base) // 2 :][:part].mean() / base[-part:].mean())
        return (fell > 0.1 or shape == "dip") and late > 0.08
    return fell > (0.25 if fault == "plateau" else 0.1)


def _decay(draft: Draft) -> int:
    """The iteration at which the rate first falls below 0.6 of its peak, or the length."""
    peak = int(np.argmax(draft.lr))
    below = np.flatnonzero(draft.lr[peak:] < 0.6 * draft.lr[peak])
    return peak + int(below[0]) if len(below) else draft.n


# ------------------------------------------------------------------------------------- the faults


def _bend(draft: Draft, fault: str, shape: str) -> None:
    bend = {
        "flat": _flat, "plateau": _plateau, "climb": _climb, "leap": _leap, "swing": _swing,
        "spikes": _spikes, "stuck": _stuck,
    }.get(fault)  # fmt: skip
    if bend is not None:
        bend(draft, shape)


def _graded(draft: Draft, ranges: tuple[tuple[float, float], ...]) -> float:
    return float(draft.rng.uniform(*ranges[LEVELS.index(draft.level)]))


def _freeze(draft: Draft, at: int) -> None:
    i = np.arange(draft.n)
    draft.onset = at
    draft.heads = {k: np.where(i < at, v, v[at]) for k, v in draft.heads.items()}


def _flat(draft: Draft, shape: str) -> None:
    n, rng = draft.n, draft.rng
    t = np.arange(n) / n
    if shape == "drift":  # a little up or down, all in all, or both
        draft.extra = rng.uniform(-0.02, 0.06) * t + rng.uniform(-0.02, 0.02) * np.sin(6.28 * t)
    elif shape == "wander":
        steps = rng.standard_normal(n)
        draft.extra = 0.06 * np.cumsum(steps) / math.sqrt(n)


def _plateau(draft: Draft, shape: str) -> None:
    n, u = draft.n, draft.rng.uniform
    if shape == "gradual":  # the last of the fall takes a tenth of the run
        at = int(n * u(0.25, 0.4))
        i = np.arange(n)
        slowed = np.where(i < at, i, at + 0.1 * n * (1 - np.exp(-(i - at) / (0.1 * n))))
        clock = np.minimum(slowed, n - 1).astype(int)
        draft.heads = {k: v[clock] for k, v in draft.heads.items()}
        draft.onset = at
        return
    _freeze(draft, int(n * (u(0.15, 0.25) if shape == "early" else u(0.45, 0.55))))


def _climb(draft: Draft, shape: str) -> None:
    n, u = draft.n, draft.rng.uniform
    factor = math.log(_graded(draft, ((3, 6), (1.8, 3), (1.5, 1.8))))
    at = int(n * (u(0.65, 0.8) if shape == "late" else u(0.2, 0.5)))
    _freeze(draft, at)
    t = np.clip((np.arange(n) - at) / (n - at), 0, 1)
    if shape == "exponential":  # of the loss itself: its logarithm rises ever faster
        draft.extra = np.log1p((math.exp(factor) - 1) * np.expm1(4 * t) / math.expm1(4))
    elif shape == "heads":  # only the heads that carry the total
        order = sorted(draft.heads, key=lambda k: -float(draft.heads[k][-1]))
        for name in order[: max(1, len(order) // 2)]:
            draft.per_head[name] = factor * 1.2 * t
    else:
        draft.extra = factor * t


def _leap(draft: Draft, shape: str) -> None:
    n, u = draft.n, draft.rng.uniform
    factor = math.log(_graded(draft, ((15, 80), (4, 15), (2.2, 4))))
    at = int(n * u(0.3, 0.75))
    draft.onset = at
    after = np.arange(n) - at
    if shape == "steps":
        half = (n - at) // 2
        draft.extra = factor * ((after >= 0) * 0.5 + (after >= half) * 0.5)
    elif shape == "ebbing":  # comes half the way back within a fifth of the run
        draft.extra = factor * (after >= 0) * (0.5 + 0.5 * np.exp(-np.maximum(after, 0) / (n / 5)))
    else:
        draft.extra = factor * (after >= 0)


def _swing(draft: Draft, shape: str) -> None:
    n, rng, u = draft.n, draft.rng, draft.rng.uniform
    amplitude = _graded(draft, ((0.5, 0.8), (0.33, 0.5), (0.25, 0.33)))
    fastest = 2.5 if draft.n <= 500 else 110  # medians of 20 hide what is faster
    period = u(fastest, max(fastest * 1.3, min(n / 9, 60 * fastest)))
    i = np.arange(n)
    if shape == "irregular":  # every half turn takes its own time and height
        edges = np.cumsum(0.5 * period * np.exp(0.5 * rng.standard_normal(int(8 * n / period) + 8)))
        heights = np.exp(0.4 * rng.standard_normal(len(edges)))
        turn = np.searchsorted(edges, i)
        start = np.concatenate(([0.0], edges))[turn]
        phase = (i - start) / np.maximum(edges[turn] - start, 1e-9)
        wave = np.where(turn % 2, 1.0, -1.0) * heights[turn] * np.sin(np.pi * phase)
    else:
        turn = i / period + np.cumsum(0.01 * rng.standard_normal(n)) + u(0, 1)
        wave = np.sin(2 * np.pi * turn)
        if shape == "sawtooth":
            wave = 2 * np.mod(turn, 1) - 1
        elif shape == "square":
            wave = np.sign(wave)
        elif shape == "growing":
            wave = wave * 1.5 * i / n
    draft.extra = amplitude * wave * np.clip(i / (0.1 * n), 0, 1)


def _spikes(draft: Draft, shape: str) -> None:
    n, rng, u = draft.n, draft.rng, draft.rng.uniform
    draft.extra = np.zeros(n)
    count = max(1, int(n * u(0.003, 0.012))) if shape == "single" else 2
    for at in rng.choice(np.arange(n // 12, n - 14), count, replace=False):
        height = math.log(_graded(draft, ((8, 40), (6, 12), (4.5, 7))))
        width = 1 if shape == "single" else int(rng.integers(3, 7))
        rows = slice(at, at + width)
        draft.extra[rows] = np.maximum(draft.extra[rows], height)


def _stuck(draft: Draft, shape: str) -> None:
    n, rng, u = draft.n, draft.rng, draft.rng.uniform
    name = str(
        rng.choice([h for h in ("loss_cls", "loss_mask", "loss_rpn_cls") if h in draft.heads])
    )
    chance = math.log(draft.cfg["num_classes"] + 1) if name == "loss_cls" else math.log(2)
    level = chance * u(0.98, 1.02)
    if shape == "elsewhere":  # some other level, at which it stands still all the same
        level *= float(rng.choice([0.6, 0.75, 1.4]))
    still = np.full(n, level)
    if shape == "late":  # learns for a while, then falls back to chance
        at = int(n * u(0.2, 0.4))
        still[:at] = draft.heads[name][:at] / draft.heads[name][0] * level
        draft.onset = at
    draft.heads[name] = still
    draft.quiet[name] = 0.3


def _waits(draft: Draft, fault: str, shape: str) -> tuple[Floats, Floats]:
    time, wait = times(draft, "loader_steady" if (fault, shape) == ("loader", "steady") else "")
    if fault != "loader" or shape == "steady":
        return time, wait
    rng, n = draft.rng, draft.n
    share = _graded(draft, ((0.6, 0.85), (0.43, 0.6), (0.32, 0.43)))
    compute = float(np.median(time - wait))
    more = compute * share / (1 - share)
    if shape == "random":
        hit = rng.random(n) < 0.1
        every = 10
    else:
        every = int(shape.removeprefix("every"))
        hit = np.arange(n) % every == every - 1
    stall = np.where(hit, more * every * np.exp(0.3 * rng.standard_normal(n)), 0.0)
    return time + stall, wait + stall


def _memory_of(draft: Draft, fault: str, shape: str, long: bool) -> tuple[Floats, Floats]:
    peak, held = memory(draft, "healthy", long)
    if fault == "memory":
        n, u = draft.n, draft.rng.uniform
        rate = _graded(draft, ((1.5, 5), (0.4, 1.5), (0.15, 0.4))) / (5 if long else 1)
        grown = rate * np.arange(n)
        if shape == "steps":
            every = max(2, int(n * u(0.02, 0.06)))
            grown = rate * every * (np.arange(n) // every)
        peak, held = peak + grown, held + grown
        draft.cfg["gpu_mem"] = float(peak.max() / u(0.45, 0.8))
    return peak, held


# ---------------------------------------------------------------------------------- noise and rows


def _noisy(draft: Draft, world: World) -> dict[str, Floats]:
    factor = NOISE[draft.level] * world.noise
    deep = world.model in ("deep", "diffusion")
    shared = 0.8 if deep else 0.3  # layers of one decoder see the same images
    common = _row_noise(draft.rng, draft.n, world)
    values: dict[str, Floats] = {}
    for name, course in draft.heads.items():
        own = _row_noise(draft.rng, draft.n, world)
        sd = _sd_of(name, world.model) * factor * math.exp(0.2 * draft.rng.standard_normal())
        log = sd * draft.quiet.get(name, 1.0) * (shared * common + math.sqrt(1 - shared**2) * own)
        log = np.where(log > 0, np.tanh(log), np.maximum(log, -3.0))
        if draft.extra is not None:
            log = log + draft.extra
        values[name] = course * np.exp(log + draft.per_head.get(name, 0.0))
    values["total_loss"] = np.sum(list(values.values()), axis=0)
    return values


def _sd_of(name: str, model: str) -> float:
    if model not in OTHER_HEADS:
        return HEAD_SD[name]
    stem = next(s for s in OTHER_HEADS[model] if name == s or name.startswith(s + "_"))
    return OTHER_HEADS[model][stem][2]


def _row_noise(rng: np.random.Generator, n: int, world: World) -> Floats:
    """Unit variance, with the world's tails and correlation."""
    white = rng.standard_normal(n)
    if math.isfinite(world.degrees):
        white = white * np.sqrt((world.degrees - 2) / rng.chisquare(world.degrees, n))
    reach = world.phi ** np.arange(40)
    return np.asarray(np.convolve(white, reach)[:n] * math.sqrt(1 - world.phi**2))


def _rows(values: dict[str, Floats], n: int, period: int) -> tuple[Any, dict[str, Floats]]:
    """Raw rows, or what JSONWriter stores: every so many iterations the median of the last 20."""
    if period == 1:
        return np.arange(n), values
    count = n // period
    rows = np.arange(count) * period + period - 1
    medians = {
        name: v[rows]
        if name in ("lr", "max_mem")
        else np.median(v.reshape(count, period)[:, -20:], axis=1)
        for name, v in values.items()
    }
    return rows, medians
