"""`dllm-bench diff`: is any row of a results file worse than it was?"""

from __future__ import annotations

import click

import dllm_bench
from dllm_bench.commands import options
from dllm_bench.explain import FAILED_RUN


@click.command("diff")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option(
    "--max-accuracy-loss",
    metavar="POINTS",
    default=0.0,
    show_default=True,
    help="Percentage points of accuracy that a row of B may lose; inf: any.",
)
@click.option(
    "--max-nfe-increase",
    metavar="PERCENT",
    default=0.0,
    show_default=True,
    help="How many more forward passes a row of B may take; inf: any.",
)
@options.format_option
@options.traceback_option
@click.pass_context
def command(ctx: click.Context, /, a: str, b: str, format: str, **bounds: float) -> None:
    """Compare two results files, B with A, row by row on the same prompts; exit 1 if a row of B is worse than allowed.

    A and B are each a results.jsonl of `compare --output`, or its folder, of the same model and tasks. Rows are matched
    by scheduler class, fields and cache.
    """
    found = dllm_bench.diff(a, b, **bounds)
    options.show(found, format)
    if found.worse:
        click.echo(f"Error: worse than allowed: {'; '.join(found.worse)}", err=True)
        ctx.exit(FAILED_RUN)
