"""`dllm-bench compare`: several schedulers on the same prompts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from dllm_bench.commands import options
from dllm_bench.journal import Unwritable
from dllm_bench.progress import Meter
from dllm_bench.results import Comparison
from dllm_bench.sheet import counted


@click.command("compare")
@options.model_option
@options.schedulers_option(
    "A row of the table; repeat it. The others are measured against the first. "
    "Default: fixed-block, confidence-adaptive, adablock."
)
@options.tasks_option('A FILE.jsonl has {"prompt": ..., "answer": ...} per line, the answer if there is one. ')
@options.cache_option("; repeat it to see how far each drifts from the first. Default: none", "caches", multiple=True)
@click.option("--limit", default=200, show_default=True, help="Prompts in all tasks together.")
@click.option("--batch-size", default=32, show_default=True, help="Prompts decoded together.")
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
def command(
    ctx: click.Context,
    /,
    schedulers: tuple[str, ...],
    tasks: tuple[str, ...],
    caches: tuple[str, ...],
    format: str,
    **given: Any,
) -> None:
    """Decode the same prompts with several schedulers; compare accuracy, forward passes and speed."""
    meter = Meter(sys.stderr)
    try:
        comparison = _compare(schedulers, tasks, caches=caches or ("none",), progress=meter, **given)
    except KeyboardInterrupt:
        meter.clear()
        click.echo(_kept("Interrupted", meter, given["output"]), err=True)
        ctx.exit(options.INTERRUPTED)
    except Exception as error:
        meter.clear()
        if meter.done and not isinstance(error, Unwritable):  # which says so itself
            click.echo(_kept("Failed", meter, given["output"]), err=True)
        raise
    click.echo(options.as_text(comparison, format))
    if given["output"]:
        folder = Path(given["output"])
        click.echo(f"\nReport: {folder / 'report.html'}; prompt by prompt: {folder / 'results.jsonl'}", err=True)


def _compare(schedulers: tuple[str, ...], tasks: tuple[str, ...], **options: Any) -> Comparison:
    from dllm_bench.comparison import DEFAULT_SCHEDULERS
    from dllm_bench.comparison import compare as run
    from dllm_bench.environment import keep_freed_memory

    keep_freed_memory()  # the process is ours here; a caller of the function decides for theirs
    return run(schedulers=schedulers or DEFAULT_SCHEDULERS, tasks=tasks or None, **options)


def _kept(what: str, meter: Meter, output: str | None) -> str:
    """How far the run came, and where that is."""
    if not meter.done:
        return f"{what} before anything was measured."
    kept = f"they are in {Path(output) / 'results.jsonl'}" if output else "--output FOLDER would have kept them"
    return f"{what} after {meter.done} of {counted(meter.total, 'generation')}; {kept}."
