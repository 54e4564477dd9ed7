"""`dllm-bench speed`: what a step costs, and against what."""

from __future__ import annotations

from typing import Any

import click

import dllm_bench
from dllm_bench.commands import options


@click.command("speed")
@options.model_option
@click.option(
    "--backend",
    "backends",
    type=click.Choice(("eager", "compile", "graph")),
    multiple=True,
    default=("eager",),
    show_default=True,
    help="How a step is run; repeat it to measure several in turn. graph needs a GPU.",
)
@click.option(
    "--cache",
    "caches",
    type=click.Choice(("dual", "prefix", "none")),
    multiple=True,
    default=("dual", "prefix", "none"),
    show_default=True,
    help="Repeat it; those that the model can use are measured.",
)
@click.option(
    "--batch-size", "batch_sizes", type=int, multiple=True, default=(1, 8), show_default=True, help="Repeat it."
)
@click.option("--prompt-length", default=64, show_default=True, help="Random ids before what is generated.")
@click.option("--gen-length", default=128, show_default=True, help="Positions to generate.")
@click.option("--block", default=32, show_default=True, help="Positions per block.")
@click.option("--steps", default=8, show_default=True, help="Forced steps per block.")
@click.option("--rounds", default=10, show_default=True, help="Measurements of everything, at most.")
@click.option(
    "--rule",
    type=click.Choice(("threshold", "forced")),
    default="threshold",
    show_default=True,
    help="What the race commits: whatever reaches 0.9, or an equal share in each of --steps steps.",
)
@click.option(
    "--scheduler",
    "schedulers",
    metavar="SPEC",
    multiple=True,
    shell_complete=options.names("scheduler"),
    help="Measure what its decisions cost, too; repeat it.",
)
@click.option("--budget", default=120.0, show_default=True, help="Seconds after which nothing new is begun.")
@click.option("--threads", type=int, help="CPU threads.  [default: torch's choice]")
@options.device_options
@options.format_option
@options.traceback_option
@click.pass_context
def command(ctx: click.Context, /, format: str, **given: Any) -> None:
    """Measure what a step costs and how many tokens per second it gives, and race a research-style loop.

    MODEL may be random:SHAPE, random weights of a known size: tiny, 3M, 10M, 30M, 100M, 1B or LLaDA-8B.
    """
    so_far: list[dllm_bench.Speed] = []

    def report(found: dllm_bench.Speed, name: str) -> None:
        so_far[:] = [found]
        if name:
            click.echo(f"{name} ...", err=True)

    interrupted = False
    try:
        dllm_bench.speed(**given, report=report)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        for found in so_far:
            options.show(found, format)
    if interrupted:
        click.echo("Interrupted; what was measured before is above." if so_far else "Interrupted.", err=True)
        ctx.exit(options.INTERRUPTED)
