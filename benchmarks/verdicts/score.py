"""How often the rules are right on labelled runs: `python benchmarks/verdicts/score.py`.

Every run is made from a seed, written in a real format, read by the real readers and judged by the
shipped rules. Printed: for each class and mode the share with any WARN or FAIL, with one of the
right rules, and by level; for healthy classes false alarms with 95 % Wilson intervals. Then, on
the same runs and side by side, six published rules, an ensemble of simple rules tuned on other
seeds of the generator, and, with `--peers PYTHON`, trainproof and runmedic where that interpreter
has them. `--confusion` prints what each of them called every class at every level.

`--generator PATH` scores another generator module with the same `make`, CLASSES, LEVELS, EXPECT.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing import Pool
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

import written
from ensemble import Chosen, curve_of, tune
from ensemble import flags as ensemble_flags
from published import PUBLISHED
from rivals import RIVALS, flags_of, judge_files, version_in, write_plain
from side_by_side import Said, show_confusion, show_doctors, wilson

from d2check import sources
from d2check.model import Finding, Run, Series, Verdict
from d2check.rules.judge import judge
from d2check.rules.load import load_rules

RIGHT: dict[str, tuple[str, ...]] = {
    "not_decreasing": ("loss/not-decreasing",),
    "plateau": ("loss/plateau",),
    "oscillation": ("loss/oscillates",),
    "divergence": ("loss/diverges",),
    "nan": ("loss/non-finite",),
    "spikes": ("loss/spikes",),
    "head_stuck": ("loss/head-stuck", "loss/head-zero", "labels/no-foreground"),
    "roi_stalled": ("loss/roi-stalled", "loss/head-stuck"),
    "data_bound": ("time/data-bound",),
    "time_drift": ("time/slows-down",),
    "mem_leak": ("memory/growth",),
    "mem_limit": ("memory/headroom",),
    "mem_forecast": ("memory/headroom",),
    "lr": ("schedule/", "config/steps-invalid"),
    "duplicates": ("ending/runs-mixed",),
    "truncated": ("ending/truncated",),
}


@dataclass(frozen=True)
class Job:
    """One run to make and judge."""

    generator: str
    cls: str
    level: str
    mode: str
    seed: int
    noise: float
    weights: str = written.WEIGHTS  # MODEL.WEIGHTS of its config
    plain: str = ""  # where the run is written once more, for the rivals that read files


@dataclass(frozen=True)
class Outcome:
    """What the rules said: ids that warned and failed, and the bursty loader's verdict."""

    job: Job
    warned: tuple[str, ...]
    failed: tuple[str, ...]
    right: bool
    loader: str
    errors: tuple[str, ...]
    detail: str
    judge_s: float
    said: Said
    world: str = ""


