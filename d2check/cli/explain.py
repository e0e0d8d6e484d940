"""`d2check explain`: a training line, a log or a folder in plain words, or a rule."""

from __future__ import annotations

import io
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from d2check.errors import InputError, UsageError

if TYPE_CHECKING:
    from d2check.model import Run

_WIDEST = 110
_PIPE_WIDTH = 100
_NOTHING = 5
_RULE_ID = re.compile(r"[a-z][a-z-]*/[a-z][a-z-]*")
_SIZE = re.compile(r"([\d.]+) *([KMGT]?)i?B?", re.IGNORECASE)
_LOSS = re.compile(rb"\b(?:total_)?loss\w*: +[-\d.]+(?=\s|[\"'`,;]|$)")
_MIB = {"K": 2.0**-10, "M": 1.0, "G": 1024.0, "T": 1024.0**2, "": 2.0**-20}
_EXPECTED = "a line of Detectron2's log, a log or metrics file, an output folder, or a rule's id"

_EXAMPLES = """\b
d2check explain "eta: 1:57:18  iter: 59  total_loss: 5.13  ...  lr: 1.4985e-05  max_mem: 3088M"
d2check explain output/log.txt --images 45000 --batch 2 --gpu-mem 8GiB
tail -1 output/log.txt | d2check explain -
d2check explain loss/diverges
"""


def _gpu_memory(ctx: click.Context, option: click.Parameter, text: str | None) -> float | None:
    if text is None:
        return None
    found = _SIZE.fullmatch(text.strip())
    if found is None or not float(found[1]) > 0:
        raise click.BadParameter(f"{text!r} is no size; write 8GiB or 8192MiB")
    return float(found[1]) * _MIB[found[2].upper()]


@click.command(epilog=_EXAMPLES, short_help="Say in plain words what a training line means.")
@click.argument("what", nargs=-1, required=True, metavar="LINE|FILE|FOLDER|RULE|-")
@click.option("--images", type=click.IntRange(1), metavar="N", help="Images in the training set.")
@click.option("--batch", type=click.IntRange(1), metavar="N", help="SOLVER.IMS_PER_BATCH.")
@click.option("--classes", type=click.IntRange(1), metavar="N", help="Classes of the model.")
@click.option(
    "--gpu-mem", callback=_gpu_memory, metavar="SIZE", help="Memory of the card, as 8GiB."
)
@click.option(
    "--config", "config_path", type=click.Path(path_type=Path), metavar="FILE",
    help="The config of the training.",
)  # fmt: skip
def command(
    what: tuple[str, ...],
    images: int | None,
    batch: int | None,
    classes: int | None,
    gpu_mem: float | None,
    config_path: Path | None,
) -> int:
    """Say what each field of a training line means, what it says here, and what is normal.

    Of a file or a folder the last row is explained, with the rows before it in mind. More is said
    with what you add: --images, --batch, --gpu-mem, --classes, --config.
    """
    text = " ".join(what)
    if _RULE_ID.fullmatch(text) and not Path(text).exists():
        from d2check.cli.rules import documentation, find

        click.echo(documentation(find(text)))
        return 0
    from d2check.cli._deliver import wants_colour
    from d2check.config.load import load_config
    from d2check.explain import Known, explain
    from d2check.report.explained import render

    runs, placed = _runs(text)
    config = load_config(config_path) if config_path is not None else None
    known = Known(images, batch, gpu_mem, classes, config=config, iteration=placed)
    explanation = explain(runs[-1], known)
    if explanation is None:
        click.echo("there is no row of losses in it", err=True)
        return _NOTHING
    if len(runs) > 1:
        click.echo(f"{len(runs)} trainings; this is the last row of the last one\n")
    columns = min(shutil.get_terminal_size((_PIPE_WIDTH, 24)).columns, _WIDEST)
    click.echo(render(explanation, width=columns, colour=wants_colour(sys.stdout)), nl=False)
    return 0


def _runs(text: str) -> tuple[tuple[Run, ...], bool]:
    """The trainings, and whether the iteration of the last row is told."""
    from d2check import sources

    if text == "-":
        return _of_text(_standard_input(), "standard input")
    if "iter: " in text or text.lstrip().startswith("{") or _LOSS.search(text.encode()):
        return _of_text(text.encode("utf-8", "surrogateescape"), "the given line")
    path = Path(text)
    if not path.exists():
        raise InputError(repr(text[:60]), "no such file, and no training line", _EXPECTED,
                         "Put the line in quotes")  # fmt: skip
    return sources.read(path), True


def _of_text(data: bytes, name: str) -> tuple[tuple[Run, ...], bool]:
    """Of a line quoted without its iteration, too, the losses can be explained."""
    from d2check import sources

    loss = _LOSS.search(data)
    placed = loss is None or b"iter: " in data or b'"iteration"' in data
    if loss and not placed:
        line = data[loss.start() :].partition(b"\n")[0]
        data = b"iter: 0  " + line
    return sources.read_text(io.BufferedReader(io.BytesIO(data)), name), placed


def _standard_input() -> bytes:
    data = sys.stdin.buffer.read()
    if not data.strip():
        raise UsageError("standard input is empty. Pipe a line of a log into it.")
    return data
