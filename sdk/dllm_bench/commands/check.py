"""`dllm-bench check`: does a scheduler keep the protocol?"""

from __future__ import annotations

import textwrap
from tempfile import TemporaryDirectory

import click

import dllm_bench
from dllm_bench.commands import options
from dllm_bench.sheet import counted


@click.command("check")
@click.argument("spec", shell_complete=options.names("scheduler"))
@click.option("--examples", default=50, show_default=True, help="Random cases to try.")
@click.option("--seed", default=0, show_default=True, help="The same seed tries the same cases.")
@options.traceback_option
@click.pass_context
def command(ctx: click.Context, spec: str, examples: int, seed: int) -> None:
    """Check that a scheduler keeps the protocol, on random models, prompts and batches.

    SPEC is NAME, MODULE:CLASS, FILE.py:CLASS or @FILE.toml, then :field=value,...
    """
    from hypothesis.configuration import set_hypothesis_home_dir

    from dllm_sdk.testing import PROPERTIES

    with TemporaryDirectory() as folder:
        set_hypothesis_home_dir(folder)  # or it would leave .hypothesis/ where the command is run
        try:
            report = dllm_bench.check(spec, examples=examples, seed=seed)
        finally:
            set_hypothesis_home_dir(None)
    width = max(map(len, report.passed), default=0)
    click.echo(f"{report.scheduler}\n")
    for name in report.passed:
        head = f"  ok  {name:<{width}}  "
        click.echo(
            textwrap.fill(PROPERTIES.get(name, ""), 100, initial_indent=head, subsequent_indent=" " * len(head)) or head
        )
    click.echo(f"\n{len(report.passed)} properties hold on {counted(report.examples, 'random case')} (seed {seed}).")
    if report.obstacle is None:
        click.echo("It can be compiled and captured.")
    else:
        click.echo(f"With --backend compile or graph its decisions run as they are written: {report.obstacle}.")
    for note in report.oversights:
        click.echo(f"Note: {note}.")
