"""The `dllm-bench` command: the group, and how every error becomes a sentence. The commands lie in `commands/`.

Nothing here imports torch before a command needs it. Exit codes: 0 done, 1 the run failed, 2 wrong usage or bad input,
130 interrupted. Results go to stdout, progress and errors to stderr; an error is one sentence.
"""

from __future__ import annotations

import errno
import importlib
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import click

import dllm_sdk
from dllm_bench.commands.options import INTERRUPTED, TRACEBACK, traceback_option
from dllm_bench.explain import exit_code, explain
from dllm_bench.memory import keep_freed_memory
from dllm_sdk.errors import CalibrationWarning

COMMANDS = ("calibrate", "check", "compare", "diff", "list", "lm-eval", "speed", "sweep", "trace")
"""Each a module in commands/ with an object `command`."""


class Bench(click.Group):
    """A group whose every error is a sentence and an exit code."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """As click's, but wrong usage is one line, and plug-ins may lie in the current directory."""
        if "" not in sys.path:
            sys.path.append("")  # last, so that a local file never hides an installed package
        run: Callable[..., Any] = super().main
        if not extra.pop("standalone_mode", True):
            return run(*args, standalone_mode=False, **extra)
        try:
            code = run(*args, standalone_mode=False, **extra)
        except click.ClickException as error:
            context = getattr(error, "ctx", None)
            hint = f" (see {context.command_path} --help)" if context is not None else ""
            text = " ".join(error.format_message().split()).rstrip(".")
            repeated = context is not None and any(getattr(one, "multiple", False) for one in context.command.params)
            if repeated and "unexpected extra argument" in text:  # --scheduler a b
                hint = f": an option takes one value, repeat it for the next{hint}"
            click.echo(f"Error: {text}{hint}", err=True)
            sys.exit(error.exit_code)
        except click.Abort:
            sys.exit(INTERRUPTED)
        except OSError as error:  # of --help and --version, which print before a command is invoked: a full disk
            click.echo(explain(error), err=True)
            sys.exit(exit_code(error))
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn what it raises, or warns of, into what a user reads."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("default", CalibrationWarning)
                warnings.showwarning = _show_warning  # type: ignore[assignment]
                return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(INTERRUPTED)
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # the reader of a pipe went away, which click ends quietly
            _fail(ctx, error)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """A command by name, imported when it is asked for."""
        if name not in COMMANDS:
            return None
        found: click.Command = importlib.import_module(f"dllm_bench.commands.{name.replace('-', '_')}").command
        return found


def _show_warning(message: Warning | str, category: type[Warning], *where: Any) -> None:
    if issubclass(category, CalibrationWarning):
        click.echo(f"Warning: {message}", err=True)
    else:
        click.echo(warnings.formatwarning(message, category, *where[:2]), err=True, nl=False)


def _fail(ctx: click.Context, error: Exception) -> NoReturn:
    if ctx.meta.get(TRACEBACK):
        click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
    click.echo(explain(error), err=True)
    ctx.exit(exit_code(error))


@click.group(cls=Bench, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(dllm_sdk.__version__, prog_name="dllm-bench", message="%(prog)s %(version)s")
@traceback_option
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Compare and check decoding strategies of masked-diffusion language models.

    \b
    dllm-bench compare                          three strategies on the model in the box
    dllm-bench compare --scheduler ./mine.py:Mine --scheduler adablock:threshold=0.8
    dllm-bench check ./mine.py:Mine             does my strategy keep the protocol?
    dllm-bench sweep FILE.toml --output FOLDER  a grid of settings, resumable after a kill
    dllm-bench calibrate --output fast.toml     thresholds for this model and task, as --scheduler @fast.toml
    dllm-bench lm-eval --tasks gsm8k            a task of lm-evaluation-harness with any scheduler
    dllm-bench diff before/ after/              is any row worse than it was?
    dllm-bench trace --output trace.html        one generation, to step through
    dllm-bench speed --model random:10M         what a step costs, against a research-style loop
    dllm-bench list --long                      what is there, with its fields and papers

    A SPEC is NAME, MODULE:CLASS, FILE.py:CLASS or @FILE.toml, then :field=value,... if any; PLAN_SPEC+SELECT_SPEC
    combines the blocks of one scheduler with the commits of another.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> None:
    """The entry point of the `dllm-bench` command."""
    keep_freed_memory()  # the process is ours here; a caller of the functions decides for theirs
    cli()
