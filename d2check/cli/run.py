"""`d2check run`: a short training of a config, or by a command of the user's own, judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from d2check.cli._options import ReportChoices, report_options, run_options

if TYPE_CHECKING:
    from d2check.harness.plan import Plan

_COMMAND = "d2check.command"

_EXAMPLES = """\b
d2check run config.yaml
d2check run config.yaml --setup register_data.py --budget 5m
d2check run config.yaml SOLVER.BASE_LR 0.0025 SOLVER.IMS_PER_BATCH 2
d2check run config.yaml --python ~/train-env/bin/python --junitxml d2check.xml
d2check run -- python train_net.py --config-file x.yaml --num-gpus 2
d2check run config.yaml --as-configured-for 8
d2check run config.yaml --verify
"""


class _CommandAfterDashes(click.Command):
    """Keeps the words after a bare `--` apart: they are a command, options and all."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Leave only what stands before `--` to the usual parsing."""
        if "--" in args:
            at = args.index("--")
            ctx.meta[_COMMAND] = tuple(args[at + 1 :])
            args = args[:at]
        return super().parse_args(ctx, args)


@click.command(
    cls=_CommandAfterDashes,
    # A value may begin with a dash (MODEL.X -1), so that what is no option of ours is an override.
    context_settings={"ignore_unknown_options": True},
    epilog=_EXAMPLES,
    short_help="Train a config briefly and judge.",
    options_metavar="[OPTIONS]",
)
@click.argument(
    "config",
    type=click.Path(path_type=Path),
    required=False,
    metavar="(CONFIG",
)
@click.argument(
    "overrides", nargs=-1, type=click.UNPROCESSED, metavar="[KEY VALUE]... | -- COMMAND)"
)
@click.option(
    "--setup",
    multiple=True,
    metavar="FILE_OR_MODULE",
    help="Run this in the training first: it registers data sets, adds config keys. Repeatable.",
)
@click.option(
    "--trainer", metavar="MODULE:CLASS", help="A subclass of DefaultTrainer to train with."
)
@run_options
@click.option(
    "--num-gpus",
    type=int,
    default=1,
    metavar="N",
    help="Train with so many processes, one for each GPU (default 1).",
)
@click.option(
    "--as-configured-for",
    "configured_for",
    type=int,
    metavar="N",
    help="The config is for N GPUs: give those here their share of its batch.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Record into this new or empty folder (default d2check-runs/TIME-CONFIG).",
)
@report_options
def command(
    config: Path | None,
    overrides: tuple[str, ...],
    setup: tuple[str, ...],
    trainer: str | None,
    iterations: int | None,
    budget: str | None,
    phases: tuple[str, ...] | None,
    confirm: bool,
    verify: bool,
    early_end: bool,
    num_gpus: int,
    configured_for: int | None,
    output: Path | None,
    interpreter: str | None,
    seed: int | None,
    device: str | None,
    choices: ReportChoices,
) -> int:
    """Train a config briefly, as it is, and judge what was recorded.

    CONFIG is a Detectron2 config (.yaml) or a LazyConfig (.py). Or name, after --, the command
    that starts your own training script: the probe joins it by itself. Nothing of the config is
    changed but what you override; no checkpoint is written, nothing is evaluated, your OUTPUT_DIR
    is not touched.
    """
    from d2check.cli._check import check
    from d2check.cli._deliver import check_targets, no_rules, rule_choice
    from d2check.fleet import choose
    from d2check.harness.plan import parse_duration_s, plan_command, plan_run

    words: Sequence[str] | None = click.get_current_context().meta.get(_COMMAND)
    if words and config is not None:
        overrides, words = (*overrides, *words), None
    _refuse_unknown_options(overrides)
    check_targets(choices)
    budget_s = None if budget is None else parse_duration_s(budget)
    chosen = choose(rule_choice(choices))
    if not chosen.rules:
        return no_rules(choices)
    plan: Plan
    if config is not None:
        plan = plan_run(
            config,
            overrides,
            setup=setup,
            trainer=trainer,
            iterations=iterations,
            budget_s=budget_s,
            phases=phases,
            output=output,
            interpreter=interpreter,
            seed=seed,
            device=device,
            num_gpus=num_gpus,
            configured_for=configured_for,
        )
        return check(
            replace(plan, confirm=confirm, verify=verify, early_end=early_end),
            chosen,
            choices,
            title=str(config),
        )
    if words is None:
        raise click.MissingParameter(
            ctx=click.get_current_context(), param_hint="CONFIG", param_type="argument"
        )
    _refuse_options_of_configs()
    plan = plan_command(
        words, iterations=iterations, budget_s=budget_s, phases=phases, output=output
    )
    return check(
        replace(plan, confirm=confirm, verify=verify, early_end=early_end),
        chosen,
        choices,
        title=_title(words),
    )


def _title(words: Sequence[str]) -> str:
    """The program and its script: arguments may hold secrets."""
    script = next((word for word in words[1:] if word.endswith(".py")), None)
    return " ".join([words[0], *([script] if script else [])])


def _refuse_options_of_configs() -> None:
    """What a command decides for itself must not seem to be decided here."""
    context = click.get_current_context()
    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if given and name in _OF_CONFIGS:
            raise click.UsageError(f"{parameter.opts[0]} {_OF_CONFIGS[name]}", ctx=context)


_ITS_OWN = "is for configs; give your script its own option, after --"
_OF_CONFIGS = {
    "verify": "is for configs; make the change in your script and check again",
    "setup": "is for configs; your own script registers its data sets itself",
    "trainer": "is for configs; your own script chooses its trainer",
    "interpreter": "is for configs; name the interpreter itself, after --",
    "seed": _ITS_OWN,
    "device": _ITS_OWN,
    "num_gpus": _ITS_OWN,
    "configured_for": "is for configs; start your script with its own batch for one GPU",
}


def _refuse_unknown_options(overrides: tuple[str, ...]) -> None:
    """A misspelt option must not pass as a key to override: no key begins with a dash."""
    for word in overrides[::2]:
        if word.startswith("-"):
            name = word.partition("=")[0]
            context = click.get_current_context()
            known = [o for p in context.command.params for o in p.opts if o.startswith("-")]
            from difflib import get_close_matches

            raise click.NoSuchOption(
                name, possibilities=get_close_matches(name, known), ctx=context
            )
