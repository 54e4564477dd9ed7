"""What several commands share: their options, and how a result becomes text. Imports no torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from dllm_bench.results import FORMATS, Result
from dllm_sdk.registry import CACHES, Kind, available

INTERRUPTED = 130  # exit code
TRACEBACK = "dllm_bench.traceback"  # in a context's meta: whether to show one

F = TypeVar("F", bound=Callable[..., Any])
Complete = Callable[[click.Context, click.Parameter, str], list[str]]


def _show_traceback(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[TRACEBACK] = True  # shared by the group and its commands


traceback_option = click.option(
    "--traceback",
    is_flag=True,
    expose_value=False,
    callback=_show_traceback,
    help="Show the whole traceback of an error.",
)
"""Before or after the name of the command."""


def names(kind: Kind) -> Complete:
    """What the shell may complete: names from metadata."""
    return _starting(lambda: available(kind))


def _starting(found: Callable[[], Iterable[str]]) -> Complete:
    return lambda ctx, param, typed: [name for name in found() if name.startswith(typed)]


model_option = click.option(
    "--model",
    default="tiny",
    show_default=True,
    metavar="MODEL",
    shell_complete=names("model"),
    help="NAME, NAME:PATH, MODULE:FUNCTION or FILE.py:FUNCTION.",
)


def schedulers_option(help: str) -> Callable[[F], F]:
    """--scheduler, which may be repeated, as `schedulers`."""
    return click.option(
        "--scheduler", "schedulers", metavar="SPEC", multiple=True, shell_complete=names("scheduler"), help=help
    )


def scheduler_option(help: str, flag: str = "--scheduler", default: str = "adablock") -> Callable[[F], F]:
    """One scheduler, by default `default`."""
    return click.option(
        flag, metavar="SPEC", default=default, show_default=True, shell_complete=names("scheduler"), help=help
    )


def tasks_option(help: str) -> Callable[[F], F]:
    """--task, which may be repeated, as `tasks`."""
    return click.option(
        "--task",
        "tasks",
        metavar="NAME|FILE.jsonl|FILE.py:NAME",
        multiple=True,
        shell_complete=names("task"),
        help=f"Repeat it for several. {help}Default: every registered task.",
    )


def cache_option(help: str, *names: str, **extra: Any) -> Callable[[F], F]:
    """--cache; `names` and `extra` as click has them."""
    return click.option(
        "--cache",
        *names,
        metavar="CACHE",
        shell_complete=_starting(lambda: CACHES),
        help=f"none, prefix, dual or block, then :refresh_every=n,suffix=false if any{help}.",
        **extra,
    )


def limit_option(more: str = "") -> Callable[[F], F]:
    """--limit"""
    return click.option("--limit", default=200, show_default=True, help=f"Prompts in all tasks together{more}.")


batch_size_option = click.option("--batch-size", default=32, show_default=True, help="Prompts decoded together.")
_device = click.option("--device", default="cpu", show_default=True, help="As torch names it: cpu, cuda, cuda:1.")
_dtype = click.option("--dtype", help="float32, bfloat16, ...  [default: the model's own]")
_seed = click.option("--seed", default=0, show_default=True, help="Of the prompts and of sampling.")
_temperature = click.option("--temperature", default=0.0, show_default=True, help="0 takes the likeliest token.")


def device_options(command: F) -> F:
    """--device, --dtype"""
    return _device(_dtype(command))


def running_options(command: F) -> F:
    """How a model is run: --seed, --temperature, --device, --dtype."""
    return _seed(_temperature(device_options(command)))


backend_option = click.option(
    "--backend",
    type=click.Choice(("eager", "compile", "graph")),
    default="eager",
    show_default=True,
    help="How a step is run; graph needs a GPU. The tokens are the same.",
)
format_option = click.option("--format", type=click.Choice(FORMATS), default="table", show_default=True)


def given(ctx: click.Context, names: Iterable[str]) -> dict[str, str]:
    """Those of the parameters that stand on the command line, with how they are spelled there."""
    spelled = {str(one.name): one.opts[0] for one in ctx.command.params}
    return {name: spelled[name] for name in names if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}


def filled(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those options that say something: for lists that are empty the defaults of the public function hold."""
    return {name: value for name, value in values.items() if value not in ((), {})}


def show(found: Result, format: Any) -> None:
    """A result on stdout; its notes on stderr where the form is one of rows alone."""
    click.echo(_as_text(found, format))
    for note in found.notes if format in ("csv", "jsonl") else ():
        click.echo(note, err=True)


def _as_text(found: Result, format: Any) -> str:
    """Tables have rules and styles that the terminal can show."""
    if format != "table":
        return found.to(format)
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    rule = "─" if encoding.lower().startswith("utf") else "-"
    return found.to(
        "table",
        heading=lambda text: click.style(text, bold=True),  # echo strips styles where there is no terminal
        note=lambda text: click.style(text, dim=True),
        rule=rule,
    )
