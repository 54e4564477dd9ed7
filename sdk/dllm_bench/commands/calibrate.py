"""`dllm-bench calibrate`: the settings of a scheduler that reach a target."""

from __future__ import annotations

import sys
from typing import Any

import click

import dllm_bench
from dllm_bench.commands import options
from dllm_bench.explain import FAILED_RUN
from dllm_bench.grids import axes
from dllm_bench.progress import Meter
from dllm_sdk.writing import try_to_write, write_whole


@click.command("calibrate")
@options.model_option
@options.scheduler_option("What is calibrated; fields that are not in the grid stay as given.")
@options.tasks_option("Without answers in a file, agreement with the reference counts. ")
@click.option(
    "--grid",
    metavar="FIELD=a,b,c",
    multiple=True,
    help="Values to try; repeat it for several fields. Default: the threshold-like fields.",
)
@click.option(
    "--max-accuracy-loss",
    metavar="POINTS",
    type=float,
    help="The fewest forward passes with at most so many points less than the reference.  [default: 1]",
)
@click.option(
    "--max-nfe", metavar="PASSES", type=float, help="The best accuracy within so many passes per prompt instead."
)
@click.option(
    "--guarantee",
    metavar="PROBABILITY",
    type=float,
    help="Such as 0.9: keep the loss within its bound on all prompts of this kind with this probability.",
)
@options.scheduler_option(
    "What accuracy is lost against; the default commits one token per step.", "--reference", "fixed-block"
)
@click.option(
    "--delimiters",
    "propose_delimiters",
    is_flag=True,
    help="Try the tokens behind which confidence drops as delimiters, too.",
)
@options.limit_option(": one half chooses, one validates")
@options.batch_size_option
@click.option("--gen-length", type=int, help="Positions to generate.  [default: the task's own, 64 for a file]")
@options.cache_option("", default="none", show_default=True)
@options.running_options
@options.backend_option
@click.option("--output", metavar="FILE.toml", help="Write the scheduler there; use it as --scheduler @FILE.toml.")
@click.option("--page", metavar="FILE.html", help="Write a page with the front and a reliability diagram there.")
@options.format_option
@options.traceback_option
@click.pass_context
def command(
    ctx: click.Context, /, grid: tuple[str, ...], output: str | None, page: str | None, format: str, **given: Any
) -> None:
    """Find the settings of a scheduler that keep accuracy at the fewest forward passes, or fit a budget.

    Every setting of a grid decodes one half of the prompts, and the best one is checked on the other half. Exit 1 if no
    setting reaches the target.
    """
    for path in filter(None, (output, page)):
        try_to_write(path)
    target = dllm_bench.Target(**{name: given.pop(name) for name in ("max_accuracy_loss", "max_nfe", "guarantee")})
    meter = Meter(sys.stderr)
    try:
        found = dllm_bench.calibrate(**options.filled(given | {"grid": axes(grid)}), target=target, progress=meter)
    finally:
        meter.clear()
    options.show(found, format)
    if page is not None:
        write_whole(page, found.to_html())
        click.echo(f"\nPage: {page}", err=True)
    if found.chosen is None:
        kept = "" if output is None else f"; {output} was not written"
        click.echo(f"Error: no setting reaches the target, {found.target}{kept}", err=True)
        ctx.exit(FAILED_RUN)
    if output is not None:
        found.save(output)
        click.echo(f"\nScheduler: --scheduler @{output}", err=True)
