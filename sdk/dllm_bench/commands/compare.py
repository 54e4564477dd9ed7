"""`dllm-bench compare`: several schedulers on the same prompts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

import dllm_bench
from dllm_bench.commands import options
from dllm_bench.journal import Unwritable
from dllm_bench.progress import Meter
from dllm_bench.sheet import counted


@click.command("compare")
@options.model_option
@options.schedulers_option(
    "A row of the table; repeat it. The others are measured against the first. "
    "Default: fixed-block, confidence-adaptive, adablock."
)
@options.tasks_option('A FILE.jsonl has {"prompt": ..., "answer": ...} per line, the answer if there is one. ')
@options.cache_option("; repeat it to see how far each drifts from the first. Default: none", "caches", multiple=True)
@options.limit_option()
@options.batch_size_option
@click.option(
    "--gen-length", type=int, help="Positions to generate per prompt.  [default: the task's own, 64 for a file]"
)
@options.running_options
@options.backend_option
@click.option(
    "--output",
    metavar="FOLDER",
    help="Write there report.html, and results.jsonl with one line per prompt and scheduler.",
)
@options.format_option
@options.traceback_option
@click.pass_context
def command(ctx: click.Context, /, output: str | None, format: str, **given: Any) -> None:
    """Decode the same prompts with several schedulers; compare accuracy, forward passes and speed."""
    meter = Meter(sys.stderr)
    try:
        comparison = dllm_bench.compare(**options.filled(given), output=output, progress=meter)
    except KeyboardInterrupt:
        meter.clear()
        click.echo(_kept("Interrupted", meter, output), err=True)
        ctx.exit(options.INTERRUPTED)
    except Exception as error:
        meter.clear()
        if meter.done and not isinstance(error, Unwritable):  # which says so itself
            click.echo(_kept("Failed", meter, output), err=True)
        raise
    options.show(comparison, format)
    if output:
        folder = Path(output)
        click.echo(f"\nReport: {folder / 'report.html'}; prompt by prompt: {folder / 'results.jsonl'}", err=True)


def _kept(what: str, meter: Meter, output: str | None) -> str:
    """How far the run came, and where that is."""
    if not meter.done:
        return f"{what} before anything was measured."
    kept = f"they are in {Path(output) / 'results.jsonl'}" if output else "--output FOLDER would have kept them"
    return f"{what} after {meter.done} of {counted(meter.total, 'generation')}; {kept}."
