"""What the site takes from the code when it is built: the hook of mkdocs that fills pages in.

A page asks with `<!-- generate: NAME -->` or `<!-- generate: NAME MODULE -->` on a line of its own, and gets the text
of the function that GENERATORS has under that name. `trace.html` is a page by itself, and so is every model card. Knows
the packages by what they say of themselves: the registry, the command line, the tree of errors. Needs the extra `docs`.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from functools import cache
from itertools import cycle
from pkgutil import iter_modules

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from dllm_bench import Plugin, Traces, available, trace
from dllm_bench.cli import cli
from dllm_reference_model import tasks
from dllm_reference_model.load import WEIGHTS
from dllm_sdk import errors

TRACE = "trace.html"
_MARK = re.compile(r"^<!-- generate: (\w+)(?: ([\w.]+))? -->$", re.MULTILINE)
_STACKED = re.compile(r'<div class="stacked">.*?</div>', re.DOTALL)
_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page with the trace, and the cards of the models in the box with their pictures."""
    files.append(File.generated(config, TRACE, content=recorded().to_html()))
    for card in sorted(WEIGHTS.parent.glob("*/README.md")):
        for part in (card, *sorted(card.parent.glob("*.svg"))):
            files.append(File.generated(config, f"models/{card.parent.name}/{part.name}", abs_src_path=str(part)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in what a page asks for."""
    return _MARK.sub(lambda mark: generate(*filter(None, mark.groups())), markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Give each cell of a table that is stacked on a phone the head of its column, which is not shown there."""
    return _STACKED.sub(lambda table: _labelled(table.group()), html)


def _labelled(table: str) -> str:
    heads = cycle(re.findall(r"<th[^>]*>(.*?)</th>", table))
    return re.sub(r"<td(?=[ >])", lambda _: f'<td data-label="{next(heads)}"', table)


def generate(name: str, *module: str) -> str:
    """The text behind a name, from the code."""
    if name not in GENERATORS:
        raise PluginError(f"there is nothing to generate under {name!r}; there is: {', '.join(GENERATORS)}")
    return GENERATORS[name](*module)


@cache
def recorded() -> Traces:
    """The trace of the first page: equal blocks against blocks that follow the text."""
    return trace(schedulers=["threshold:block=8", "adablock"], task="story")


def trace_text() -> str:
    """The same as text, for a reader without JavaScript."""
    return f"```text\n{recorded().to_text()}\n```"


def strategies() -> str:
    """A table of the registry's schedulers."""
    rows = [_row(plugin) for plugin in available(long=True) if plugin.kind == "scheduler"]
    head = ["| name | what it does | needs | state | fields |", "| --- | --- | --- | --- | --- |"]
    return "\n".join(['<div class="stacked" markdown>', "", *head, *rows, "", "</div>"])


def _row(plugin: Plugin) -> str:
    if plugin.error:
        raise PluginError(f"{plugin.name}: {plugin.error}")
    needs, maybe = (", ".join(f"`{need}`" for need in found or ()) for found in (plugin.needs, plugin.may_need))
    cells = [
        f"[`{plugin.name}`][{plugin.target.replace(':', '.')}]",
        linked(f"{plugin.summary} {', '.join(plugin.papers)}"),
        "; ".join(filter(None, [needs, maybe and f"with other fields {maybe}"])),
        plugin.state if plugin.state and plugin.state != "none" else "",
        "<br>".join(f"`{name}={value}`" for name, value in (plugin.fields or {}).items()),
    ]
    return f"| {' | '.join(map(_in_cell, cells))} |"


def _in_cell(text: str) -> str:
    """With the bars that would end the cell escaped; in code they end none, and a backslash would be shown."""
    return re.sub(r"(`[^`]*`)|(?<!\\)\|", lambda found: found[1] or r"\|", text)


def linked(text: str) -> str:
    """arXiv numbers as links."""
    return _ARXIV.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def commands() -> str:
    """The command line: the group, then each command, as click knows them."""
    group = click.Context(cli, info_name="dllm-bench", **cli.context_settings)
    found = [(name, cli.get_command(group, name)) for name in cli.list_commands(group)]
    parts = [_command(cli, group)]
    parts += [_command(one, click.Context(one, info_name=name, parent=group)) for name, one in found if one is not None]
    return "\n\n".join(parts)


def _command(command: click.Command, context: click.Context) -> str:
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    options = [item for item in command.get_params(context) if isinstance(item, click.Option)]
    records = [record for item in options if (record := item.get_help_record(context))]
    rows = [f"| `{names}` | {_in_cell(said)} |" for names, said in records]
    usage = f"```text\n{context.command_path} {' '.join(command.collect_usage_pieces(context))}\n```"
    table = "\n".join(["| option | meaning |", "| --- | --- |", *rows])
    return "\n\n".join([f"## {context.command_path}", *map(_paragraph, paragraphs), usage, table])


def _paragraph(text: str) -> str:
    """Click keeps the lines of a paragraph that starts with \\b as they are: examples."""
    kept = text.removeprefix("\b\n")
    return text if kept == text else f"```text\n{kept}\n```"


def error_tree() -> str:
    """Every error, as its module draws the tree, and what each means."""
    tree = inspect.cleandoc(errors.__doc__ or "").partition("\n\n")[2]
    return f"```text\n{tree}\n```"


def questions() -> str:
    """Every task, with the example that its module is headed by."""
    return "\n\n".join(map(_question, tasks.ALL))


def _question(task: tasks.Task) -> str:
    said, _, example = inspect.cleandoc(inspect.getmodule(task).__doc__ or "").partition("\n\n")
    lengths = ", ".join(map(str, task.LENGTHS))
    text = said.removeprefix(f"Task `{task.name}`: ")
    about = f"{text[0].upper()}{text[1:]} Generation lengths by level: {lengths}."
    return f"### {task.name}\n\n{about}\n\n```text\n{example}\n```"


def names(module: str) -> str:
    """mkdocstrings' directives for what a module adds to the public names of its package."""
    package, _, home = module.partition(".")
    homes: dict[str, list[str]] = vars(importlib.import_module(package))["_HOMES"]
    return "\n\n".join(f"::: {package}.{name}" for name in homes[home])


def modules(package: str) -> str:
    """mkdocstrings' directives for every module of a package."""
    found = importlib.import_module(package)
    return "\n\n".join(f"::: {package}.{one.name}" for one in iter_modules(found.__path__))


GENERATORS: dict[str, Callable[..., str]] = {
    "trace": trace_text,
    "strategies": strategies,
    "commands": commands,
    "errors": error_tree,
    "questions": questions,
    "names": names,
    "modules": modules,
}
