"""`dllm-bench sweep`: a grid of configurations, resumable after a kill."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click

import dllm_bench
from dllm_bench.commands import options
from dllm_bench.explain import FAILED_RUN
from dllm_bench.grids import axes
from dllm_bench.sheet import counted
from dllm_bench.sweeps.board import Board


@click.command("sweep")
@click.argument("source", metavar="[FILE.toml|FOLDER]", required=False)
@options.model_option
@options.schedulers_option("Repeat it for several; each is taken at every point of the grid.")
@click.option(
    "--grid",
    metavar="FIELD=VALUE,...",
    multiple=True,
    help="The values of a scheduler's field, in TOML; repeat it for other fields.",
)
@options.tasks_option("")
@options.cache_option("; repeat it for several. Default: none", "caches", multiple=True)
@options.limit_option()
@options.batch_size_option
@click.option("--gen-length", type=int, help="Positions to generate per prompt.  [default: the task's own]")
@options.running_options
@options.backend_option
@click.option(
    "--engine",
    type=click.Choice(["serial", "process", "ray"]),
    default="serial",
    show_default=True,
    help="Ray takes the cluster at RAY_ADDRESS, which must be one you trust.",
)
@click.option(
    "--jobs",
    "-j",
    type=int,
    help="Configurations at the same time.  [default: one per processor, or one on a GPU]",
)
@click.option("--retry-failed", is_flag=True, help="Measure what failed before once more.")
@click.option("--output", metavar="FOLDER", help="Where sweep.jsonl is kept, and gone on with.")
@options.format_option
@options.traceback_option
@click.pass_context
def command(ctx: click.Context, /, source: str | None, format: str, **options_: Any) -> None:
    """Measure every scheduler at every point of a grid, and keep each result at once.

    The same command goes on where an interrupt or a kill ended it. FILE.toml holds the options' words (scheduler, grid,
    cache, task, limit, ...); an option on the command line overrules it. FOLDER shows the sweep in it once more.
    """
    given = options.given(ctx, options_)
    if source is not None and not source.endswith(".toml"):
        if given:
            raise click.UsageError(f"a finished sweep takes no {next(iter(given.values()))}: nothing is run", ctx)
        options.show(dllm_bench.read_sweep(source), format)
        return
    words = _words(source, options_, given)
    if not words.get("schedulers"):
        raise click.UsageError("there is no scheduler to sweep: give --scheduler SPEC, or a FILE.toml", ctx)
    if not words.get("output"):
        raise click.UsageError("a sweep keeps its results in a folder: give --output FOLDER", ctx)
    _run(ctx, words, format)


def _words(source: str | None, options_: dict[str, Any], given: Iterable[str]) -> dict[str, Any]:
    """The arguments of `sweep`: the command line's, else the file's, else the defaults."""
    from dllm_bench.sweeps.grid import from_file

    plain = options.filled(options_ | {"grid": axes(options_["grid"])})
    read = from_file(Path(source)) if source is not None else {}
    return {**plain, **read, **{name: plain[name] for name in given}}


def _run(ctx: click.Context, words: dict[str, Any], format: str) -> None:
    board, file = Board(sys.stderr), Path(words["output"]) / "sweep.jsonl"
    try:
        with redirect_stdout(sys.stderr):  # Ray prints there what became of its workers
            found = dllm_bench.sweep(words.pop("schedulers"), progress=board, **words)
    except KeyboardInterrupt:
        board.clear()
        click.echo(f"Interrupted {_after(board)}; the same command goes on from {file}.", err=True)
        ctx.exit(options.INTERRUPTED)
    except Exception:
        board.clear()
        raise
    options.show(found, format)
    if found.failed:
        all_ = len(found.failed) + len(found.rows)
        name, sentence = next(iter(found.failed.items()))
        click.echo(
            f"Error: {len(found.failed)} of {counted(all_, 'configuration')} failed, the first is "
            f"{name}: {sentence} (--retry-failed measures them once more)",
            err=True,
        )
        ctx.exit(FAILED_RUN)


def _after(board: Board) -> str:
    done = f"after {board.done} of {counted(board.total, 'configuration')}"
    return done if board.total else "before anything was measured"