def load_generator(path: str) -> ModuleType:
    """The generator module at a path."""
    spec = importlib.util.spec_from_file_location("generator_" + Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


_STATE: dict[str, Any] = {}
OURS, ENSEMBLE = "d2check, every rule", "tuned ensemble"


def prepare(generator: str, noise: float) -> ModuleType:
    """Load rules and generator once, before workers are forked."""
    _STATE["rules"] = load_rules()
    _STATE["generator"] = load_generator(generator)
    _scale_noise(_STATE["generator"], noise)
    return _STATE["generator"]


def score_one(job: Job) -> Outcome:
    """Make, write, read and judge one run."""
    if not _STATE:  # a worker that was spawned and not forked
        prepare(job.generator, job.noise)
    written.WEIGHTS = job.weights
    run = _STATE["generator"].make(job.cls, job.level, job.mode, job.seed)
    place = Path(tempfile.mkdtemp(prefix="verdicts-"))
    try:
        read = sources.read(written.write(run, place / "run"))
    finally:
        shutil.rmtree(place)
    started = time.perf_counter()
    findings = [f for r in read for f in judge(_STATE["rules"], _with_log(r, run))]
    judge_s = time.perf_counter() - started
    loss = np.asarray(run["m"]["total_loss"], dtype=float)
    with np.errstate(all="ignore"):
        flags = [rule(loss) for rule in PUBLISHED.values()]
    said = dict(zip(PUBLISHED, map(frozenset, flags), strict=True))
    with np.errstate(all="ignore"):
        said[ENSEMBLE] = frozenset(ensemble_flags(_ensemble_of(job.mode), *curve_of(run)))
    if job.plain:
        write_plain(run, Path(job.plain))
    outcome = _outcome(job, frozenset(run["expect"]), findings, judge_s, said)
    return replace(outcome, world=str(run["truth"].get("world", "")))


def _ensemble_of(mode: str) -> list[Chosen]:
    if mode not in _STATE:
        with np.errstate(all="ignore"):
            _STATE[mode] = tune(_STATE["generator"], mode)
    return list(_STATE[mode])


def _outcome(
    job: Job,
    expected: frozenset[str],
    findings: Sequence[Finding],
    judge_s: float,
    said: dict[str, frozenset[str]],
) -> Outcome:
    warned = sorted({f.rule for f in findings if f.verdict is Verdict.WARN})
    failed = sorted({f.rule for f in findings if f.verdict is Verdict.FAIL})
    wanted = [prefix for flag in expected for prefix in RIGHT[flag]]
    hit = any(rule.startswith(p) for rule in warned + failed for p in wanted)
    if "truncated" in expected or "duplicates" in expected:  # information, not a verdict
        hit = hit or any(f.rule in wanted and f.value for f in findings)
    said = {OURS: _flags_of_rules(warned + failed, expected if hit else frozenset()), **said}
    loader = next((f.verdict.value for f in findings if f.rule == "time/data-bound"), "")
    flagged = [f for f in findings if f.verdict in (Verdict.WARN, Verdict.FAIL)]
    return Outcome(
        job,
        tuple(warned),
        tuple(failed),
        hit,
        loader,
        tuple(f"{f.rule}: {f.reason}" for f in findings if f.verdict is Verdict.ERROR),
        "; ".join(f"{f.verdict.value} {f.rule}: {f.message}" for f in flagged),
        judge_s,
        Said(job.cls, job.level, expected, said),
    )


def _flags_of_rules(rules: Sequence[str], sure: frozenset[str]) -> frozenset[str]:
    """The flags that our rules stand for; a rule that stands for none keeps its id."""
    flags = {
        rule: {flag for flag, ids in RIGHT.items() if any(rule.startswith(i) for i in ids)}
        for rule in rules
    }
    return frozenset(f for rule in rules for f in flags[rule] or {rule}) | sure


def _with_log(read: Run, run: dict[str, Any]) -> Run:
    """A long run's log.txt tells the memory's high-water mark; the rows beside it do not."""
    if run["mode"] != "long" or "max_mem" in read.series or not len(run["it"]):
        return read
    first = int(np.argmax(np.diff(run["it"], prepend=-1) <= 0)) or len(run["it"])
    iterations, values = run["it"][:first], np.floor(run["m"]["max_mem"][:first])
    memory = Series("max_mem", iterations.astype(np.int64), values.astype(float), 20)
    facts = {"gpu_total_mib": run["cfg"]["gpu_mem"], **read.facts}
    return replace(read, series={**read.series, "max_mem": memory}, facts=facts)


def _scale_noise(generator: ModuleType, factor: float) -> None:
    """Shift the noise of all levels of a generator (NOISE here, LEVEL_SD in the yardstick)."""
    for name in ("NOISE", "LEVEL_SD"):
        table = getattr(generator, name, None)
        if isinstance(table, dict):
            table.update({key: value * factor for key, value in table.items()})


def show(mode: str, outcomes: Sequence[Outcome], levels: Sequence[str], verbose: bool) -> None:
    """One table per mode."""
    print(f"\n{mode} runs")
    print(f"  {'class':28s} {'runs':>5s} {'any':>6s} {'FAIL':>6s} {'right':>6s}   by level")
    for cls in dict.fromkeys(o.job.cls for o in outcomes):
        mine = [o for o in outcomes if o.job.cls == cls]
        flagged = sum(bool(o.warned or o.failed) for o in mine)
        failed = sum(bool(o.failed) for o in mine)
        right = sum(o.right for o in mine)
        healthy = cls.startswith("healthy")
        tail = "" if healthy else _by_level(mine, levels)
        if healthy:
            low, high = wilson(flagged, len(mine))
            tail = f"false alarms {low:.1%} to {high:.1%}"
        named = f"{right / len(mine):6.1%}" if not healthy else "     -"
        rates = f"{flagged / len(mine):6.1%} {failed / len(mine):6.1%}"
        print(f"  {cls:28s} {len(mine):5d} {rates} {named}   {tail}")
        counts = Counter(rule for o in mine for rule in set(o.warned + o.failed))
        if healthy and counts:
            print("      " + ", ".join(f"{rule} {n}" for rule, n in counts.most_common()))
        if mine[0].said.expected == {"data_bound"}:
            print(f"      loader: {dict(Counter(o.loader for o in mine))}")
        if verbose:
            _show_wrong(mine, healthy)
    errors = Counter(e for o in outcomes for e in o.errors)
    for error, n in errors.most_common(5):
        print(f"  ERROR in {n} runs: {error}")
    milliseconds = sorted(1000 * o.judge_s for o in outcomes)
    print(f"  judging: median {milliseconds[len(milliseconds) // 2]:.1f} ms a run")


def _show_wrong(outcomes: Sequence[Outcome], healthy: bool) -> None:
    for o in outcomes:
        if (healthy and o.detail) or (not healthy and not o.right):
            print(f"        {o.job.level} seed {o.job.seed} {o.world}: {o.detail or '(nothing)'}")


def _by_level(outcomes: Sequence[Outcome], levels: Sequence[str]) -> str:
    parts = []
    for level in levels:
        mine = [o.right for o in outcomes if o.job.level == level]
        if mine:
            parts.append(f"{level} {sum(mine) / len(mine):.0%}")
    return "  ".join(parts)


def main() -> None:
    """Score and print."""
    here = Path(__file__).resolve().parent
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--generator", default=str(here / "curves.py"))
    ask.add_argument("--first-seed", type=int, default=700_000)
    ask.add_argument("--runs", type=int, default=40, help="per class, level and mode")
    ask.add_argument("--healthy-runs", type=int, help="the same for healthy classes")
    ask.add_argument("--modes", nargs="+", default=["short", "long"])
    ask.add_argument("--classes", nargs="+")
    ask.add_argument("--noise", type=float, default=1.0, help="factor on the noise of all levels")
    ask.add_argument("--jobs", type=int, default=2)
    ask.add_argument("--peers", help="interpreter that has trainproof, runmedic or both")
    ask.add_argument(
        "--peer-runs",
        type=int,
        default=40,
        help="runs that they see, as --runs; of healthy classes 4 times as many",
    )
    ask.add_argument("--weights", default=written.WEIGHTS, help="MODEL.WEIGHTS of all runs")
    ask.add_argument("--confusion", action="store_true", help="what each class was called by each")
    ask.add_argument("--verbose", action="store_true", help="every wrong verdict with its message")
    given = ask.parse_args()
    generator = prepare(given.generator, given.noise)
    rivals = _rivals_in(given.peers) if given.peers else {}
    for mode in given.modes:
        skip = (
            getattr(generator, "LONG_ONLY", {"truncated"})
            if mode == "short"
            else {"mem_peak_rising"}
        )
        jobs = [
            Job(given.generator, cls, level, mode, seed, given.noise, given.weights)
            for cls in given.classes or generator.CLASSES
            if cls not in skip
            for level in generator.LEVELS
            for seed in range(given.first_seed, given.first_seed + _count(given, cls))
        ]
        for chosen in _ensemble_of(mode):
            print(f"  tuned for {chosen.flag}: {chosen.name}")
        with tempfile.TemporaryDirectory(prefix="rivals-") as plain:
            jobs = _also_plain(jobs, Path(plain), given) if rivals else jobs
            with Pool(given.jobs) as pool:
                outcomes = pool.map(score_one, jobs, chunksize=8)
            said = _with_rivals(given.peers, rivals, outcomes)
        show(mode, outcomes, generator.LEVELS, given.verbose)
        doctors = [OURS, ENSEMBLE, *PUBLISHED, *(r for r in RIVALS if RIVALS[r][0] in rivals)]
        show_doctors(said, doctors, generator.LEVELS)
        for doctor in doctors if given.confusion else ():
            show_confusion(said, doctor)


def _rivals_in(python: str) -> dict[str, str]:
    """Program -> version of the rivals that an interpreter has; says which it has not."""
    found = {}
    for program in dict.fromkeys(program for program, _ in RIVALS.values()):
        version = version_in(python, program)
        if version is None:
            print(f"{program} is not installed for {python}: left out of the tables")
        else:
            print(f"{program} {version}")
            found[program] = version
    return found


def _also_plain(jobs: Sequence[Job], place: Path, given: argparse.Namespace) -> list[Job]:
    """The jobs, those of the first seeds with a file to be written for the rivals."""
    files = []
    for number, job in enumerate(jobs):
        seen = given.peer_runs * (4 if job.cls.startswith("healthy") else 1)
        wanted = job.seed < given.first_seed + seen
        files.append(replace(job, plain=str(place / f"{number}.jsonl")) if wanted else job)
    return files


def _with_rivals(python: str, rivals: Mapping[str, str], outcomes: Sequence[Outcome]) -> list[Said]:
    """What was said of every run, the rivals' findings on those written for them added."""
    flags = [dict(o.said.flags) for o in outcomes]
    written_for = [n for n, o in enumerate(outcomes) if o.job.plain]
    for program in rivals if written_for else ():
        files = [Path(outcomes[n].job.plain) for n in written_for]
        for n, findings in zip(written_for, judge_files(python, program, files), strict=True):
            for row, (name, levels) in RIVALS.items():
                if name == program:
                    flags[n][row] = frozenset(flags_of(findings, levels))
    return [replace(o.said, flags=f) for o, f in zip(outcomes, flags, strict=True)]


def _count(given: argparse.Namespace, cls: str) -> int:
    if cls.startswith("healthy") and given.healthy_runs:
        return int(given.healthy_runs)
    return int(given.runs)


if __name__ == "__main__":
    main()
