"""What tracing costs where nobody asked for one: `python docs/benchmarks/tracing_off.py`.

Times `generate` against itself with everything about traces cut out of its source, in turn, in one process; and, for
the scale of it, with a trace. Processor time of one thread, so that a busy machine does not count; the ratio is taken
turn by turn.
"""

from __future__ import annotations

import ast
import gc
import inspect
import statistics
import time
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import click
import torch

from dllm_sdk import generate, generation, load_model, load_scheduler, load_task


class WithoutTracing(ast.NodeTransformer):
    """`generate` as if nobody had ever thought of traces: what is conditional on a recorder is gone."""

    cut = 0

    def visit_If(self, node: ast.If) -> ast.AST | None:
        """A statement for the recorder."""
        return self._without(node, None)

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST | None:
        """A value that is None without one."""
        return self._without(node, ast.Constant(None))

    def _without(self, node: ast.If | ast.IfExp, instead: ast.AST | None) -> ast.AST | None:
        if "recorder" not in ast.unparse(node) and ast.unparse(node.test) != "trace":
            return self.generic_visit(node)
        self.cut += 1
        return instead


def without_tracing(module: ModuleType) -> Callable[..., Any]:
    """The same function, from the same source, without that."""
    transformer = WithoutTracing()
    tree = ast.fix_missing_locations(transformer.visit(ast.parse(inspect.getsource(generate))))
    if transformer.cut != 3 or "Recorder" in ast.unparse(tree):
        raise click.ClickException("generate has changed: look at what is cut out of it")
    space = dict(vars(module))
    exec(compile(tree, "<generate without tracing>", "exec"), space)
    found: Callable[..., Any] = space["generate"]
    return found


@click.command()
@click.option("--turns", default=60, show_default=True)
@click.option("--task", default="sort", show_default=True)
@click.option("--scheduler", default="fixed-block", show_default=True)
def main(turns: int, task: str, scheduler: str) -> None:
    """Time one prompt, one row, as often as asked for."""
    torch.set_num_threads(1)
    model, questions = load_model("tiny"), load_task(task)
    asked = (model, questions.prompts("test", 1, seed=0), load_scheduler(scheduler))
    calls = {
        "cut out": partial(without_tracing(generation), *asked, gen_length=questions.gen_length),
        "off": partial(generate, *asked, gen_length=questions.gen_length),
        "on": partial(generate, *asked, gen_length=questions.gen_length, trace=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    gc.disable()
    for turn in range(turns + 2):
        for name in sorted(calls, reverse=bool(turn % 2)):  # whoever goes first changes
            start = time.process_time()
            passes = calls[name]().nfe[0]
            if turn > 1:
                seconds[name].append(time.process_time() - start)
        gc.collect()
    click.echo(f"{passes} forward passes, {turns} turns, milliseconds of processor time: median [quartiles]")
    for name, values in seconds.items():
        ratios = [value / base for value, base in zip(values, seconds["cut out"], strict=True)]
        click.echo(f"{name:8} {shown(values, 1000, 1)}   ratio to cut out {shown(ratios, 1, 4)}")


def shown(values: list[float], scale: float, digits: int) -> str:
    """As in "12.0 [11.8, 12.3]"."""
    low, middle, high = (f"{scale * value:.{digits}f}" for value in statistics.quantiles(values, n=4))
    return f"{middle} [{low}, {high}]"


if __name__ == "__main__":
    main()
