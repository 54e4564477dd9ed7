"""`dllm-bench trace`: one generation, step by step."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

import dllm_bench
from dllm_bench.commands import options
from dllm_sdk.writing import try_to_write

_SUFFIXES = {".html": "html", ".txt": "text", ".json": "json", ".safetensors": "safetensors"}


@click.command("trace")
@click.argument("files", metavar="[FILE]...", nargs=-1)
@options.model_option
@options.schedulers_option("Give it twice to see two side by side.  [default: adablock]")
@click.option(
    "--task",
    metavar="NAME|FILE.jsonl|FILE.py:NAME",
    default="story",
    show_default=True,
    shell_complete=options.names("task"),
    help="Where the prompt comes from.",
)
@click.option("--number", default=0, show_default=True, help="Which prompt of the task, as in results.jsonl.")
@click.option("--prompt", metavar="TEXT", help="A prompt of your own instead.")
@options.cache_option("", default="none", show_default=True)
@click.option("--gen-length", type=int, help="Positions to generate.  [default: the task's own, 64 for --prompt]")
@options.running_options
@click.option("--output", metavar="FILE", help="Write it there: FILE.html, .txt, .json or .safetensors.")
@click.option("--format", type=click.Choice(list(_SUFFIXES.values())), help="[default: as FILE is called, else text]")
@options.traceback_option
@click.pass_context
def command(ctx: click.Context, /, files: tuple[str, ...], output: str | None, format: str | None, **run: Any) -> None:
    """Decode one prompt and show every step: blocks, order, confidence, commits.

    --output FILE.html makes a page to step through, FILE.safetensors a trace that can be shown again: give it as FILE.
    """
    kind = format or ("text" if output is None else _SUFFIXES.get(Path(output).suffix))
    given = options.given(ctx, run)
    if kind is None:
        raise click.UsageError(
            f"--output {output} says no format: end it in {', '.join(_SUFFIXES)} or give --format", ctx
        )
    if kind == "safetensors" and output is None:
        raise click.UsageError("--format safetensors needs --output FILE", ctx)
    if files and given:
        raise click.UsageError(f"a saved trace takes no {next(iter(given.values()))}: nothing is run", ctx)
    if "task" in given and "prompt" in given:
        raise click.UsageError("--task and --prompt both name a prompt: give one of them", ctx)
    if "number" in given and "prompt" in given:
        raise click.UsageError("--number is for a prompt of --task: give --prompt or --number, not both", ctx)
    if output is not None:
        try_to_write(output)
    traces = dllm_bench.Traces.read(*files) if files else dllm_bench.trace(**options.filled(run))
    if output is not None:
        traces.write(output, kind)
        click.echo(output, err=True)
        return
    text = traces.to_text(_by_confidence) if kind == "text" else traces.to(kind)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    click.echo(text.encode(encoding, "backslashreplace").decode(encoding))  # a ? would be read as a mark


def _by_confidence(text: str, confidence: float) -> str:
    return click.style(text, fg="green" if confidence >= 0.9 else "yellow" if confidence >= 0.5 else "red")
