"""`dllm-bench list`: what is installed."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

import dllm_bench
from dllm_bench.commands import options
from dllm_bench.listing import listing


@click.command("list")
@click.option("--long", is_flag=True, help="Import each one: what it is, its paper, its fields, or why it is broken.")
@click.option("--format", type=click.Choice(["table", "json"]), default="table", show_default=True)
@options.traceback_option
def command(long: bool, format: str) -> None:
    """Schedulers, models, tasks and caches: what is installed, ours and others'."""
    plugins = dllm_bench.available(long=long)
    found = json.dumps([asdict(one) for one in plugins], indent=2, ensure_ascii=False)
    click.echo(found if format == "json" else listing(plugins))
