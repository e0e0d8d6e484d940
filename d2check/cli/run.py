"""`d2check run`: a short training of a config, judged."""

from __future__ import annotations

from pathlib import Path

import click

from d2check.cli._options import ReportChoices, report_options, run_options

_EXAMPLES = """\b
d2check run config.yaml
d2check run config.yaml --setup register_data.py --budget 5m
d2check run config.yaml SOLVER.BASE_LR 0.0025 SOLVER.IMS_PER_BATCH 2
d2check run config.yaml --python ~/train-env/bin/python --junitxml d2check.xml
"""


@click.command(
    # A value may begin with a dash (MODEL.X -1), so that what is no option of ours is an override.
    context_settings={"ignore_unknown_options": True},
    epilog=_EXAMPLES,
    short_help="Train a config briefly and judge.",
)
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, type=click.UNPROCESSED, metavar="[KEY VALUE]...")
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
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Record into this new or empty folder (default d2check-runs/TIME-CONFIG).",
)
@report_options
def command(
    config: Path,
    overrides: tuple[str, ...],
    setup: tuple[str, ...],
    trainer: str | None,
    iterations: int | None,
    budget: str | None,
    output: Path | None,
    interpreter: str | None,
    seed: int | None,
    device: str | None,
    choices: ReportChoices,
) -> int:
    """Train a config briefly, as it is, and judge what was recorded.

    Nothing of the config is changed but what you override; no checkpoint is written, nothing is
    evaluated, your OUTPUT_DIR is not touched.
    """
    from d2check.cli._check import check
    from d2check.cli._deliver import check_targets, no_rules, rule_choice
    from d2check.fleet import choose
    from d2check.harness.plan import parse_duration_s, plan_run

    _refuse_unknown_options(overrides)
    check_targets(choices)
    chosen = choose(rule_choice(choices))
    if not chosen.rules:
        return no_rules(choices)
    plan = plan_run(
        config,
        overrides,
        setup=setup,
        trainer=trainer,
        iterations=iterations,
        budget_s=None if budget is None else parse_duration_s(budget),
        output=output,
        interpreter=interpreter,
        seed=seed,
        device=device,
    )
    return check(plan, chosen, choices, title=str(config))


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
