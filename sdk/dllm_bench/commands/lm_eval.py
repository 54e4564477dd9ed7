"""`dllm-bench lm-eval`: tasks of lm-evaluation-harness with any scheduler."""

from __future__ import annotations

import os
from typing import Any

import click

import dllm_bench
from dllm_bench.commands import options
from dllm_sdk.writing import try_to_write, write_whole


@click.command("lm-eval")
@options.model_option
@options.scheduler_option("How it is decoded.")
@click.option(
    "--tasks",
    metavar="NAME|FILE.yaml,...",
    multiple=True,
    required=True,
    help="Tasks that generate text, by the harness' names or as files; commas between them, or repeat it.",
)
@options.cache_option("", default="none", show_default=True)
@click.option("--limit", type=int, help="Documents per task.  [default: all]")
@click.option("--num-fewshot", type=int, help="Examples in the prompt.  [default: as the task says]")
@click.option(
    "--gen-length", type=int, help="Positions to generate.  [default: the task's max_gen_toks, 256 where it has none]"
)
@click.option(
    "--chat",
    metavar="tokenizer|MODULE:FUNCTION",
    help="Apply a chat template: a function from messages to a prompt, or the tokenizer's own, if it has one.",
)
@options.batch_size_option
@click.option("--seed", default=0, show_default=True, help="Of sampling, where a task samples.")
@options.device_options
@click.option("--offline", is_flag=True, help="Ask the network for nothing: data sets from files and caches only.")
@click.option(
    "--confirm-run-unsafe-code", is_flag=True, help="Let tasks such as humaneval run the code they are given."
)
@click.option("--output", metavar="FILE.json", help="Write all that the harness reports there, samples with their NFE.")
@options.format_option
@options.traceback_option
def command(tasks: tuple[str, ...], offline: bool, output: str | None, format: str, **given: Any) -> None:
    """Run tasks of EleutherAI's lm-evaluation-harness with a scheduler; NFE and TPF beside their metrics.

    Needs the extra `lm-eval`. Tasks of multiple choice and perplexity ask for likelihoods and are refused.
    """
    if output is not None:
        try_to_write(output)
    if offline:  # read by the harness' libraries when they are imported
        os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_EVALUATE_OFFLINE="1")
    names = [name.strip() for names in tasks for name in names.split(",") if name.strip()]
    found = dllm_bench.evaluate(tasks=names, **given)
    options.show(found, format)
    if output is not None:
        write_whole(output, found.to_json() + "\n")
        click.echo(f"\nEverything that the harness reports: {output}", err=True)
